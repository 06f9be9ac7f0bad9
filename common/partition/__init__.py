"""Any model, any cut: `trace` a model, look at its cut points, take the head and the tail of one."""

from common.partition.trace import trace

__all__ = ["trace"]
