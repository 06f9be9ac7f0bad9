"""Does a run end as if nothing had happened? ``python -m benchmarks.chaos [--faults 2000] [--kills 12] [--freezes 5]``.

Real training runs, server and client, over an emulated link that is broken at random moments: within frames, in both
directions, while they open, while they connect again, while they end. A run must end with the loss of every step, the
number of steps, the weights and the accuracy of the same run in one process that nothing can break, to the last bit,
and the server must have made each update once. The same when processes are killed (``--kills``), and when the link
stands still for a while without any connection being closed (``--freezes``).
"""

import json
import logging
import random
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.chaos_kills import Victims
from benchmarks.chaos_link import Standstill, Storm, place, train
from benchmarks.chaos_runs import SETTINGS, Images, Outcome, Setting, undisturbed
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError

_KILLS = 3
"""Times that a run loses its client, its server, or both; at most."""
_LONGER_S = 6.0


@dataclass(frozen=True)
class Options:
    """Break training runs, and compare how they end."""

    faults: int = 50
    """How often the link is broken, in all runs together."""
    kills: int = 0
    """How many processes are killed, in further runs."""
    freezes: int = 0
    """How often the link stands still, in further runs; each takes half a minute."""
    interval_s: float = 0.5
    """Mean time between two faults of the link."""
    epochs: int = 2
    """Epochs of a run; runs with kills have twice as many."""
    steps: int = 8
    """Steps of an epoch."""
    seed: int = 0
    """Chooses all that is random."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks, and what server and client say."""


@dataclass
class Row:
    """What became of the runs of a setting."""

    setting: str
    runs: int = 0
    steps: int = 0
    """That counted; steps computed twice behind a kill count once."""
    faults: int = 0
    """Times that connections were broken, processes were killed, or the link stood still."""
    breaks: int = 0
    """Training connections that clients have lost."""
    resumes: int = 0
    """Times that training went on; where a client was killed, as its last process saw it."""
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    more: dict[str, float] = field(default_factory=dict)
    """What only some benchmarks measure."""

    def add(self, outcome: Outcome, faults: int, seconds: float, difference: str) -> None:
        """One run more."""
        self.runs += 1
        self.steps += len(outcome.losses)
        self.faults += faults
        self.breaks += outcome.summary["faults"]
        self.resumes += outcome.summary["resumes"]
        self.seconds += seconds
        self.differences += [difference] if difference else []

    def cells(self) -> dict[str, Any]:
        """For the table."""
        cells = {name: value for name, value in asdict(self).items() if name not in ("differences", "more")}
        return {**cells, **self.more, "equal": "no" if self.differences else "yes"}


class Benchmark:
    """Runs of all settings in turn.

    Args:
        options: of the command line.
        folder: for what they write.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._rng = random.Random(options.seed)
        self._images = Images.make(folder, options.steps)
        self._expected: dict[tuple[str, int], Outcome] = {}

    def faults(self) -> list[Row]:
        """Break the link."""
        rows, left = _rows(), self._options.faults
        for setting in cycle(SETTINGS):
            if left <= 0:
                break
            row, epochs = rows[setting.name], self._options.epochs
            expected = self._undisturbed(setting, epochs)
            with (
                place(self._folder, tls=setting.tls) as here,
                Storm(here.link, self._rng, self._options.interval_s, max(1, _share(left, rows))) as storm,
            ):
                run = train(here, self._images, setting, self._folder / "runs", epochs)
            row.add(run.outcome, storm.faults, run.seconds, run.difference(expected))
            left -= storm.faults
        return list(rows.values())

    def kills(self) -> list[Row]:
        """Kill processes."""
        rows, left, epochs = _rows(), self._options.kills, 2 * self._options.epochs
        for number, setting in enumerate(cycle(SETTINGS)):
            if left <= 0:
                break
            expected, folder = self._undisturbed(setting, epochs), self._folder / f"kills-{number}"
            most = max(1, min(_KILLS, _share(left, rows) // 2))  # both are two
            with Victims(self._images, setting, folder, epochs, self._rng) as victims:
                run = victims.run(most)
            rows[setting.name].add(run.outcome, run.kills, run.seconds, run.outcome.difference(expected))
            left -= run.kills
        return list(rows.values())

    def freezes(self) -> list[Row]:
        """Let the link stand still, once in a run."""
        rows, epochs = [], self._options.epochs
        for _, setting in zip(range(self._options.freezes), cycle(SETTINGS), strict=False):
            expected = self._undisturbed(setting, epochs)
            after, longer_s = self._rng.randrange(1, len(expected.losses)), self._rng.uniform(0, _LONGER_S)
            with place(self._folder, tls=setting.tls) as here, Standstill(here, after, longer_s) as still:
                run = train(here, self._images, setting, self._folder / "runs", epochs)
            row = Row(setting.name, more={"noticed_s": still.noticed_s, "recovered_s": still.recovered_s})
            missed = "" if still.noticed_s else "the client has not noticed that the link stood still"
            row.add(run.outcome, 1, run.seconds, missed or run.difference(expected))
            rows.append(row)
        return rows

    def _undisturbed(self, setting: Setting, epochs: int) -> Outcome:
        """How a run ends that nothing breaks."""
        key = setting.name, epochs
        if key not in self._expected:
            self._expected[key] = undisturbed(self._images, setting, self._folder / "undisturbed", epochs)
        return self._expected[key]


def _rows() -> dict[str, Row]:
    return {each.name: Row(each.name) for each in SETTINGS}


def _share(left: int, rows: dict[str, Row]) -> int:
    """What the next run may have of what is left: enough stays for the settings that have not had a run."""
    return left // max(1, sum(not row.runs for row in rows.values()))


def main() -> None:
    """Run all, print the tables, and fail where anything differs."""
    options = parse(Options)
    if min(options.faults, options.kills, options.freezes) < 0 or options.interval_s <= 0:
        raise UsageError("--faults, --kills and --freezes are 0 or more, --interval_s above 0")
    if min(options.epochs, options.steps) < 1:
        raise UsageError("--epochs and --steps are 1 or more")
    logging.getLogger().setLevel(logging.INFO if options.debug else logging.ERROR)
    torch.set_num_threads(1)
    print(machine())
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(options, Path(folder))
        for name, run in (("faults", benchmark.faults), ("kills", benchmark.kills), ("freezes", benchmark.freezes)):
            if getattr(options, name):
                tables[name] = run()
                print(f"\n{name}\n")
                print_table([row.cells() for row in tables[name]])
    if options.json:
        rows = {name: [asdict(row) for row in table] for name, table in tables.items()}
        options.json.write_text(json.dumps({"machine": machine(), **rows}, indent=2))
    if wrong := [f"{row.setting}: {each}" for table in tables.values() for row in table for each in row.differences]:
        raise TandemError(f"{len(wrong)} runs did not end as undisturbed ones; {'; '.join(wrong[:5])}")


if __name__ == "__main__":
    run_command(main)
