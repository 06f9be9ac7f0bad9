"""How much memory does the edge need? VGG19 at several cuts: ``python -m benchmarks.memory [--plot FILE]``."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.drawing import LOOKS, check_files, save
from common.figures.resources import Bar, draw_memory
from common.models import build_model
from common.models.registry import input_shape
from common.partition import trace
from common.partition.graph import Graph
from common.records import write_json
from discriminative.testbed import Testbed

_MIB = 2**20
_BUDGET = 0.6
"""Of edge-only training, what the edge of the default plan may take."""


@dataclass(frozen=True)
class Options:
    """Peak memory of the edge's process, with the server in another one; edge-only training is the measure."""

    model: str = "VGG19"
    """Model to train."""
    cuts: tuple[int, ...] = (1, 4, 8, 12, 16)
    """Slices on the edge (--split_index)."""
    steps: int = 6
    """Steps of an epoch; each run has two, with a checkpoint between them."""
    batch_size: int = 32
    """Samples of a step."""
    json: Path | None = None
    """Also write the rows to this file."""
    plot: Path | None = None
    """Figure to write: PNG, PDF or SVG."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Row:
    """An edge."""

    plan: str
    cut: str
    K: int
    replay: str
    peak_mib: float
    """Largest resident memory of its process, as the kernel keeps it."""
    of_edge_only: float
    of_plain: float
    """Of training all of the model without Tandem."""
    without_torch_mib: float
    """Less that of a process that has only imported torch and made an optimizer."""
    head_mib: float
    """Weights, gradients and momentum of the part of the model on the edge."""
    training_mib: float
    """Largest in any stage of a step; the rest of the peak is from the preparation."""
    edge_ms: float
    """Computing of a step on the edge."""

    @property
    def label(self) -> str:
        """The plan in a line."""
        return f"{self.plan}, K = {self.K}" + (f", {self.replay}" if self.K else "")


def main() -> None:
    """Run all rows and print them."""
    options = parse(Options)
    if options.plot is not None:
        check_files("plot", [options.plot])
    print(f"{machine()}; {options.model}, batches of {options.batch_size}")
    torch_mib, empty_mib = _mib(_peak(["-c", _EMPTY])), _mib(_plain(options.model, 0, options.batch_size))
    plain_mib = _mib(_plain(options.model, options.steps, options.batch_size))
    print(f"torch imported: {torch_mib:.0f} MiB; with an optimizer made: {empty_mib:.0f} MiB")
    print(f"training all of the model without Tandem: {plain_mib:.0f} MiB")
    rows = _measure(options, empty_mib, plain_mib)
    print_table([asdict(row) for row in rows])
    default = next(row for row in rows if row.plan == "default")
    print(f"the default plan takes {default.of_edge_only:.2f} x edge-only training ({_BUDGET:g} at most)")
    if options.json is not None:
        facts = {"torch_mib": torch_mib, "empty_mib": empty_mib, "plain_mib": plain_mib}
        write_json(options.json, {"machine": machine(), **facts, "rows": [asdict(row) for row in rows]})
    if options.plot is not None:
        _draw(options.plot, rows, empty_mib)


def _measure(options: Options, empty_mib: float, plain_mib: float) -> list[Row]:
    graph = trace(build_model(options.model, 10), (torch.rand(2, *input_shape(options.model)),))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Testbed("wired", Path(folder), quiet=True) as testbed:
        data = _data(Path(folder), options)
        for plan, cut, flags in _plans(graph, options.cuts):
            shared = ["--model", options.model, "--dataset", f"npz:{data}", "--no_augment", "--epochs", "2"]
            summary, _ = testbed.train([*shared, "--batch_size", str(options.batch_size), *flags])
            rows.append(_row(plan, graph, cut, summary, (rows[0].peak_mib if rows else None, plain_mib, empty_mib)))
            print(f"{rows[-1].label}: {rows[-1].peak_mib:.0f} MiB", file=sys.stderr)
    return rows


def _plans(graph: Graph, cuts: Sequence[int]) -> list[tuple[str, int, list[str]]]:
    """Name, cut and flags of each edge; edge-only first, which the others are compared with."""
    ends = graph.slices(graph.blocks)
    last = len(ends) - 1
    plans = [("edge-only", ends[-1], ["--split_index", str(last)]), ("default", ends[1], [])]
    for cut in cuts:
        for stale_it, replay in ((0, "recompute"), (3, "recompute"), (3, "stash")):
            flags = ["--split_index", str(cut), "--stale_it", str(stale_it), "--replay", replay]
            plans.append((f"{cut} of {last} slices", ends[cut], flags))
    return plans


def _row(plan: str, graph: Graph, cut: int, summary: dict[str, Any], against: tuple[float | None, float, float]) -> Row:
    peak_mib = _mib(summary["edge_peak_memory_bytes"])
    edge_only_mib, plain_mib, empty_mib = against
    point = graph.points[cut]
    return Row(
        plan,
        point.name,
        summary["stale_it"],
        summary["replay"],
        peak_mib,
        peak_mib / (edge_only_mib or peak_mib),
        peak_mib / plain_mib,
        peak_mib - empty_mib,
        _mib(3 * 4 * point.parameters_before),
        _mib(max(summary["stages_peak_memory_bytes"].values())),
        1e3 * summary["stages_s"]["edge"],
    )


def _draw(path: Path, rows: Sequence[Row], empty_mib: float) -> None:
    bars = []
    for row in rows:
        head_mib = min(row.head_mib, row.without_torch_mib)
        parts = {
            "torch with an optimizer, no model": empty_mib,
            "the head's weights, gradients, momentum": head_mib,
            "activations, graphs, codecs; preparing the model": row.without_torch_mib - head_mib,
        }
        bars.append(Bar(row.label, row.peak_mib, parts))
    with LOOKS["screen"].applied() as look:
        save(draw_memory(look, bars, _BUDGET * rows[0].peak_mib), path, look.dpi)


def _data(folder: Path, options: Options) -> Path:
    """Random images for so many steps."""
    rng = np.random.default_rng(0)
    channels, height, width = input_shape(options.model)
    arrays = {}
    for part, count in (("train", options.steps * options.batch_size), ("test", 2 * options.batch_size)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, height, width, channels), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    path = folder / "images.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


_EMPTY = "import torch; from common.metering.gauges import own_peak; print(own_peak())"


def _plain(model: str, steps: int, batch_size: int) -> int:
    return _peak(["-m", "benchmarks.plain_training", model, str(steps), str(batch_size)])


def _peak(words: list[str]) -> int:
    """What a program prints: its own peak."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    return int(done.stdout)


def _mib(nbytes: float) -> float:
    return nbytes / _MIB


if __name__ == "__main__":
    run_command(main)
