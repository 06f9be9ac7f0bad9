"""Where to cut: ``python -m common.partition MODEL`` prints the cut table of a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.partition.cut_figure import SUFFIXES, save_figure
from common.partition.cut_table import cut_table, save_table, served_lines, table_lines, trace_example
from common.partition.points import Level


@dataclass(frozen=True)
class Options:
    """The cut table of a model: what crosses at each point, and what is on either side of it.

    All sizes are of one sample. FLOPs are those of a forward pass, by torch's counter: matrix products and
    convolutions, with a multiplication and an addition as two.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Name of the model: resnet20, torchvision:NAME, timm:NAME, ultralytics:NAME, hf:TYPE, path/to/file.py:factory,
    path/to/file.keras. Here it may be any model; --model of the client takes image classifiers."""
    input: str = ""
    """Channels, height and width of an image, such as 3,224,224; default the model's own."""
    batch_size: int = 2
    """Images of the example that the model is traced on."""
    num_classes: int = 10
    """Width of the model's last layer."""
    level: Level = "stage"
    """stage: the ends of blocks. module: those of layers too. operation: all points."""
    out: Path | None = None
    """Save the table to this CSV file."""
    plot: Path | None = None
    """Draw the table to this PNG or PDF file."""
    debug: bool = False
    """Show tracebacks and debug messages."""


def main() -> None:
    """Trace, count, print, save."""
    options = parse(Options)
    for flag, path, suffixes in (("out", options.out, ()), ("plot", options.plot, SUFFIXES)):
        if path is not None:
            _check_file(flag, path, suffixes)
    graph, inputs = trace_example(options.model, options.num_classes, options.input, options.batch_size)
    rows = cut_table(graph, inputs, options.level)
    print("\n".join([*table_lines(rows), *served_lines(graph)]))
    try:
        if options.out is not None:
            save_table(options.out, rows)
        if options.plot is not None:
            save_figure(options.plot, rows, options.model)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from None


def _check_file(flag: str, path: Path, suffixes: tuple[str, ...]) -> None:
    """Before the work, which takes seconds."""
    if not path.parent.is_dir():
        raise UsageError(f"--{flag} is {path}, but there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise UsageError(f"--{flag} is {path}, which is a folder; name a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"--{flag} is {path}; its name must end in {' or '.join(suffixes)}")


if __name__ == "__main__":
    run_command(main)
