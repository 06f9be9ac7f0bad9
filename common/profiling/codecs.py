"""What a codec makes of the tensors that cross at a cut: bytes, and seconds on either side."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from common.codec import make_codec
from common.errors import UsageError
from common.profiling.stopwatch import Stopwatch

Direction = Literal["up", "down"]


class Coding(NamedTuple):
    """A codec on one message."""

    nbytes: float
    encode_s: float
    decode_s: float


def measure_codec(
    spec: str, direction: Direction, tensors: Sequence[Tensor], watch: Stopwatch, rounds: int
) -> Coding | None:
    """Encode and decode as a run does; None where the codec does not serve the direction.

    Args:
        spec: of the codec.
        direction: up for activations, down for gradients.
        tensors: what crosses, on the device that computed it.
        watch: times work on that device.
        rounds: how often; the medians count.
    """
    try:
        codec, peers = make_codec(spec, direction), make_codec(spec, direction)
    except UsageError:
        return None  # the spec is right (`require_codecs`), but of the other direction
    if not tensors:
        return Coding(0.0, 0.0, 0.0)
    encode_s, decode_s, nbytes = [], [], []
    for step in range(rounds + 1):  # the first round warms up; codecs with a memory begin with an empty one
        spent_s, encoded = _timed(watch, lambda step=step: codec.encode(tensors, step))  # type: ignore[misc]
        encode_s.append(spent_s)
        spent_s, _ = _timed(
            watch,
            lambda step=step, encoded=encoded: [  # type: ignore[misc]
                each.to(tensors[0].device) for each in peers.decode(encoded, step)
            ],
        )
        decode_s.append(spent_s)
        nbytes.append(encoded.nbytes)
    return Coding(float(nbytes[-1]), statistics.median(encode_s[1:]), statistics.median(decode_s[1:]))


def require_codecs(specs: Sequence[str]) -> None:
    """Refuse what names no codec, before any work.

    Raises:
        UsageError: which, and why.
    """
    for spec in specs:
        make_codec(spec)


def _timed(watch: Stopwatch, work: Callable[[], Any]) -> tuple[float, Any]:
    stop = watch.start_host()
    result = work()
    return stop(), result
