"""The demo's figure: the stages of some steps over time, and the loss over time, of each run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_ROWS = ("edge", "uplink", "cloud", "downlink")
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # Okabe and Ito: told apart by the colour-blind
_SERIAL_STEPS = 4  # of the slowest run
_FIRST_STEP = 12


def draw(path: Path, runs: Mapping[str, Path], link: str) -> None:
    """Save the figure of ``runs`` (title -> run folder) to ``path``."""
    figure, axes = plt.subplots(len(runs) + 1, 1, figsize=(9, 2.2 * len(runs) + 3.2), layout="constrained")
    shown_ms = _SERIAL_STEPS * max(_step_ms(folder) for folder in runs.values())
    for axis, (title, folder) in zip(axes, runs.items(), strict=False):
        _timeline(axis, _events(folder), shown_ms)
        axis.set_title(f"{title}: {_step_ms(folder):.0f} ms a step", loc="left")
    axes[-2].set_xlabel("time (ms)")
    for color, (title, folder) in zip(("#555555", "#0072b2"), runs.items(), strict=False):
        times, losses = _losses(folder)
        axes[-1].plot(times, losses, label=title, color=color)
    axes[-1].set(xlabel="time since the start (s), evaluations included", ylabel="training loss", ylim=(0, None))
    axes[-1].set_title("training loss, mean of 10 steps", loc="left")
    axes[-1].legend()
    figure.suptitle(f"Split training over an emulated link: {link}")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _events(folder: Path) -> list[dict[str, Any]]:
    """Training work from the first shown step on, in ms from its start."""
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in trace if event["name"] == "process_name"}
    work = [event for event in trace if event["ph"] == "X"]
    # Evaluations number their batches too, but the first to bear a number is the training step.
    first = min(_FIRST_STEP, max(event["args"]["step"] for event in work))  # a short run has fewer
    start = min(event["ts"] for event in work if event["args"]["step"] == first)
    return [
        {
            "row": names[event["pid"]],
            "start": (event["ts"] - start) / 1e3,
            "ms": event["dur"] / 1e3,
            "step": event["args"]["step"],
        }
        for event in work
        if event["ts"] + event["dur"] >= start
    ]


def _step_ms(folder: Path) -> float:
    return 1e3 * float(json.loads((folder / "summary.json").read_text())["step_time_s"])


def _timeline(axis: Axes, events: list[dict[str, Any]], shown_ms: float) -> None:
    for event in events:
        if event["start"] > shown_ms:
            continue
        row = _ROWS.index(event["row"])
        axis.broken_barh(
            [(event["start"], event["ms"])], (row - 0.4, 0.8), facecolor=_COLORS[row], edgecolor="white", linewidth=0.4
        )
        if event["ms"] > 0.03 * shown_ms:
            axis.text(
                event["start"] + event["ms"] / 2,
                row,
                str(event["step"]),
                ha="center",
                va="center",
                color="white",
                clip_on=True,
            )
    axis.set(xlim=(0, shown_ms), ylim=(len(_ROWS) - 0.5, -0.5), yticks=range(len(_ROWS)), yticklabels=_ROWS)


def _losses(folder: Path) -> tuple[Any, Any]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    width = min(10, len(rows))
    kernel = np.ones(width) / width
    return [row["wall_s"] for row in rows][width - 1 :], np.convolve([row["loss"] for row in rows], kernel, "valid")
