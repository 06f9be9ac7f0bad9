"""Neural networks that come with Tandem; `build_model` makes one by name."""

from common.models.registry import build_model

__all__ = ["build_model"]
