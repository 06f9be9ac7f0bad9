"""The last stage: when `auto` packs, and what `shuffle` gains."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from common.codec import make_codec
from common.codec.lossless import Auto

COMPRESSIBLE = bytes(1 << 20)
NOISE = torch.randint(0, 256, (1 << 20,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy().data


def auto(seconds: float, link_bps: float | None) -> Auto:
    """A stage for which a sample takes so long."""

    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += seconds

    ticks = clock()
    stage = Auto(lambda: next(ticks))
    stage.link_bps = link_bps
    return stage


@pytest.mark.parametrize(
    ("seconds", "link_bps", "packs"),
    [
        (1e-3, 1e6, True),  # half a second saved for each 64 KiB
        (1e-3, 1e12, False),
        (0.0, 1e12, True),
        (10.0, 1e6, False),
        (10.0, None, True),  # where no link is known, time does not count
    ],
)
def test_auto_packs_where_that_saves_more_time_than_it_takes(
    seconds: float, link_bps: float | None, packs: bool
) -> None:
    stage = auto(seconds, link_bps)

    packed = stage.compress(COMPRESSIBLE)

    assert (len(packed) < len(COMPRESSIBLE)) == packs
    assert stage.decompress(packed, len(COMPRESSIBLE)) == COMPRESSIBLE


@pytest.mark.parametrize("link_bps", [None, 1e3, 1e12])
def test_auto_leaves_noise_alone(link_bps: float | None) -> None:
    assert auto(0.0, link_bps).compress(NOISE) is NOISE


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 16, (1 << 16) + 1])
def test_auto_takes_any_size(size: int) -> None:
    for data in (bytes(size), bytes(NOISE[:size])):
        stage = auto(0.0, None)
        assert stage.decompress(stage.compress(data), size) == data


def test_a_codec_is_told_of_the_link() -> None:
    codec = make_codec("none+auto")
    assert codec.link_bps is None

    codec.link_bps = 1e15
    assert codec.encode([torch.zeros(1 << 20)], 0).nbytes == 4 << 20
    codec.link_bps = 1e3
    assert codec.encode([torch.zeros(1 << 20)], 0).nbytes < 1 << 12

    other = make_codec("none+zstd")
    other.link_bps = 1e3
    assert other.link_bps is None


@pytest.mark.parametrize("value", ["none", "fp16", "bf16"])
def test_shuffled_numbers_are_smaller(value: str) -> None:
    tensor = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)).relu() + 1

    plain, shuffled = (make_codec(f"{value}{more}+zstd").encode([tensor], 0).nbytes for more in ("", "+shuffle"))

    assert shuffled < 0.98 * plain


@pytest.mark.parametrize("spec", ["none+shuffle+zstd", "fp16+shuffle+lz4", "topk:0.2+shuffle+zstd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_shuffled_numbers_come_back(spec: str, dtype: torch.dtype, size: int) -> None:
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain, shuffled = make_codec(spec.replace("+shuffle", "")), make_codec(spec)

    (one,) = plain.decode(plain.encode([tensor], 0))
    (other,) = shuffled.decode(shuffled.encode([tensor], 0))

    assert torch.equal(one, other)


@pytest.mark.parametrize("lossless", ["zstd", "lz4"])
def test_what_cannot_shrink_never_grows(lossless: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 7, 100, 70_000):
        noise = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)

        assert make_codec(f"none+{lossless}").encode([noise], step=0).nbytes == size
        assert torch.equal(_round_trip(f"none+{lossless}", noise), noise)


@pytest.mark.parametrize("lossless", ["zstd", "lz4"])
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_what_repeats_shrinks(lossless: str, size: int) -> None:
    zeros = torch.zeros(size)

    assert make_codec(f"none+{lossless}").encode([zeros], step=0).nbytes < zeros.nbytes / 50
    assert torch.equal(_round_trip(f"none+{lossless}", zeros), zeros)


def _round_trip(spec: str, tensor: Tensor) -> Tensor:
    (decoded,) = make_codec(spec).decode(make_codec(spec).encode([tensor], 0))
    return decoded
