"""Neural networks by name: Tandem's own, those of installed libraries, and a user's; `build_model` makes one."""

from common.models.registry import build_model

__all__ = ["build_model"]
