"""Words of error messages: names that a user may have meant, and texts that a peer had a hand in."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, and all of them."""
    spelled = {each.lower(): each for each in known}
    match = get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean {spelled[match[0]]}? " if match else ""
    return f"{hint}Known: {', '.join(spelled.values())}"


def printable(text: str, limit: int = 2000) -> str:
    """A text that a peer had a hand in, as it may be shown: nothing in it steers a terminal or begins a line."""
    return "".join(each if each.isprintable() else " " for each in text[:limit])


def letter(party: int) -> str:
    """What a party is called: A, B, ..., and numbers from 27 on."""
    return chr(ord("A") + party) if party < 26 else str(party + 1)
