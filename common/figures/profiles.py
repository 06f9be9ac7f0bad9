"""Profiles of devices: the time of each block, and what crosses at each cut and who computes how long there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.drawing import Look, fill, line, plain, short
from common.errors import UsageError
from common.profiling.load import load
from common.profiling.profile import Profile
from common.profiling.profile_file import load_profile
from common.profiling.rows import Measured

_PARTS = {
    "forward_s": "forward, no graph",
    "replay_s": "forward with a graph (replay)",
    "backward_s": "backward",
    "optimizer_s": "update",
}
_MOST_NAMES = 60
_LONGEST_NAME = 22


def draw_blocks(look: Look, files: Sequence[str]) -> Figure:
    """Block times of one model on one or several devices, a row for each.

    Raises:
        UsageError: files that are no profiles of their own format, or profiles of different models.
    """
    _require(files)
    for name in files:
        if name.rpartition(":")[0].endswith(".csv"):
            raise UsageError(f"{name} has sums by cut and no block times; draw the figure cuts of it")
    found = [load_profile(Path(each)) for each in files]
    _same_model([(name, each.about.model) for name, each in zip(files, found, strict=True)])
    figure = look.figure(0.75 + 0.85 * len(found))
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axis, measured in zip(axes, found, strict=True):
        _draw_device(axis, measured)
    _name_cuts(axes[-1], [row.name for row in found[0].rows[1:]])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    figure.supylabel("time of a batch (ms)", fontsize="medium")
    return figure


def _draw_device(axis: Axes, measured: Measured) -> None:
    rows, about = measured.rows[1:], measured.about
    bottom = np.zeros(len(rows))
    for place, (column, label) in enumerate(_PARTS.items()):
        times_ms = np.array([1e3 * getattr(row, column) for row in rows])
        axis.bar(range(len(rows)), times_ms, bottom=bottom, width=0.8, **fill(place), label=label)
        bottom += times_ms
    plain(axis)
    axis.yaxis.set_major_formatter("{x:,g}")
    threads = f", {about.threads} thread{'s' if about.threads > 1 else ''}" if about.device == "cpu" else ""
    axis.set_title(f"{about.model}, batch of {about.batch_size}, on {about.device_name}{threads}")


def draw_cuts(look: Look, files: Sequence[str], codecs: Sequence[str] = ()) -> Figure:
    """What crosses at each cut, by codec; and how long the edge's head and the cloud's tail take there.

    Args:
        look: sizes and letters.
        files: the edge's profile and the cloud's, or one of both.
        codecs: whose bytes are drawn; default all that the edge's profile has.

    Raises:
        UsageError: other numbers of profiles, profiles of different models or cuts, or a codec that is not in them.
    """
    _require(files)
    if len(files) > 2:
        raise UsageError(f"cuts takes the profile of an edge and that of a cloud, or one of both; {len(files)} given")
    profiles = [load(each) for each in files]
    edge, cloud = profiles[0], profiles[-1]
    if edge.cuts != cloud.cuts:
        raise UsageError(f"{files[0]} has {len(edge.cuts)} cuts and {files[-1]} {len(cloud.cuts)}: not one model's")
    names = list(codecs) or list(edge.activations)
    if unknown := [name for name in names if name not in edge.activations]:
        raise UsageError(f"--codecs names {unknown[0]}; {files[0]} has {', '.join(edge.activations)}")
    figure = look.figure(2.3)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_bytes(upper, edge, names)
    _draw_sides(lower, edge, cloud)
    _name_cuts(lower, edge.names)
    return figure


def _draw_bytes(axis: Axes, edge: Profile, codecs: Sequence[str]) -> None:
    for place, name in enumerate(codecs):
        kib = edge.activations[name].nbytes / 1024
        kib = np.where(kib > 0, kib, np.nan)  # nothing crosses behind the last block
        axis.plot(range(len(kib)), kib, **line(place), label=name)
    unsafe = [place for place, safe in enumerate(edge.safe) if not safe]
    for place in unsafe:
        axis.axvspan(
            place - 0.5, place + 0.5, color="#eeeeee", label="not for training" if place == unsafe[0] else None
        )
    plain(axis)
    axis.set(yscale="log", ylabel="KiB a batch")
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.yaxis.set_minor_formatter("")
    axis.set_title(f"activations that cross at each cut of {edge.model}, batch of {edge.batch_size}, by codec")
    axis.legend(ncols=1, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_sides(axis: Axes, edge: Profile, cloud: Profile) -> None:
    places = range(len(edge.cuts))
    axis.plot(places, 1e3 * edge.head_s, **line(0), label=f"head, on the edge\n{short(edge.device)}")
    axis.plot(places, 1e3 * cloud.tail_s, **line(1), label=f"tail, on the cloud\n{short(cloud.device)}")
    plain(axis)
    axis.set(ylabel="ms a batch", ylim=(0, None))
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.set_title("training time on either side of the cut (K > 0: the head replays)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _name_cuts(axis: Axes, names: Sequence[str]) -> None:
    gap = -(-len(names) // _MOST_NAMES)
    shown = range(0, len(names), gap)
    axis.set_xticks(shown, [short(names[place], _LONGEST_NAME) for place in shown], rotation=90)
    axis.set_xlim(-0.7, len(names) - 0.3)


def _require(files: Sequence[str]) -> None:
    if not files:
        raise UsageError(
            "which profile? Give a file that python -m common.profiling MODEL --out profile/NAME.csv wrote"
        )


def _same_model(models: Sequence[tuple[str, str]]) -> None:
    for name, model in models[1:]:
        if model != models[0][1]:
            raise UsageError(
                f"{models[0][0]} is of {models[0][1]} and {name} of {model}; profile the same model on all"
            )
