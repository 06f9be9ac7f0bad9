"""The main job in three minutes: ``python -m discriminative.demo [--link wifi]``, or ``make demo``.

An edge and a cloud train one classifier together over an emulated link, once serially (K = 0: the edge waits for
each gradient, as JointDNN does) and once pipelined, with the least K that keeps the slowest stage busy.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import parse_context
from common.planning.cost import smallest_sufficient_staleness
from common.records import check_run_dir
from discriminative.demo_figure import draw
from discriminative.testbed import Testbed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoOptions:
    """Train serially and pipelined over an emulated link, and compare."""

    link: str = "wifi"
    """iot, 4g, 4g+, wifi, 5g, wired, or UP/DOWN/RTT[/JITTER] in Mbit/s and ms."""
    dataset: str = "digits"
    """digits, synthetic, cifar10, or npz:FILE."""
    model: str = "resnet20"
    """Model to train."""
    split_index: int = 4
    """Slices of the model on the edge."""
    epochs: int = 5
    """Epochs of each of the two runs."""
    lr: float = 0.05
    """First learning rate."""
    run_dir: Path = Path("runs")
    """Where run folders and the figure go."""
    debug: bool = False
    """Show tracebacks and debug messages."""


def main() -> None:
    """Run both and print the table."""
    options = parse(DemoOptions)
    context = parse_context(options.link)
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; a comparison needs 1 or more")
    check_run_dir(options.run_dir)
    if (os.cpu_count() or 1) < 2:
        log.warning("note: this machine has one core, so edge and cloud cannot compute at the same time")
    print(f"edge and cloud on this machine, a core each; between them {context.name}: {context}")
    flags = [
        *("--model", options.model, "--split_index", str(options.split_index), "--dataset", options.dataset),
        *("--epochs", str(options.epochs), "--lr", str(options.lr)),
    ]
    with Testbed(options.link, options.run_dir) as testbed:
        print("\nserial: the edge waits for each gradient (K = 0)", flush=True)
        serial, serial_folder = testbed.train([*flags, "--stale_it", "0", "--log_name", "demo-serial"])
        stale_it = _sufficient(serial, context.rtt_ms / 1e3)
        print(
            f"\npipelined: up to {stale_it} batches ahead, the least that can keep the slowest stage busy", flush=True
        )
        pipelined, folder = testbed.train([*flags, "--stale_it", str(stale_it), "--log_name", "demo-pipelined"])
    print(_table(serial, pipelined))
    figure = options.run_dir / f"demo-{time.strftime('%Y%m%d-%H%M%S')}.png"
    draw(figure, {"serial (K = 0)": serial_folder, f"pipelined (K = {stale_it})": folder}, str(context))
    print(f"\nfigure: {figure}\nrecords: {serial_folder}, {folder} (trace.json opens in https://ui.perfetto.dev)")


def _sufficient(serial: dict[str, Any], rtt_s: float) -> int:
    """K from the serial run's stages; ahead of the gradients the edge also replays its forward pass."""
    stages = dict(serial["stages_s"])
    stages["edge"] *= 4 / 3  # forward, forward again, and a backward of two forwards' length
    return smallest_sufficient_staleness(list(stages.values()), rtt_s)


def _table(serial: dict[str, Any], pipelined: dict[str, Any]) -> str:
    rows = [("", "accuracy", "step time", "of the limit", "MB up/step", "MB down/step", "training")]
    for name, run in (("serial", serial), ("pipelined", pipelined)):
        rows.append(
            (
                f"{name}, K = {run['stale_it']}",
                f"{100 * run['accuracy']:.2f} %",
                f"{1e3 * run['step_time_s']:.1f} ms",
                f"{100 / run['limit_ratio']:.0f} %",
                f"{run['bytes_up_per_step'] / 1e6:.3f}",
                f"{run['bytes_down_per_step'] / 1e6:.3f}",
                f"{run['training_s']:.1f} s",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    faster = serial["training_s"] / pipelined["training_s"]
    return "\n" + "\n".join(lines) + f"\n\npipelined training took {faster:.2f} x less time"


if __name__ == "__main__":
    run_command(main)
