"""Tables of a report as HTML, every cell escaped."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from common.figures.run_folder import RunFolder

_NOTHING = "-"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _ms(value: float) -> str:
    return f"{1e3 * value:,.1f} ms"


def _mb(value: float) -> str:
    return f"{value / 1e6:,.3f} MB"


# What the summaries of runs are compared by: key, heading, form.
_MEASURES: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("accuracy", "accuracy", _percent),
    ("loss", "held-out loss", lambda value: f"{value:.4f}"),
    ("epochs", "epochs", lambda value: f"{value:,.0f}"),
    ("steps", "steps", lambda value: f"{value:,.0f}"),
    ("step_time_s", "step", _ms),
    ("limit_s", "limit", _ms),
    ("limit_ratio", "of the limit", lambda value: f"{value:.2f} x"),
    ("bytes_up_per_step", "up a step", _mb),
    ("bytes_down_per_step", "down a step", _mb),
    ("training_s", "training", lambda value: f"{value:,.1f} s"),
    ("wall_s", "in all", lambda value: f"{value:,.1f} s"),
    ("edge_peak_memory_bytes", "memory of the edge", lambda value: f"{value / 2**20:,.0f} MiB"),
    ("energy_mj", "energy", lambda value: f"{value / 1e3:,.1f} J"),
    ("faults", "faults", lambda value: f"{value:,.0f}"),
    ("moves", "moves of the cut", lambda value: f"{value:,.0f}"),
    ("resumes", "resumes", lambda value: f"{value:,.0f}"),
)
_WORDS = {
    "model": "model",
    "dataset": "data set",
    "cut_name": "cut behind",
    "stale_it": "K",
    "compress_up": "codec up",
    "compress_down": "codec down",
}


def results(runs: Sequence[RunFolder]) -> str:
    """What each run came to, a column for each."""
    ended = {run.label: run.summary if run.has("summary.json") else {} for run in runs}
    rows = [[heading, *(_plain(each.get(name)) for each in ended.values())] for name, heading in _WORDS.items()]
    for name, heading, form in _MEASURES:
        values = [run.of_summary(name) if run.has("summary.json") else math.nan for run in runs]
        rows.append([heading, *(form(value) if math.isfinite(value) else _NOTHING for value in values)])
    digests = (str(each.get("parameters_digest") or _NOTHING)[:12] for each in ended.values())
    rows.append(["digest begins", *digests])
    return table(["", *ended], [row for row in rows if any(cell != _NOTHING for cell in row[1:])], numbers=True)


def differences(caption: str, values: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Values by key, of each run that has any; those that differ first, the others where they are asked for."""
    flat = [(label, flattened(each)) for label, each in values if each]
    keys = list(dict.fromkeys(key for _, each in flat for key in each))
    rows = {key: [_plain(each.get(key)) for _, each in flat] for key in keys}
    differ = [[key, *cells] for key, cells in rows.items() if len(set(cells)) > 1]
    same = [[key, cells[0]] for key, cells in rows.items() if len(set(cells)) == 1]
    parts = []
    if differ:
        parts.append(table([caption, *(label for label, _ in flat)], differ))
    if same:
        name = f"the same in all {len(flat)} runs" if len(flat) > 1 else "all values"
        opened = " open" if len(flat) == 1 else ""
        inner = table([caption, ""], same)
        parts.append(f"<details{opened}><summary>{escape(name)}: {len(same)} of {caption}</summary>{inner}</details>")
    return "\n".join(parts) or f'<p class="note">no {escape(caption)}</p>'


def epochs(run: RunFolder) -> str:
    """A run's epochs, a row for each."""
    rows = run.epoch_rows
    return table([*rows[0]] if rows else [], [[_rounded(cell) for cell in row.values()] for row in rows], numbers=True)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A table; its first column names the rows, and with ``numbers`` the others stand at the right."""
    mark = ' class="number"' if numbers else ""
    head = "".join(f'<th scope="col"{mark if i else ""}>{escape(each)}</th>' for i, each in enumerate(heading))
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{mark}>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def flattened(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects by dotted names."""
    found: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, dict) and each:
            found |= flattened(each, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = each
    return found


def _plain(value: Any) -> str:
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _rounded(cell: str) -> str:
    """Five digits of a number, all else as it is."""
    try:
        return f"{float(cell):,.5g}"
    except ValueError:
        return cell or _NOTHING
