"""Codecs with a memory: what is kept and what is sent is all there was, and both sides remember the same."""

import pytest
import torch
from torch import Tensor

from common.codec import Codec, Context, make_codec
from common.errors import CodecError

EF = [
    "int8",
    "int4/c",
    "int4/c/s",
    "int4/b",
    "int2/s",
    "fp16",
    "bf16",
    "topk:0.1",
    "topk:0.1+int4/c/s+zstd",
    "randtopk:0.1",
]
DELTA = ["int4/c+zstd", "int4/b", "int2/c/s", "int8", "fp16", "topk:0.1+int8", "randtopk:0.25+int4"]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoded(codec: Codec, tensors: list[Tensor], at: Context, receiver: Codec) -> tuple[Tensor, ...]:
    return receiver.decode(codec.encode(tensors, at), at)


def kept(codec: Codec, elements: int) -> Tensor:
    (memory,) = codec.state().values()
    return memory[:elements].clone()


@pytest.mark.parametrize("spec", EF)
@pytest.mark.parametrize("dtype", FLOATS)
def test_ef_sent_and_kept_are_the_original(spec: str, dtype: torch.dtype) -> None:
    codec, receiver = make_codec(f"ef+{spec}", "down"), make_codec(f"ef+{spec}", "down")
    before = torch.zeros(4 * 8 * 5 * 5)
    for step in range(6):
        gradient = (random(4, 8, 5, 5, seed=step) * 10.0 ** (step - 3) + step % 3).to(dtype)
        original = (gradient.flatten() + before).to(dtype)  # what would travel if nothing were left out of it

        (sent,) = decoded(codec, [gradient], Context(step), receiver)

        before = kept(codec, gradient.numel())
        assert torch.equal(sent.flatten().to(before.dtype) + before, original.to(before.dtype))


def test_ef_makes_up_for_all_that_was_left_out() -> None:
    codec, gradient = make_codec("ef+topk:0.1+int4", "down"), random(4, 50)
    steps = 60

    total = sum(decoded(codec, [gradient], Context(step), codec)[0] for step in range(steps))

    assert (total / steps - gradient).norm() < 0.12 * gradient.norm()
    (once,) = decoded(make_codec("topk:0.1+int4"), [gradient], Context(0), make_codec("topk:0.1+int4"))
    assert (once - gradient).norm() > 0.6 * gradient.norm()


def test_ef_a_smaller_batch_leaves_the_rest_of_the_memory() -> None:
    codec = make_codec("ef+int4", "down")
    codec.encode([random(4, 6)], Context(0))
    before = kept(codec, 24)

    codec.encode([random(3, 6, seed=1)], Context(1))

    assert torch.equal(kept(codec, 24)[18:], before[18:])
    assert not torch.equal(kept(codec, 18), before[:18])
    codec.encode([random(5, 6, seed=2)], Context(2))  # a larger one makes it longer
    assert len(kept(codec, 99)) == 30


def test_ef_keeps_each_tensor_apart_and_nothing_of_whole_numbers() -> None:
    codec = make_codec("ef+int4", "down")

    codec.encode([random(4, 6), torch.arange(4), random(4, 6, seed=1), torch.tensor(2.0), random(3).double()], 0)

    assert set(codec.state()) == {"0/6", "2/6"}


@pytest.mark.parametrize("spec", ["ef+int4/s", "ef+topk:0.1"])
def test_ef_in_an_evaluation_changes_nothing(spec: str) -> None:
    codec = make_codec(spec)
    codec.encode([random(4, 6)], Context(0))
    before = codec.state()

    codec.encode([random(4, 6)], Context(0, training=False))

    assert all(torch.equal(before[name], value) for name, value in codec.state().items())


def test_ef_without_numbers_leaves_its_memory_usable() -> None:
    codec = make_codec("ef+int4")
    with pytest.raises(CodecError, match="step 3: tensor 0 has NaN"):
        codec.encode([torch.full((4, 4), float("nan"))], Context(3))


@pytest.mark.parametrize("spec", DELTA)
@pytest.mark.parametrize("dtype", FLOATS)
def test_delta_both_sides_remember_what_was_decoded(spec: str, dtype: torch.dtype) -> None:
    sender, receiver = make_codec(f"delta+{spec}", "up"), make_codec(f"delta+{spec}", "up")
    samples = [random(23, 4, 6, 6), random(23, 12, seed=1)]
    has: dict[int, list[Tensor]] = {}
    for epoch in range(3):
        order = torch.randperm(23, generator=torch.Generator().manual_seed(epoch))
        for step, ids in enumerate(torch.split(order, 8)):  # the last batch has 7
            at = Context(10 * epoch + step, ids=ids)
            tensors = [(each[ids] + 0.1 * random(len(ids), *each.shape[1:], seed=step)).to(dtype) for each in samples]
            sent = decoded(sender, tensors, at, receiver)
            for row, sample in enumerate(ids.tolist()):
                has[sample] = [each[row] for each in sent]

    for codec in (sender, receiver):
        state = codec.state()
        for i in range(2):
            (ids_name,) = (name for name in state if name.startswith(f"{i}/") and name.endswith("ids"))
            ids, rows = state[ids_name], state[ids_name.replace("ids", "rows")]
            assert sorted(ids.tolist()) == list(range(23))
            for sample, row in zip(ids.tolist(), rows, strict=True):
                assert torch.equal(row, has[sample][i].flatten())


def test_delta_a_new_sample_travels_in_eight_bits_and_a_known_one_as_its_change() -> None:
    values, ids = random(16, 8, 10, 10), torch.arange(16)
    sender, receiver = make_codec("delta+int4/c"), make_codec("delta+int4/c")
    first = sender.encode([values], Context(0, ids=ids))
    (once,) = receiver.decode(first, Context(0, ids=ids))
    errors = [(once - values).norm() / values.norm()]
    for step in range(1, 4):
        again = sender.encode([values], Context(step, ids=ids))
        (sent,) = receiver.decode(again, Context(step, ids=ids))
        errors.append((sent - values).norm() / values.norm())

    assert first.nbytes == values.numel() + 8 * 8
    assert again.nbytes == values.numel() // 2 + 8 * 8
    assert errors[0] < 0.01  # as int8/c
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10
    direct = make_codec("int4/c")
    assert (direct.decode(direct.encode([values], 0))[0] - values).norm() / values.norm() > 0.08


def test_delta_new_and_known_samples_in_one_batch() -> None:
    sender, receiver = make_codec("delta+int4/c+zstd"), make_codec("delta+int4/c+zstd")
    values = random(9, 6, 4, 4)
    for step, ids in enumerate(([0, 1, 2, 3], [2, 7, 0, 8], [8, 4, 5, 6], [6, 6, 1, 6])):
        at = Context(step, ids=torch.tensor(ids))
        (sent,) = decoded(sender, [values[ids]], at, receiver)
        assert (sent - values[ids]).abs().max() < 0.02

    assert all(torch.equal(value, receiver.state()[name]) for name, value in sender.state().items())


def test_delta_of_a_sample_that_comes_twice_the_last_counts() -> None:
    codec = make_codec("delta+fp16")
    rows = torch.tensor([[1.0, 1], [2, 2], [3, 3]])
    at = Context(0, ids=torch.tensor([5, 6, 5]))

    (sent,) = decoded(codec, [rows], at, make_codec("delta+fp16"))

    assert torch.equal(sent, rows)
    assert codec.state()["0/2/float32/rows"].tolist() == [[3, 3], [2, 2]]


def test_delta_in_an_evaluation_neither_uses_nor_changes_memory() -> None:
    sender, receiver = make_codec("delta+int4/c"), make_codec("delta+int4/c")
    ids, values = torch.arange(8), random(8, 40)
    decoded(sender, [values], Context(0, ids=ids), receiver)
    before = sender.state()

    (sent,) = decoded(sender, [-values], Context(0, training=False, ids=ids), receiver)

    assert (sent + values).abs().max() < 0.02
    assert torch.equal(before["0/40/float32/rows"], sender.state()["0/40/float32/rows"])
    assert torch.equal(before["0/40/float32/rows"], receiver.state()["0/40/float32/rows"])


@pytest.mark.parametrize(
    ("tensor", "ids"),
    [
        (random(7, 3, 5), torch.arange(4)),  # time first, say
        (random(4, 5).double(), torch.arange(4)),
        (random(0, 5), torch.arange(4)),
        (random(4, 5), None),
        (random(4, 5), torch.arange(0)),
        (random(5), torch.arange(4)),
    ],
)
def test_delta_what_does_not_consist_of_samples_travels_as_it_is(tensor: Tensor, ids: Tensor | None) -> None:
    codec = make_codec("delta+int4")
    for step in range(2):
        (sent,) = decoded(codec, [tensor], Context(step, ids=ids), make_codec("delta+int4"))
        assert torch.allclose(sent, tensor, rtol=0, atol=0.02)
    assert not codec.state()


@pytest.mark.parametrize("spec", ["delta+int4/c/s", "ef+topk:0.1+int8"])
def test_a_run_goes_on_from_a_state(spec: str) -> None:
    sender, receiver = make_codec(spec), make_codec(spec)

    def step(number: int, sender: Codec, receiver: Codec) -> Tensor:
        ids = torch.tensor([number % 3, number % 5 + 3, 8])
        return decoded(sender, [random(3, 50, seed=number)], Context(number, ids=ids), receiver)[0]

    for number in range(4):
        step(number, sender, receiver)
    others = make_codec(spec), make_codec(spec)
    for codec, other in zip((sender, receiver), others, strict=True):
        other.load_state(codec.state())

    for number in range(4, 12):
        assert torch.equal(step(number, sender, receiver), step(number, *others))


def test_a_codec_without_memory_has_no_state() -> None:
    codec = make_codec("int8")

    assert codec.state() == {}
    codec.load_state({})
    with pytest.raises(ValueError, match="a codec without memory has no 0/6"):
        codec.load_state({"0/6": torch.zeros(1)})


@pytest.mark.parametrize("spec", ["delta+int4", "ef+int4"])
def test_memory_beyond_its_limit_is_told_with_the_flag(spec: str) -> None:
    codec = make_codec(spec, memory_mb=1)
    codec.encode([torch.ones(32, 1024)], Context(0, ids=torch.arange(32)))

    with pytest.raises(CodecError, match="the limit is 1: raise --codec_memory_mb"):
        codec.encode([torch.ones(512, 1024)], Context(1, ids=torch.arange(32, 544)))


def test_memory_is_used_up_to_its_limit() -> None:
    codec = make_codec("delta+int4", memory_mb=1, samples=1000)

    for step in range(4):
        codec.encode([torch.ones(64, 1024)], Context(step, ids=torch.arange(64 * step, 64 * step + 64)))

    assert sum(each.nbytes for name, each in codec.state().items() if "rows" in name) == 1 << 20
