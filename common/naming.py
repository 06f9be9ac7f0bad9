"""Names that a user may have meant, for error messages."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, and all of them."""
    spelled = {each.lower(): each for each in known}
    match = get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean {spelled[match[0]]}? " if match else ""
    return f"{hint}Known: {', '.join(spelled.values())}"
