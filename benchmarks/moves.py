"""How long does a run pause when its cut moves? ``python -m benchmarks.moves [--links wifi 4g 5g]``.

A run moves its cut five times, there and back; edge and cloud have a core each, the link between them is emulated. Each
pause is what the client itself reports: from the pipeline's last update by the old cut until all is ready for the next
forward by the new one. Beside it stands what the blocks' bytes alone take on the link.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.link.contexts import LinkContext, parse_context
from discriminative.testbed import Testbed

MOVED = re.compile(r"from step (\d+) on: cut behind (\S+),.* ([\d.]+) MB moved, ([\d.]+) s paused")
"""What a client says of a move: step, block, MB, seconds."""
_CUTS = ("features.3", "features.8", "features.5", "features.9", "features.6", "features.4")


@dataclass(frozen=True)
class Options:
    """Pauses of a run that moves its cut five times."""

    links: tuple[str, ...] = ("wifi", "4g", "5g")
    """Links to run."""
    model: str = "resnet20"
    """Model to train."""
    cuts: tuple[str, ...] = _CUTS
    """Where it is cut at first, and then one after the other."""
    every: int = 10
    """Steps between two moves."""
    stale_it: int = 3
    """Staleness bound."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Row:
    """A move."""

    link: str
    step: int
    way: str
    moved_mb: float
    """Weights, buffers and optimizer state of the blocks that changed sides."""
    on_the_link_s: float
    """What these bytes and a round trip take on the link."""
    paused_s: float


def main() -> None:
    """Run each link, and print a row for each move."""
    options = parse(Options)
    for link in options.links:
        parse_context(link)  # better told now than by a program that does not start
    rows = [row for link in options.links for row in _run(options, link)]
    print(machine() + "\n")
    print_table([asdict(row) for row in rows])
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))


def _run(options: Options, link: str) -> Iterator[Row]:
    first, *others = options.cuts
    moves = [f"{options.every * number}:{cut}" for number, cut in enumerate(others, start=1)]
    with tempfile.TemporaryDirectory() as folder, Testbed(link, Path(folder), quiet=True) as testbed:
        flags = ["--model", options.model, "--dataset", "synthetic", "--epochs", "1", "--cut", first]
        testbed.train([*flags, "--stale_it", str(options.stale_it), "--move", *moves])
        log = (Path(folder) / "client.log").read_text()
    before = first
    for step, cut, megabytes, seconds in MOVED.findall(log):
        to_edge = _deeper(cut, before)
        yield Row(
            link,
            int(step),
            f"{before} -> {cut}",
            float(megabytes),
            _seconds(parse_context(link), float(megabytes), down=to_edge),
            float(seconds),
        )
        before = cut


def _deeper(cut: str, than: str) -> bool:
    """Whether a cut is behind another, so that the blocks between them come to the edge; blocks are numbered."""
    return _number(cut) > _number(than)


def _number(cut: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", cut)]


def _seconds(link: LinkContext, megabytes: float, *, down: bool) -> float:
    return 8 * megabytes / (link.down_mbps if down else link.up_mbps) + link.rtt_ms / 1e3


if __name__ == "__main__":
    run_command(main)
