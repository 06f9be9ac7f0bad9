"""Profile this machine: ``python -m common.profiling MODEL --batch_size 32 --device cpu --out profile/NAME.csv``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch.optim import SGD, Adam, RMSprop

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.partition.cut_table import trace_example
from common.partition.points import Level
from common.profiling.energy import energy_counter
from common.profiling.measure import DEFAULT_CODECS, measure
from common.profiling.passes import MakeOptimizer
from common.profiling.profile_file import save_profile
from common.profiling.rows import Measured

# With a learning rate of 0 an optimizer works as with any other, and the weights stay as they are.
_OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(SGD, lr=0.0, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "rmsprop": partial(RMSprop, lr=0.0, weight_decay=1e-4),
    "adam": partial(Adam, lr=0.0, weight_decay=1e-4),
}


@dataclass(frozen=True)
class Options:
    """Time a model's blocks and the codecs between them in training steps on random inputs, on this machine.

    A table in milliseconds is printed; --out saves it for `python -m common.planning`. On a CPU, times are of the
    thread's own work, so other programs weigh less on them.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Name of the model, as python -m common.partition takes it."""
    batch_size: int = 32
    """Samples of a batch."""
    device: str = "cpu"
    """cpu, cuda, or cuda:N."""
    input: str = ""
    """Channels, height and width of an image, such as 3,224,224; default the model's own."""
    num_classes: int = 10
    """Width of the model's last layer."""
    level: Level = "stage"
    """How fine: stage, the model's blocks; module, its layers too; operation, all cuts."""
    codecs: tuple[str, ...] = DEFAULT_CODECS
    """Codecs to time at each cut, in both directions."""
    optimizer: Literal["sgd", "rmsprop", "adam"] = "sgd"
    """Kind of the optimizer; sgd has Nesterov momentum."""
    rounds: int = 5
    """Steps to take the medians of, behind a warm-up of two."""
    threads: int = 0
    """Threads that torch may use; 0 leaves it to torch."""
    out: Path | None = None
    """Save the profile to this CSV file, and a JSON file of the same name beside it."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Trace, measure, print, save."""
    options = parse(Options)
    _check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    graph, inputs = trace_example(options.model, options.num_classes, options.input, options.batch_size)
    with energy_counter() as meter:
        measured = measure(
            graph,
            inputs,
            _OPTIMIZERS[options.optimizer],
            model=options.model,
            device=options.device,
            level=options.level,
            rounds=options.rounds,
            codecs=options.codecs,
            meter=meter,
            progress=True,
        )
    print("\n".join(table_lines(measured)))
    if options.out is not None:
        save_profile(options.out, measured)
        print(f"saved to {options.out}")


def table_lines(measured: Measured) -> list[str]:
    """The blocks as lines of text, times in milliseconds."""
    heading = ["cut", "block", "forward", "replay", "backward", "update", "parameters", "saved", "crosses"]
    cells: list[Sequence[str]] = [heading]
    for row in measured.rows:
        times = (row.forward_s, row.replay_s, row.backward_s, row.optimizer_s)
        sizes = (row.parameter_bytes, row.saved_bytes, row.codecs["none"].activation_bytes)
        cells.append(
            [str(row.cut), row.name, *(f"{1e3 * each:.2f}" for each in times), *(f"{n / 1024:,.0f}" for n in sizes)]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    profile, about = measured.profile(), measured.about
    return [
        *lines,
        f"{about.model}, batch size {about.batch_size}, on {about.device_name} ({about.device}, {about.threads} "
        f"threads): a step takes {1e3 * profile.local_s:.1f} ms in one piece, and about "
        f"{profile.head_peak_bytes[-1] / 2**20:.0f} MiB. Times in ms, sizes in KiB.",
    ]


def _check(options: Options) -> None:
    """Before the work, which takes minutes."""
    if not 1 <= options.rounds <= 1000:
        raise UsageError(f"--rounds is {options.rounds}; it must be 1 to 1000")
    if options.threads < 0:
        raise UsageError(f"--threads is {options.threads}; it must be at least 0")
    kind, _, number = options.device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UsageError(f"--device is {options.device!r}; it is cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device is {options.device}, but torch sees {torch.cuda.device_count()} CUDA devices here")
    if options.out is None:
        return
    if not options.out.parent.is_dir():
        raise UsageError(f"--out is {options.out}, but there is no folder {options.out.parent}; make it first")
    if options.out.suffix != ".csv":
        raise UsageError(f"--out is {options.out}; its name must end in .csv")


if __name__ == "__main__":
    run_command(main)
