"""How few bytes, at what error and speed? ``python -m benchmarks.codecs [--dataset npz:FILE]``.

Tensors are those of real training: a model is cut, trained for some steps, and what crosses the cut for one batch is
coded, activations up and gradients down. ``delta`` sends what changed since the batch crossed some steps before.
Speeds are MB of float32 input a second of one core: the least CPU time of a thread over some rounds, so that others
on the machine do not count. Beside the codecs stand zstd and lz4 of the raw numbers, and blosc2 where it is installed.
"""

import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.table import machine, print_table
from common.codec import Context, load_own, make_codec
from common.codec.grammar import parse_spec
from common.command import run_command
from common.config import parse
from common.datasets.batches import Batches
from common.datasets.registry import load_dataset
from common.models.own import choose_model
from common.training.prepare import prepare

CODECS = (
    *("none+zstd", "none+lz4", "none+shuffle+zstd", "fp16", "fp16+zstd", "fp16+shuffle+zstd", "bf16"),
    *("int8", "int8/c", "int8/b", "int8+zstd", "int8/c+zstd", "int8/b+zstd", "int4", "int4/c", "int4/b", "int4+zstd"),
    *("int4/c+zstd", "int4/b+zstd", "int4/c+lz4", "int4/c/s+zstd", "int2/c+zstd", "int2/b+zstd"),
    *("topk:0.1", "topk:0.1+int8", "topk:0.1+int4/c+zstd", "randtopk:0.1+int4/c"),
    *("topk:0.01+int8", "delta+int4/c+zstd", "delta+int2/c+zstd", "ef+int4/c+zstd", "ef+topk:0.1+int8"),
)


@dataclass(frozen=True)
class Options:
    """Ratio, error and speed of codecs on tensors of real training."""

    dataset: str = "digits"
    """What to train on: digits, synthetic, or npz:FILE."""
    codecs: tuple[str, ...] = CODECS
    """Codecs to measure; path/to/file.py:NAME for your own."""
    models: tuple[str, ...] = ("resnet20:features.3", "VGG11:features.0", "torchvision:resnet18:layer1")
    """Models with the cut behind the last colon."""
    steps: int = 60
    """Training steps in front of the measured one."""
    rounds: int = 7
    """How often each measurement is repeated; the least time counts."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Crossing:
    """What crosses a cut in one direction, for the same batch at two times."""

    name: str
    before: Tensor
    now: Tensor
    up: bool


@dataclass
class Row:
    """One codec on one tensor."""

    tensor: str
    codec: str
    ratio: float
    """float32 bytes over those sent."""
    error: float = 0.0
    """Norm of the error over norm of the tensor, in per cent."""
    encode: float = 0.0
    """MB/s."""
    decode: float = field(default=0.0)
    """MB/s."""


def main() -> None:
    """Train, measure, and print a table for each tensor."""
    options = parse(Options)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for model in options.models:
        for crossing in _crossings(model, options):
            rows += _measure(crossing, options)
    print(f"{machine()}; {options.dataset}, {options.steps} steps, least of {options.rounds} rounds")
    for name in dict.fromkeys(row.tensor for row in rows):
        print(f"\n{name}\n")
        print_table([_shown(row) for row in rows if row.tensor == name])
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def _shown(row: Row) -> dict[str, Any]:
    return {
        "codec": row.codec,
        "ratio": f"{row.ratio:.2f}",
        "error %": f"{row.error:.3f}",
        "encode MB/s": f"{row.encode:.0f}",
        "decode MB/s": f"{row.decode:.0f}",
    }


def _crossings(model: str, options: Options) -> Iterator[Crossing]:
    """Activations and gradients of a batch at a cut, early and late in a short training."""
    name, _, cut = model.rpartition(":")
    choice = choose_model(name)
    graph = prepare(lambda: choice.build(10), choice.input_shape, 0).graph
    head, tail = graph.parts(cut)
    large = choice.input_shape[1] > 64
    data = load_dataset(options.dataset, Path("data"), num_classes=10, input_shape=(3, 32, 32), seed=0, progress=False)
    batches = Batches(data.train, data, 8 if large else 64, 0, True)
    stream = (batch for epoch in range(1 << 20) for batch in batches.epoch(epoch))
    sized = nn.Upsample(choice.input_shape[1:], mode="bilinear")
    optimizer = torch.optim.SGD([*head.parameters(), *tail.parameters()], 0.02, momentum=0.9)

    def step(inputs: Tensor, labels: Tensor, *, train: bool) -> tuple[Tensor, Tensor]:
        outputs = head(sized(inputs))[0]
        received = outputs.detach().requires_grad_()
        loss = nn.functional.cross_entropy(tail(received), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if train:
            outputs.backward(received.grad)
            optimizer.step()
        assert received.grad is not None  # noqa: S101 - for the type checker
        return received.detach(), received.grad

    probe, steps = next(stream), options.steps // 4 if large else options.steps
    for number in range(steps):
        if number == steps // 2:
            early = step(probe.inputs, probe.labels, train=False)
        batch = next(stream)
        step(batch.inputs, batch.labels, train=True)
    late = step(probe.inputs, probe.labels, train=False)
    for i, what in enumerate(("activations", "gradients")):
        title = f"{name} behind {cut}, {what} {list(late[i].shape)}, {100 * late[i].eq(0).float().mean():.0f} % zeros"
        yield Crossing(title, early[i], late[i], up=i == 0)


def _measure(crossing: Crossing, options: Options) -> Iterator[Row]:
    for named in options.codecs:
        spec = parse_spec(load_own(named))
        if (spec.memory == "delta" and not crossing.up) or (spec.memory == "ef" and crossing.up):
            continue
        yield _codec(crossing, spec.text, options.rounds)
    yield from _blosc2(crossing, options.rounds)


def _codec(crossing: Crossing, spec: str, rounds: int) -> Row:
    ids = torch.arange(len(crossing.now))
    sender, receiver = make_codec(spec), make_codec(spec)
    now = Context(1, ids=ids)
    if sender.spec.memory == "delta":
        first = Context(0, ids=ids)
        receiver.decode(sender.encode([crossing.before], first), first)
    states = sender.state(), receiver.state()
    encoded = sender.encode([crossing.now], now)
    (decoded,) = receiver.decode(encoded, now)
    megabytes = crossing.now.numel() * 4 / 1e6
    return Row(
        crossing.name,
        spec,
        crossing.now.nbytes / encoded.nbytes,
        100 * ((decoded - crossing.now).norm() / crossing.now.norm()).item(),
        megabytes / _least(lambda: sender.encode([crossing.now], now), lambda: sender.load_state(states[0]), rounds),
        megabytes / _least(lambda: receiver.decode(encoded, now), lambda: receiver.load_state(states[1]), rounds),
    )


def _blosc2(crossing: Crossing, rounds: int) -> Iterator[Row]:
    try:
        blosc2 = importlib.import_module("blosc2")
    except ImportError:
        print("blosc2 is not installed: its rows are left out (pip install blosc2)")
        return
    blosc2.set_nthreads(1)
    for value, tensor in (("float32", crossing.now), ("float16", crossing.now.half())):
        raw = tensor.contiguous().numpy().tobytes()
        for order in ("SHUFFLE", "BITSHUFFLE"):
            settings = {"filter": getattr(blosc2.Filter, order), "codec": blosc2.Codec.ZSTD, "clevel": 1}
            pack = _bind(blosc2.compress, raw, typesize=tensor.itemsize, **settings)
            packed = pack()
            megabytes = crossing.now.numel() * 4 / 1e6
            yield Row(
                crossing.name,
                f"blosc2 {order.lower()}+zstd of {value}",
                crossing.now.nbytes / len(packed),
                100 * ((tensor.float() - crossing.now).norm() / crossing.now.norm()).item(),
                megabytes / _least(pack, _nothing, rounds),
                megabytes / _least(_bind(blosc2.decompress, packed), _nothing, rounds),
            )


def _bind(function: Callable[..., Any], *values: Any, **more: Any) -> Callable[[], Any]:
    return lambda: function(*values, **more)


def _nothing() -> None:
    """Prepares what needs no preparation."""


def _least(work: Callable[[], Any], prepare_for: Callable[[], Any], rounds: int) -> float:
    """Least CPU seconds of this thread that the work took."""
    seconds = []
    for _ in range(rounds):
        prepare_for()
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return min(seconds)


if __name__ == "__main__":
    run_command(main)
