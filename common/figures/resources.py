"""Memory and energy as bars: of runs (``summary.json``), and of what ``quantify`` measured (its ``--json`` files)."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.drawing import COLORS, GREY, HATCHES, Look, fill, plain
from common.errors import UsageError
from common.figures.files import number, read_object
from common.figures.run_folder import RunFolder

_MIB = 2**20
_ENDED = "a run that has ended well writes it"


@dataclass(frozen=True)
class Bar:
    """A measured total, and its parts where they are known."""

    label: str
    total: float
    parts: Mapping[str, float]
    """They add up to the total; empty where only the total is known."""


def memory_bars(sources: Sequence[Path], labels: Sequence[str] = ()) -> list[Bar]:
    """Peak memory in MiB, of run folders and of files of ``quantify.memory``.

    Raises:
        UsageError: something else, or something that does not tell its memory.
    """
    return [_memory(path, label) for path, label in _labelled(sources, labels)]


def energy_bars(sources: Sequence[Path], labels: Sequence[str] = ()) -> list[Bar]:
    """Energy in J, of run folders and of files of ``quantify.energy``; the rails are the parts.

    Raises:
        UsageError: something else, or something that does not tell its energy.
    """
    return [_energy(path, label) for path, label in _labelled(sources, labels)]


def draw_memory(look: Look, bars: Sequence[Bar], budget_mib: float | None = None) -> Figure:
    """The figure of peak memory, with its parts where they are known; a line at the budget, where there is one."""
    figure, axis = _horizontal(look, bars)
    names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
    for place, bar in enumerate(bars):
        _draw_parts(axis, place, bar.parts or {"": bar.total}, names)
    _tell_totals(axis, bars, "MiB")
    if budget_mib is not None:
        axis.axvline(budget_mib, color=COLORS[1], linestyle="--")
        axis.set_title(f"dashed: budget, {budget_mib:,.0f} MiB", fontsize="small")
    axis.set_xlabel(_label("peak memory of the process (MiB)", bars))
    if names:
        figure.legend(
            handles=[Patch(**fill(place), label=name) for place, name in enumerate(names)], loc="outside lower center"
        )
    return figure


def draw_energy(look: Look, bars: Sequence[Bar]) -> Figure:
    """The figure of energy; rails that are in the total are stacked."""
    figure, axis = _horizontal(look, bars)
    names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
    for place, bar in enumerate(bars):
        _draw_parts(axis, place, bar.parts, names)
        if not bar.parts:
            axis.barh(place, bar.total, height=0.65, facecolor=GREY, edgecolor="white", hatch=HATCHES[-2])
    _tell_totals(axis, bars, "J")
    axis.set_xlabel(_label("energy (J)", bars))
    handles = [Patch(**fill(place), label=name) for place, name in enumerate(names)]
    if any(not bar.parts for bar in bars):
        handles.append(Patch(facecolor=GREY, edgecolor="white", hatch=HATCHES[-2], label="rails not told apart"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _horizontal(look: Look, bars: Sequence[Bar]) -> tuple[Figure, Axes]:
    if not bars:
        raise UsageError("which run? Give run folders, or files that quantify wrote with --json")
    figure = look.figure(0.45 + 0.17 * max(len(bars), 3))
    axis = figure.subplots()
    plain(axis, "x")
    axis.set_yticks(range(len(bars)), [textwrap.fill(bar.label, 26, max_lines=2, placeholder="…") for bar in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter("{x:,g}")
    return figure, axis


def _draw_parts(axis: Axes, place: int, parts: Mapping[str, float], names: Sequence[str]) -> None:
    left = 0.0
    for name, value in parts.items():
        axis.barh(place, value, left=left, height=0.65, **fill(names.index(name) if name else 0))
        left += value


def _tell_totals(axis: Axes, bars: Sequence[Bar], unit: str) -> None:
    first = bars[0].total
    for place, bar in enumerate(bars):
        ratio = f"  {bar.total / first:.2f} x" if place and first > 0 else ""
        axis.annotate(
            f"{bar.total:,.0f} {unit}{ratio}" if bar.total >= 100 else f"{bar.total:.3g} {unit}{ratio}",
            (bar.total, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axis.set_xlim(0, 1.22 * max(bar.total for bar in bars) or 1)


def _label(text: str, bars: Sequence[Bar]) -> str:
    return f"{text}; x: of {bars[0].label}" if len(bars) > 1 else text


def _labelled(sources: Sequence[Path], labels: Sequence[str]) -> list[tuple[Path, str]]:
    if labels and len(labels) != len(sources):
        raise UsageError(f"--labels has {len(labels)} names for {len(sources)} measurements; give one for each")
    return list(zip(sources, labels or [""] * len(sources), strict=True))


def _memory(path: Path, label: str) -> Bar:
    way_out = "give a run folder, or a file of python -m quantify.memory --json"
    if path.is_dir():
        run = RunFolder(path, label)
        return _bar(run.label, run.of_summary("edge_peak_memory_bytes") / _MIB, path, "edge_peak_memory_bytes")
    found = read_object(path, way_out)
    if "peak_resident_bytes" not in found:
        raise UsageError(f"{path} has no peak_resident_bytes; {way_out}")
    # The kernel's word of one process misses nothing; that of all processes is sampled.
    peaks = [number(found.get(name), name, path, way_out) for name in ("peak_resident_bytes", "peak_process_bytes")]
    return _bar(
        label or path.stem, max(peaks, key=lambda each: -1.0 if math.isnan(each) else each) / _MIB, path, "peak"
    )


def _energy(path: Path, label: str) -> Bar:
    way_out = "give a run folder that was metered, or a file of python -m quantify.energy --json"
    if path.is_dir():
        run = RunFolder(path, label)
        total = run.of_summary("energy_mj") / 1e3
        if not math.isfinite(total):
            raise UsageError(f"{path / 'summary.json'} has no energy_mj: the run was not metered; {way_out}")
        return _bar(run.label, total, path, "energy_mj", _rails_of(run))
    found = read_object(path, way_out).get("energy")
    if not isinstance(found, dict) or not isinstance(found.get("rails"), list):
        raise UsageError(f"{path} has no energy with rails; {way_out}")
    total = number(found.get("total_j"), "total_j", path, way_out)
    parts = dict(_rail(rail, path, way_out) for rail in found["rails"] if _counts(rail))
    return _bar(label or path.stem, total, path, "total_j", _named(parts))


def _rails_of(run: RunFolder) -> dict[str, float]:
    """Joules by rail of a metered run; of one that was resumed they are those since then, and do not add up: none."""
    path = run.folder / "summary.json"
    energy = run.summary.get("energy")
    rails = energy.get("rails_mj") if isinstance(energy, dict) else None
    if not isinstance(rails, dict):
        return {}
    parts = {str(name): number(value, f"rails_mj.{name}", path, _ENDED) / 1e3 for name, value in rails.items()}
    return _named(parts) if math.isclose(sum(parts.values()), run.of_summary("energy_mj") / 1e3, rel_tol=1e-3) else {}


def _named(parts: dict[str, float]) -> dict[str, float]:
    if "model" in parts:  # the declared one of the whole machine, common/metering/constant.py
        parts["model, not measured"] = parts.pop("model")
    return parts


def _counts(rail: Any) -> bool:
    return isinstance(rail, dict) and rail.get("in_total") is True


def _rail(rail: Mapping[str, Any], path: Path, way_out: str) -> tuple[str, float]:
    return str(rail.get("name")), number(rail.get("joules"), "joules of a rail", path, way_out)


def _bar(label: str, total: float, path: Path, what: str, parts: Mapping[str, float] | None = None) -> Bar:
    if not 0 <= total < math.inf:
        raise UsageError(f"{path} has no {what} that could be drawn; it is {total:g}")
    return Bar(label, total, parts or {})
