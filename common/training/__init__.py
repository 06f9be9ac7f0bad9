"""Split training: the pure workers (`Head`, `Tail`), the schedule, and what carries their messages.

`Head` and `Tail` are loaded when they are first asked for, so that the schedule and the session rules, which
are pure, can be used without importing torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.training.head import Head
    from common.training.tail import Tail

__all__ = ["Head", "Tail"]


def __getattr__(name: str) -> Any:
    if name == "Head":
        from common.training.head import Head  # noqa: PLC0415

        return Head
    if name == "Tail":
        from common.training.tail import Tail  # noqa: PLC0415

        return Tail
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
