"""Many ablations by one command: ``python -m baseline.sweep --grid stale_it=0,1,3 compress=none,int8 -- FLAGS``.

Every combination is trained in this process by the code of `baseline.base`, one after the other. A CSV takes a row for
each as it ends; what stands there is not run again, so a long sweep can be stopped and continued. A row also has the
flags that do not vary: with others it is another run.
"""

import csv
import itertools
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.naming import nearest
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.resume import OF_THE_MOMENT
from discriminative.train import train_in_process

T = TypeVar("T")

RESULTS = (
    "accuracy",
    "loss",
    "train_loss",
    "steps",
    "step_time_s",
    "bytes_up_per_step",
    "bytes_down_per_step",
    "folder",
)
_DEFAULTS = {each.name: each.default for each in fields(BaseOptions)}


@dataclass(frozen=True)
class Options:
    """Train all combinations of some flags, in one process. Behind -- are the other flags of baseline.base."""

    grid: tuple[str, ...]
    """FLAG=VALUE,VALUE,... for each flag that varies, such as stale_it=0,1,3; of a switch FLAG=false,true."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each combination is run with each."""
    out: Path = Path("runs/sweep.csv")
    """A row for each run; runs whose row is there are not run again."""
    limit_h: float = 24.0
    """Start no run after so many hours."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run what is missing, and print the table."""
    mine, common = _divided(sys.argv[1:])
    options = parse(Options, mine)
    axes = parse_grid(options.grid)
    flags = flags_of(common, axes)
    wanted = [{**each, "flags": flags} for each in combinations(axes, options.seeds)]
    for each in wanted:  # better told before the first run than before the last
        _job(common, each).check()
    done = read(options.out, [*axes, "seed", "flags"])
    missing = [each for each in wanted if tuple(each.values()) not in done]
    for each in tqdm(in_time(missing, options.limit_h), total=len(missing), unit="run", disable=None):
        row = run(common, each)
        append(options.out, row)
        done[tuple(each.values())] = row
    rows = [done[key] for each in wanted if (key := tuple(each.values())) in done]
    print(table(rows))
    if len(rows) < len(wanted):
        print(f"{len(wanted) - len(rows)} of {len(wanted)} runs are left; the same command goes on with them")


def _divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before ``--``, and those behind it."""
    mine = list(itertools.takewhile(lambda word: word != "--", words))
    return mine, list(words[len(mine) + 1 :])


def parse_grid(grid: Sequence[str]) -> dict[str, list[str]]:
    """Values by flag; a flag that is given twice has the values of both.

    Raises:
        UsageError: no such flag, or no values.
    """
    axes: dict[str, list[str]] = {}
    for each in grid:
        name, _, values = each.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if name not in _DEFAULTS or name in ("seed", "run_dir", "resume"):
            raise UsageError(f"--grid {each}: there is no flag --{name} to vary; {nearest(name, _DEFAULTS)}")
        if not values:
            raise UsageError(f"--grid {each} has no values; it is FLAG=VALUE,VALUE")
        axes.setdefault(name, []).extend(values.split(","))
    if not axes:
        raise UsageError("--grid says what varies: FLAG=VALUE,VALUE for each flag")
    return axes


def combinations(axes: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> Iterator[dict[str, str]]:
    """All of them, seed by seed, so that a stopped sweep is complete for its first seeds."""
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            yield {**dict(zip(axes, values, strict=True)), "seed": str(seed)}


def in_time(runs: Sequence[T], limit_h: float) -> Iterator[T]:
    """Runs, one after the other, until so many hours have passed."""
    until = time.monotonic() + 3600 * limit_h
    yield from itertools.takewhile(lambda _: time.monotonic() <= until, runs)


def run(common: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    """Train one combination; its row."""
    options = _job(common, values)
    options.prepare()
    finished = train_in_process(plan_job(options), options)
    facts: dict[str, Any] = {**finished.summary, "folder": finished.folder}
    return {**values, **{name: str(facts.get(name, "")) for name in RESULTS}}


def flags_of(common: Sequence[str], varied: Collection[str]) -> str:
    """What all runs of a sweep have in common and is not a default, in one order; without what changes no result."""
    options, without = parse(BaseOptions, common), {"seed", "log_name", *OF_THE_MOMENT, *varied}
    return shlex.join(
        word
        for name, default in _DEFAULTS.items()
        if name not in without and (value := getattr(options, name)) != default
        for word in _words(name, value)
    )


def _words(name: str, value: Any) -> tuple[str, ...]:
    """A flag and its value as they stand on a command line.

    Raises:
        UsageError: a value that a switch has not.
    """
    if not isinstance(_DEFAULTS[name], bool):
        values = value if isinstance(value, tuple) else (value,)
        return (f"--{name}", *map(str, values))
    if str(value).lower() not in ("true", "false"):
        raise UsageError(f"--grid {name}={value}: --{name} is a switch, whose values are true and false")
    return (f"--{name}" if str(value).lower() == "true" else f"--no_{name}",)


def read(path: Path, names: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows of a table by what was varied; none where there is no file.

    Raises:
        UsageError: the table is of another sweep.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != [*names, *RESULTS]:
                raise UsageError(
                    f"{path} is a table of something else than {', '.join(names)}; name another with --out"
                )
            return {tuple(row[name] for name in names): row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a table ({error}); name another with --out") from None


def append(path: Path, row: Mapping[str, str]) -> None:
    """Add a row, under a heading where it is the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as text, without what they were run with and their folders."""
    if not rows:
        return "no run has ended yet"
    names = [name for name in rows[0] if name not in ("folder", "flags")]
    cells = [names, *([_short(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(n) for cell, n in zip(line, widths, strict=True)) for line in cells)


def _job(common: Sequence[str], values: Mapping[str, str]) -> BaseOptions:
    varied = [word for name, value in values.items() if name != "flags" for word in _words(name, value)]
    return parse(BaseOptions, [*common, *varied])


def _short(text: str) -> str:
    try:
        return text if text.isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


if __name__ == "__main__":
    run_command(main)
