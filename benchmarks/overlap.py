"""How near does a step come to its slowest stage? ``python -m benchmarks.overlap [--contexts wifi 4g 5g]``.

Edge and cloud have a core and a thread each; the link between them is emulated. Models, cuts and batch sizes are
chosen so that link and compute are of the same order: where one stage dwarfs the rest, any system looks good.
Each row is a whole run; its stage times are its own, and so are the closed form and the limit beside it.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import parse_context
from common.planning.cost import smallest_sufficient_staleness, step_time
from common.wire.certificates import create
from discriminative.testbed import Testbed


@dataclass(frozen=True)
class Options:
    """Step time against the slowest stage, for K = 0, 1, 2, 3."""

    contexts: tuple[str, ...] = ("wifi", "4g", "5g")
    """Links to run."""
    stale_it: tuple[int, ...] = (0, 1, 2, 3)
    """Staleness bounds to run."""
    epochs: int = 1
    """Epochs of 64 steps in a run."""
    repeats: int = 1
    """Runs of each row; the one of median step time is shown."""
    tls: bool = False
    """With TLS 1.3 and a token, as on any address that is not this machine's own."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Case:
    """What to train over a link."""

    model: str
    cut: str
    compress_up: str
    compress_down: str
    batch_size: int = 32

    @property
    def flags(self) -> list[str]:
        """For the client."""
        return [
            *("--model", self.model, "--cut", self.cut, "--batch_size", str(self.batch_size)),
            *(
                "--compress_up",
                self.compress_up,
                "--compress_down",
                self.compress_down,
                "--dataset",
                "synthetic",
            ),
        ]


CASES = {
    "wifi": Case("resnet20", "features.3", "int8", "int8"),
    "4g": Case("resnet20", "features.7", "int8", "fp16"),
    "5g": Case("resnet20", "features.3", "int8", "fp16"),
}


def main() -> None:
    """Run all rows and print them."""
    options = parse(Options)
    if unknown := [name for name in options.contexts if name not in CASES]:
        raise UsageError(f"no case is set for {unknown[0]!r}; known are {', '.join(CASES)}")
    print(machine())
    rows = []
    for context in options.contexts:
        with tempfile.TemporaryDirectory() as folder, _testbed(context, Path(folder), tls=options.tls) as testbed:
            for stale_it in options.stale_it:
                flags = [*CASES[context].flags, "--epochs", str(options.epochs), "--stale_it", str(stale_it)]
                runs = [testbed.train(flags)[0] for _ in range(options.repeats)]
                runs.sort(key=lambda run: float(run["step_time_s"]))
                rows.append(_row(context, runs[len(runs) // 2]))
    print_table(rows)
    for context in options.contexts:
        print(_verdict([row for row in rows if row["link"] == context]))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


def _testbed(context: str, folder: Path, *, tls: bool) -> Testbed:
    if not tls:
        return Testbed(context, folder, quiet=True)
    security = folder / "security"
    create(security, ("127.0.0.1",), days=1, clients=())
    flags = ("--security", str(security))
    return Testbed(context, folder, server_flags=flags, client_flags=("--security", str(security / "edge")), quiet=True)


def _row(context: str, summary: dict[str, Any]) -> dict[str, Any]:
    stages = summary["stages_s"]
    rtt_s = parse_context(context).rtt_ms / 1e3
    case = asdict(CASES[context])
    return {
        "link": context,
        **{name: case[name] for name in ("model", "cut")},
        "K": summary["stale_it"],
        **{f"{stage}_ms": 1e3 * value for stage, value in stages.items()},
        "slowest": max(stages, key=stages.__getitem__),
        "limit_ms": 1e3 * summary["limit_s"],
        "closed_form_ms": 1e3 * step_time(list(stages.values()), rtt_s, summary["stale_it"]),
        "step_ms": 1e3 * summary["step_time_s"],
        "of_limit": summary["limit_ratio"],
        "sufficient_K": smallest_sufficient_staleness(list(stages.values()), rtt_s),
    }


def _verdict(rows: list[dict[str, Any]]) -> str:
    """The row at its own smallest sufficient K, in words."""
    fitting = [row for row in rows if row["K"] >= row["sufficient_K"]]
    if not fitting:
        return f"{rows[0]['link']}: no K was sufficient; the last row needs K = {rows[-1]['sufficient_K']}"
    row, serial = fitting[0], rows[0]
    return (
        f"{row['link']}: at the smallest sufficient K = {row['K']} a step takes {row['of_limit']:.2f} x its slowest "
        f"stage ({row['slowest']}), and {serial['step_ms'] / row['step_ms']:.2f} x less than at K = {serial['K']}"
    )


if __name__ == "__main__":
    run_command(main)
