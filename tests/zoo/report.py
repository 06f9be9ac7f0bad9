"""The zoo's table as a page of the documentation: every model, the totals, and what is missing and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata

from benchmarks.table import machine
from tests.zoo.entry import SUITES, Entry
from tests.zoo.row import CLOSE, DIFFERS, Row

_INTRODUCTION = """\
# Models that Tandem cuts

Written by `make test-zoo`. Each model is built with random weights, traced on a small batch, cut, and compared with
itself in one piece on a batch of other values. What crosses a cut is packed and copied as it is for the wire.

- **points**: where the model can be cut.
- **narrowest** and **widest** cut: what crosses there, of all points between input and output, for the small batch.
- **evaluation**: *exact* where the outputs are equal bit for bit: *each* point cut for itself; or the model cut at
  *all at once*, and at some alone; or at so many of the points, where a part runs all of the model's Python code.
- **training**: of a step at some cuts from first to last where training may be cut, *exact* where outputs, loss,
  buffers and gradients are equal bit for bit; *close* where gradients are equal but for rounding, with the worst
  difference relative to the largest element of a parameter's gradient: at most 1e-5, or gone in float64.
- **unsafe**: points where the trace itself says that training must not be cut.
"""
_HEADING = ("model", "points", "narrowest", "widest", "front end", "evaluation", "training", "unsafe")


def report(entries: Sequence[Entry], rows: Mapping[tuple[str, str], Row], left_out: Sequence[str]) -> str:
    """The page.

    Args:
        entries: the zoo, in order.
        rows: what is known, by suite and name.
        left_out: models that the zoo has no entry for, with the reasons.
    """
    known = [rows.get((entry.suite, entry.name), Row(entry.suite, entry.name)) for entry in entries]
    passed = sum(row.passed for row in known)
    lines = [_INTRODUCTION, f"**{passed} of {len(known)}** models pass.", "", *_totals(known), ""]
    lines += ["## What is missing, and why", "", *_missing(known), *(f"- {each}" for each in left_out), ""]
    for suite in SUITES:
        lines += [f"## {suite}", "", *_table([row for row in known if row.suite == suite]), ""]
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torchvision", "timm", "ultralytics", "transformers"))
    return "\n".join([*lines, f"{machine()}; {versions}.", ""])


def totals(rows: Sequence[Row]) -> str:
    """Such as "169 of 169 models pass"."""
    return f"{sum(row.passed for row in rows)} of {len(rows)} models pass"


def _totals(rows: Sequence[Row]) -> list[str]:
    heading = ("suite", "models", "pass", "evaluation exact", "training exact", "training close", "front ends")
    cells = []
    for suite in (*SUITES, "all"):
        mine = [row for row in rows if suite in (row.suite, "all")]
        ends = Counter(row.front_end for row in mine if row.front_end)
        cells.append(
            [
                suite,
                str(len(mine)),
                str(sum(row.passed for row in mine)),
                str(sum(row.evaluation == "exact" for row in mine)),
                str(sum(row.training == "exact" for row in mine)),
                str(sum(row.training == CLOSE for row in mine)),
                ", ".join(f"{name} {count}" for name, count in ends.most_common()),
            ]
        )
    return _markdown(heading, cells)


def _missing(rows: Sequence[Row]) -> list[str]:
    lines = [f"- {row.suite} {row.model}: {row.failure or 'not run'}" for row in rows if not row.passed]
    return lines or ["Nothing of the list."]


def _table(rows: Sequence[Row]) -> list[str]:
    return _markdown(_HEADING, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    evaluation = f"{row.evaluation} ({row.evaluation_cuts})" if row.evaluation_cuts else row.evaluation
    errors = row.gradient_error + (f"; {row.double_error} in float64" if row.double_error else "")
    training = f"{row.training} ({errors})" if row.training in (CLOSE, DIFFERS) else row.training
    sizes = (_size(row.narrowest_bytes), _size(row.widest_bytes))
    return [row.model, row.points, *sizes, row.front_end, evaluation, training, row.unsafe_points]


def _size(nbytes: str) -> str:
    if not nbytes:
        return ""
    size = int(nbytes)
    return f"{size} B" if size < 1024 else f"{size / 1024:,.1f} KiB"


def _markdown(heading: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *cells]
    return ["| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
