"""The words of a codec: what goes together, and for what does not, the reason and the nearest that does."""

import itertools

import pytest

from common.codec import make_codec
from common.codec.grammar import Direction, parse_spec
from common.errors import UsageError

BEFORE = ["", "topk:0.1+", "randtopk:.25+"]
VALUES = ["fp16", "bf16", *(f"int{n}{marks}" for n in (8, 4, 2) for marks in ("", "/c", "/b", "/s", "/c/s", "/b/s"))]
BEHIND = ["", "+zstd", "+lz4", "+auto"]
COMBINED = ["".join(each) for each in itertools.product(BEFORE, VALUES, BEHIND)]


def refusal(spec: str, direction: Direction | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        make_codec(spec, direction)
    text = str(caught.value)
    assert text.startswith(f"codec {spec!r}: ")
    return text.removeprefix(f"codec {spec!r}: ")


def test_every_combination_that_makes_sense() -> None:
    for spec in COMBINED:
        for memory, direction in (("", "up"), ("taylor+", "up"), ("delta+", "up"), ("ef+", "down"), ("", "down")):
            assert make_codec(memory + spec, direction).name == memory + spec  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "none+zstd",
        "none+shuffle+zstd",
        "topk:0.1",
        "topk:.001+none+shuffle+lz4",
        "ef+topk:0.1",
        "delta+topk:0.1",
        "delta+fp16+shuffle+auto",
        "taylor+delta+randtopk:0.5+int4/c/s+auto",
    ],
)
def test_others_that_make_sense(spec: str) -> None:
    assert make_codec(spec).name == spec


def test_what_is_read() -> None:
    spec = parse_spec("taylor+delta+randtopk:0.25+int4/c/s+zstd")

    assert (spec.taylor, spec.memory, spec.sparsity, spec.ratio) == (True, "delta", "randtopk", 0.25)
    assert (spec.value, spec.sharing, spec.stochastic, spec.lossless) == ("int4", "channel", True, "zstd")
    assert [parse_spec(each).is_exact for each in ("none+zstd", "topk:0.1", "fp16")] == [True, False, False]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("int9", "unknown stage 'int9'; did you mean int8? Known: taylor, ef, delta, topk"),
        ("FP16", "unknown stage 'FP16'; did you mean fp16?"),
        ("", "unknown stage ''; Known: "),
        ("int8+zst", "unknown stage 'zst'; did you mean zstd?"),
        ("int8+", "unknown stage ''"),
        (" int8", "unknown stage ' int8'; did you mean int8?"),
        ("ef:0.1+int8", "unknown stage 'ef:0.1'; did you mean ef?"),
        ("int8+zstd/c", "unknown stage 'zstd/c'; did you mean zstd?"),
        ("int8+zstd+lz4", "zstd and lz4 are both a lossless stage; name one of them"),
        ("int8+int4", "int8 and int4 are both a value stage"),
        ("ef+delta+int8", "ef and delta are both a memory stage"),
        ("topk:0.1+topk:0.2", "topk:0.1 and topk:0.2 are both a sparsity stage"),
        ("int8+topk:0.1", "its stages are in another order than they work; say topk:0.1+int8"),
        ("zstd+int8+delta", "its stages are in another order than they work; say delta+int8+zstd"),
        ("delta+taylor+int8", "its stages are in another order than they work; say taylor+delta+int8"),
        ("topk+int8", "topk takes the part that travels, above 0 and up to 0.5, such as topk:0.1"),
        ("topk:0", "topk takes the part that travels"),
        ("topk:0.6", "topk takes the part that travels"),
        ("topk:-0.1", "topk takes the part that travels"),
        ("topk:1e-3", "topk takes the part that travels"),
        ("randtopk:nan", "randtopk takes the part that travels"),
        ("topk:0.1/c", "topk takes the part that travels"),
        ("fp16/c", "/c is for int8, int4, int2; fp16 has no scale to share among a channel and rounds to nearest"),
        ("none/s", "/s is for int8, int4, int2; none has no scale"),
        ("int8/s/c", "behind int8 come /c (per channel) or /b (per block), and then /s (stochastic)"),
        ("int8/x", "behind int8 come /c"),
        ("int8/", "behind int8 come /c"),
        ("int8/c/c", "behind int8 come /c"),
        ("int8/c/b", "behind int8 come /c (per channel) or /b (per block)"),
        ("bf16/b", "/b is for int8, int4, int2; bf16 has no scale"),
        ("zstd", "it names no value stage, such as"),
        ("delta", "it names no value stage, such as delta+int4/c"),
        ("delta+zstd", "it names no value stage, such as delta+int4/c+zstd"),
        ("ef", "it names no value stage, such as ef+int4/c"),
        ("int8+shuffle+zstd", "codes of int8 are a byte or less, with no bytes to shuffle; leave +shuffle out"),
        ("fp16+shuffle", "shuffled bytes are no fewer; say fp16+shuffle+zstd"),
        ("taylor+none", "taylor corrects the error of a lossy codec, and none has none; say taylor+int8"),
        ("taylor+ef+int8", "taylor is for activations and ef for gradients; no direction has both"),
        ("ef+none+zstd", "ef keeps what a lossy codec leaves out, and none leaves out nothing; say ef+int8"),
        ("delta+none", "delta makes changes smaller so that fewer bits do, and none keeps all bits"),
        ("own:mine", "this machine has loaded no codec 'own:mine'"),
        ("own:mine/c", "/c is for int8, int4, int2; own:mine has no scale"),
    ],
)
def test_a_refusal_has_its_reason_and_a_way_out(spec: str, reason: str) -> None:
    if spec == "own:mine":
        with pytest.raises(UsageError, match="this machine has loaded no codec 'own:mine'"):
            make_codec(spec)
        return
    assert refusal(spec).startswith(reason)


@pytest.mark.parametrize(
    ("spec", "direction", "way_out"),
    [
        ("ef+topk:0.1+int8", "up", "for activations say delta+topk:0.1+int8 or topk:0.1+int8"),
        ("delta+int4/c+zstd", "down", "for gradients, say ef+int4/c+zstd or int4/c+zstd"),
        ("taylor+delta+int4", "down", "for gradients, say ef+int4 or int4"),
        ("taylor+int8", "down", "for gradients, say int8"),
    ],
)
def test_a_refusal_by_direction_has_a_codec_that_works_there(spec: str, direction: Direction, way_out: str) -> None:
    reason = refusal(spec, direction)

    assert reason.endswith(way_out)
    for each in way_out.split("say ")[1].split(" or "):
        make_codec(each, direction)


@pytest.mark.parametrize("spec", ["delta+zstd", "delta", "ef", "zstd", "lz4"])
def test_what_is_suggested_can_be_said(spec: str) -> None:
    suggested = refusal(spec).split("such as ")[1]

    make_codec(suggested)
