"""The named links of the experiments, and links given as numbers."""

import math
from dataclasses import dataclass

from common.errors import UsageError
from common.naming import nearest

FORM = "UP/DOWN/RTT[/JITTER] in Mbit/s and ms, such as 20/20/40/5"


@dataclass(frozen=True)
class LinkContext:
    """What a link between edge and cloud can carry; 1 Mbit is 1e6 bits."""

    name: str
    """How the link is called in flags and records."""
    up_mbps: float
    """Rate from the edge to the cloud."""
    down_mbps: float
    """Rate from the cloud to the edge."""
    rtt_ms: float
    """Round-trip time of an empty message on the idle link; each direction takes half."""
    jitter_ms: float = 0.0
    """Largest additional delay of a packet, in each direction."""

    @property
    def up_bps(self) -> float:
        """Rate from the edge to the cloud, in bit/s."""
        return self.up_mbps * 1e6

    @property
    def down_bps(self) -> float:
        """Rate from the cloud to the edge, in bit/s."""
        return self.down_mbps * 1e6

    @property
    def delay_s(self) -> float:
        """Delay of one direction without jitter, in seconds."""
        return self.rtt_ms / 2e3

    @property
    def jitter_s(self) -> float:
        """Largest additional delay of one direction, in seconds."""
        return self.jitter_ms / 1e3

    def __str__(self) -> str:
        text = f"up {self.up_mbps:g} Mbit/s, down {self.down_mbps:g} Mbit/s, RTT {self.rtt_ms:g} ms"
        return f"{text}, jitter {self.jitter_ms:g} ms" if self.jitter_ms else text


CONTEXTS = {
    context.name: context
    for context in (
        LinkContext("iot", 2, 8, 60),
        LinkContext("4g", 10, 25, 50),
        LinkContext("4g+", 20, 40, 40),
        LinkContext("wifi", 50, 100, 10),
        LinkContext("5g", 60, 300, 20),
        LinkContext("wired", 100, 100, 5),
    )
}


def parse_context(text: str) -> LinkContext:
    """The link that `text` names, or describes as UP/DOWN/RTT[/JITTER].

    Raises:
        UsageError: `text` is neither.
    """
    named = CONTEXTS.get(text.lower())
    if named is not None:
        return named
    return _parse_numbers(text) if "/" in text else _refuse_name(text)


def _refuse_name(text: str) -> LinkContext:
    raise UsageError(f"there is no link '{text}'; {nearest(text, CONTEXTS)}, or {FORM}")


def _parse_numbers(text: str) -> LinkContext:
    fields = text.split("/")
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        raise UsageError(f"link '{text}' holds something that is no number; the form is {FORM}") from None
    if len(numbers) not in (3, 4):
        raise UsageError(f"link '{text}' has {len(numbers)} numbers, not 3 or 4; the form is {FORM}")
    up_mbps, down_mbps, *delays_ms = numbers
    if not all(map(math.isfinite, numbers)) or min(up_mbps, down_mbps) <= 0 or min(delays_ms) < 0:
        raise UsageError(f"link '{text}' needs rates above 0 and delays of at least 0; the form is {FORM}")
    return LinkContext(text, up_mbps, down_mbps, *delays_ms)
