"""A run's folder as figures and reports read it; each file is read when it is asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.figures.files import Columns, columns, number, read_object, read_objects, read_rows
from common.planning.log import FILE as PLANS
from common.planning.log import Decision, read_plans

STAGES = ("edge", "uplink", "cloud", "downlink")

_WAY_OUT = "a run that has ended well writes it"
_EPOCHS = "a run writes a row at each epoch's end"
_NEEDED = ("step", "loss", "bytes_up", "bytes_down", "staleness", "wall_s")
_TIME_STAMP = re.compile(r"\d{8}-\d{6}-(.+)")


@dataclass(frozen=True)
class Work:
    """A piece of work in a run's timeline."""

    track: str
    """Such as ``edge forward``, ``uplink``, ``cloud compute``."""
    name: str
    step: int
    start_s: float
    seconds: float


class RunFolder:
    """What a run left behind.

    Args:
        folder: of the run.
        label: what the run is called in figures; default the folder's name without its time.

    Raises:
        UsageError: the folder is no run's.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        self.folder = folder
        if not folder.is_dir():
            raise UsageError(f"there is no run folder {folder}; a run says at its end where its records are")
        if not any(self.has(name) for name in ("summary.json", "metrics.jsonl", "config.json")):
            inside = sorted(each.parent.name for each in folder.glob("*/metrics.jsonl"))
            hint = f"; did you mean {folder / inside[-1]}?" if inside else ""
            raise UsageError(f"{folder} is no run folder: it has no summary.json, metrics.jsonl or config.json{hint}")
        name = folder.resolve().name
        stamped = _TIME_STAMP.fullmatch(name)
        self.label = label or (stamped[1] if stamped else name)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.folder / name).is_file()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json``."""
        return read_object(self.folder / "summary.json", _WAY_OUT)

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return read_object(self.folder / "config.json", "every run writes it at its start")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """``environment.json``."""
        return read_object(self.folder / "environment.json", "every run writes it at its start")

    @cached_property
    def steps(self) -> Columns:
        """``metrics.jsonl``: a place for each step."""
        path = self.folder / "metrics.jsonl"
        way_out = "a run writes a line at each training step"
        return columns(read_objects(path, way_out), _NEEDED, path, way_out)

    @cached_property
    def epoch_rows(self) -> list[dict[str, str]]:
        """``epochs.csv``: a row for each epoch, as it stands there."""
        return read_rows(self.folder / "epochs.csv", _EPOCHS)

    @cached_property
    def epochs(self) -> Columns:
        """When each epoch and its evaluation were over, and the accuracy; of a workload without one, nothing."""
        rows = self.epoch_rows
        wanted = ("wall_s", "accuracy") if rows and "accuracy" in rows[0] else ()
        return columns(rows, wanted, self.folder / "epochs.csv", _EPOCHS) if wanted else {}

    @cached_property
    def work(self) -> list[Work]:
        """``trace.json``, by start."""
        path = self.folder / "trace.json"
        events = read_object(path, _WAY_OUT).get("traceEvents")
        try:
            if not isinstance(events, list):
                raise TypeError
            tracks = {each["tid"]: str(each["args"]["name"]) for each in events if each.get("name") == "thread_name"}
            found = [_work(each, tracks) for each in events if each.get("ph") == "X"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UsageError(f"{path} is no timeline of a run; {_WAY_OUT}") from None
        return sorted(found, key=lambda each: each.start_s)

    @cached_property
    def decisions(self) -> list[Decision]:
        """``plans.jsonl``."""
        return read_plans(self.folder / PLANS)

    def of_summary(self, name: str) -> float:
        """A number of the summary; NaN where it has none."""
        return number(self.summary.get(name), name, self.folder / "summary.json", _WAY_OUT)

    @cached_property
    def stages_s(self) -> Mapping[str, float]:
        """Mean time of each stage, from the summary."""
        path = self.folder / "summary.json"
        found = self.summary.get("stages_s")
        if not isinstance(found, dict) or not all(name in found for name in STAGES):
            raise UsageError(f"{path} has no stages_s with {', '.join(STAGES)}; {_WAY_OUT}")
        return {name: number(found[name], f"stages_s.{name}", path, _WAY_OUT) for name in STAGES}


def open_runs(folders: Sequence[Path], labels: Sequence[str] = ()) -> list[RunFolder]:
    """The runs of a command line, with its labels, if it has any; runs of the same name are numbered."""
    if labels and len(labels) != len(folders):
        raise UsageError(f"--labels has {len(labels)} names for {len(folders)} runs; give one for each")
    if not folders:
        raise UsageError("which run? Give its folder, such as runs/20261122-143000-resnet20-digits")
    runs = [RunFolder(*each) for each in zip(folders, labels or [""] * len(folders), strict=True)]
    taken: dict[str, int] = {}
    for run in runs:
        taken[run.label] = taken.get(run.label, 0) + 1
        if taken[run.label] > 1:
            run.label = f"{run.label} ({taken[run.label]})"
    return runs


def _work(event: Mapping[str, Any], tracks: Mapping[int, str]) -> Work:
    return Work(
        tracks[event["tid"]],
        str(event["name"]).rpartition(" ")[0],
        int(event["args"]["step"]),
        float(event["ts"]) / 1e6,
        float(event["dur"]) / 1e6,
    )
