"""The generative job in two minutes: ``python -m generative.demo [--link wifi]``, or ``make demo-generative``.

A cloud and an edge train one generator of chairs together over an emulated link, once serially (K = 0) and once
pipelined. The images, and the loss, stay at the edge; what is generated of held-out poses is shown behind each epoch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import parse_context
from common.records import check_run_dir
from discriminative.testbed import Testbed
from generative.samples import FOLDER


@dataclass(frozen=True)
class DemoOptions:
    """Train a generator serially and pipelined over an emulated link, and compare."""

    link: str = "wifi"
    """iot, 4g, 4g+, wifi, 5g, wired, or UP/DOWN/RTT[/JITTER] in Mbit/s and ms."""
    dataset: str = "shapes"
    """shapes, chairs:PATH, or objects:PATH."""
    image_size: int = 32
    """Pixels of a side: 32, 64 or 128."""
    width: float = 0.25
    """Factor of the layers' widths."""
    split_index: int = 5
    """Slices of the model on the cloud."""
    stale_it: int = 2
    """K of the pipelined run."""
    epochs: int = 12
    """Epochs of each of the two runs."""
    run_dir: Path = Path("runs")
    """Where run folders go."""
    debug: bool = False
    """Show tracebacks and debug messages."""


def main() -> None:
    """Run both and print the table."""
    options = parse(DemoOptions)
    context = parse_context(options.link)
    if options.epochs < 1 or options.stale_it < 1:
        raise UsageError("--epochs and --stale_it of a comparison are 1 or more")
    check_run_dir(options.run_dir)
    cores = " a core each;" if (os.cpu_count() or 1) > 1 else " one core for both, which cannot overlap;"
    print(f"edge and cloud on this machine,{cores} between them {context.name}: {context}")
    flags = [
        *("--dataset", options.dataset, "--image_size", str(options.image_size), "--width", str(options.width)),
        *("--split_index", str(options.split_index), "--epochs", str(options.epochs), "--batch_size", "16"),
    ]
    rows: list[tuple[str, ...]] = [
        ("", "held-out loss", "step time", "of the limit", "MB up/step", "MB down/step", "training")
    ]
    folders: list[Path] = []
    with Testbed(options.link, options.run_dir, workload="generative") as testbed:
        for name, stale_it in (("serial", 0), ("pipelined", options.stale_it)):
            print(f"\n{name}: K = {stale_it}", flush=True)
            run, folder = testbed.train([*flags, "--stale_it", str(stale_it), "--log_name", f"demo-chairs-{name}"])
            rows.append(_row(name, run))
            folders.append(folder)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    print("\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows))
    last = f"{options.epochs:03d}.png"
    print(f"\nheld-out images over what was generated: {folders[-1] / FOLDER / f'epoch_{last}'}")
    print(f"a chair from all around: {folders[-1] / FOLDER / f'turn_{last}'}\nrecords: {folders[0]}, {folders[1]}")


def _row(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{name}, K = {run['stale_it']}",
        f"{run['loss']:.4f}",
        f"{1e3 * run['step_time_s']:.1f} ms",
        f"{100 / run['limit_ratio']:.0f} %",
        f"{run['bytes_up_per_step'] / 1e6:.3f}",
        f"{run['bytes_down_per_step'] / 1e6:.3f}",
        f"{run['training_s']:.1f} s",
    )


if __name__ == "__main__":
    run_command(main)
