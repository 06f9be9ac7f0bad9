"""Is a run's own prediction right? ``python -m benchmarks.planned [--links iot 4g]``.

Runs that plan, of a generator of images whose head is at the cloud, over emulated links, edge and cloud on a core each:
what they predicted of a step before the run, against how long it took. (`benchmarks.planner` holds many plans of a
classifier against each other, `benchmarks.parties --plan` those of several parties.)
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.planning.log import FILE, read_plans
from common.records import check_run_dir
from discriminative.testbed import Testbed

_ASKED = {"ours": ("--plan", "ours"), "auto": ("--stale_it", "auto")}


@dataclass(frozen=True)
class Options:
    """Predicted against measured step times of runs that plan."""

    links: tuple[str, ...] = ("iot", "4g", "wifi")
    """Links to run."""
    image_size: int = 64
    """Pixels of a side."""
    slowdown: float = 1.0
    """How much slower the edge is."""
    epochs: int = 4
    """Epochs of 15 steps in a run."""
    out: Path = Path("runs/planned")
    """Folder of profiles and runs."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run all; for each link a row of `--plan ours`, and one of `--stale_it auto` at the default cut."""
    options = parse(Options)
    check_run_dir(options.out)
    rows = [row for link in options.links for row in _runs(options, link)]
    print(machine() + "\n")
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}))


def _runs(options: Options, link: str) -> Iterator[dict[str, Any]]:
    flags = ["--image_size", str(options.image_size), "--slowdown", str(options.slowdown), "--replan_s", "0"]
    flags += ["--epochs", str(options.epochs), "--checkpoint_every", "-1", "--samples", "0"]
    with Testbed(link, options.out, quiet=True, workload="generative") as testbed:
        for asked, choice in _ASKED.items():
            summary, folder = testbed.train([*flags, *choice])
            (decision,) = read_plans(folder / FILE)
            predicted_s = decision.predicted_step_s or 0.0
            yield {
                "link": link,
                "asked": asked,
                "cut": summary["cut_name"],
                "codecs": f"{decision.plan.compress_up} / {decision.plan.compress_down}",
                "K": decision.plan.stale_it,
                **{f"{stage}_ms": 1e3 * seconds for stage, seconds in summary["stages_s"].items()},
                "predicted_ms": 1e3 * predicted_s,
                "step_ms": 1e3 * summary["step_time_s"],
                "of_predicted": summary["step_time_s"] / predicted_s,
            }


if __name__ == "__main__":
    run_command(main)
