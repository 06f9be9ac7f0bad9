"""The published decision engine: its decisions on made-up tables worked by hand, and on the published ones by loops."""

import csv
import math
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.problem import Current, Problem
from common.planning.published import Published, candidates
from common.profiling.published import read_published

PUBLISHED = (
    Path(os.environ.get("TANDEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "published_profiles"
)
FEATURES = {"VGG19": "VGG19", "Mobilenetv3_large": "Mobilenetv3_large", "resnet50": "Resnet50"}
MIB = 2**20


def link(up_mib_s: float, down_mib_s: float) -> LinkContext:
    """A link by MiB/s, in which the published engine counts."""
    return LinkContext("", up_mib_s * MIB * 8 / 1e6, down_mib_s * MIB * 8 / 1e6, 0)


def write_tables(folder: Path) -> Path:
    """Three slices: 10, 30, 80 ms on the edge (the last without replay), 40, 20, 0 on the cloud; 4 and 1 MiB cross."""
    path = folder / "runtime_VGG19.csv"
    path.write_text("TX2,Cloud\n0.010,0.040\n0.030,0.020\n0.080,0\n")
    (folder / "featuresize.csv").write_text("Resnet50,VGG19\n8.00 ,4.00 \n2.00 ,1.00 \n")
    return path


def made_up(folder: Path, context: LinkContext, stale_it: int, current: Current | None = None) -> Problem:
    path = write_tables(folder)
    sizes = [1 * MIB, 2 * MIB, 4 * MIB]
    edge, cloud = (read_published(path, device, sizes) for device in ("TX2", "Cloud"))
    return Problem(edge, cloud, context, stale_it=stale_it, current=current)


# By hand: up and down 100 MiB/s.
#
#   behind slice 0, quantised: T = 10, 10, 40, 40 ms: T* = 40, T0 = 100
#   behind slice 1, quantised: T = 30, 2.5, 20, 10 ms: T* = 30, T0 = 62.5
#   all on the edge: 80 ms a step
#
# K = 0, r = 10: 10 x 100 = 1000, 10 x 62.5 = 625, 800 ms                 -> behind slice 1
# K = 1, r = 10: behind 1: 9 x 30 + 62.5 + 4 x max(0, 62.5 - 60) = 342.5  -> behind slice 1
# K = 2, r = 10: behind 1: 9 x 30 + 62.5 = 332.5                          -> behind slice 1
@pytest.mark.parametrize(("stale_it", "total_s"), [(0, 0.625), (1, 0.3425), (2, 0.3325)])
def test_a_decision_by_hand(tmp_path: Path, stale_it: int, total_s: float) -> None:
    problem = made_up(tmp_path, link(100, 100), stale_it, Current(2, 10))

    plan = Published().decide(problem)

    assert (plan.cut, plan.codec_up, plan.codec_down, plan.stale_it, plan.local) == (2, "int8", "none", stale_it, False)
    assert plan.prediction.step_s == pytest.approx(total_s / 10, rel=1e-12)
    assert plan.prediction.pause_s == 0
    stages = plan.prediction.stages_s
    assert (stages.edge, stages.uplink, stages.cloud, stages.downlink) == pytest.approx((0.030, 0.0025, 0.020, 0.010))


def test_quantising_is_left_where_it_costs_more_than_it_saves(tmp_path: Path) -> None:
    # qtime 20 ms: quantised behind 1: 50, 2.5, 20, 10; plain: 30, 10, 20, 10 ms.
    plan = Published(qtime_s=0.020).decide(made_up(tmp_path, link(100, 100), 2, Current(2, 10)))

    assert (plan.cut, plan.codec_up) == (2, "none")
    assert plan.prediction.step_s == pytest.approx((9 * 0.030 + 0.070) / 10)


def test_a_switch_counts_where_the_edge_grows_and_where_it_shrinks(tmp_path: Path) -> None:
    # From slice 0 alone to slices 0 and 1: 2 MiB come down. The other way they go up.
    grows = candidates(made_up(tmp_path, link(50, 100), 1, Current(1, 10)))
    shrinks = candidates(made_up(tmp_path, link(50, 100), 1, Current(3, 10)))

    assert grows.switch_s.tolist() == pytest.approx([0.0, 0.02, 0.06])
    assert shrinks.switch_s.tolist() == pytest.approx([6 / 50, 4 / 50, 0.0])
    # Gain 40 ms a step at best: with 1 step left it stays at the edge alone.
    assert Published().decide(made_up(tmp_path, link(50, 100), 1, Current(3, 1))).local


def test_on_a_slow_link_all_stays_on_the_edge(tmp_path: Path) -> None:
    plan = Published().decide(made_up(tmp_path, link(1, 1), 4))

    assert (plan.cut, plan.local, plan.stale_it, plan.codec_up) == (3, True, 0, "none")
    assert plan.prediction.step_s == pytest.approx(0.080)


def test_what_it_cannot_know_is_refused(tmp_path: Path) -> None:
    path = write_tables(tmp_path)
    edge, cloud = (read_published(path, device) for device in ("TX2", "Cloud"))
    problem = Problem(edge, cloud, link(10, 10), current=Current(1, 10))

    with pytest.raises(UsageError, match="does not know the size of parameters"):
        Published().decide(problem)
    with pytest.raises(UsageError, match="an edge that has the head"):
        Published().decide(replace(problem, current=None, edge_holds="tail"))


# The published tables


def published_column(name: str, column: str) -> list[float]:
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"{path} is missing: set TANDEM_TEST_DATA to a folder with published_profiles/ in it")
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column].strip()]


def vgg19_bytes() -> list[int]:
    """Parameters of the published VGG19 by slice, float32: 16 times conv (no bias) with BatchNorm, 3 times Linear."""
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    counts = [9 * a * b + 2 * b for a, b in pairwise(widths)]
    counts += [512 * 4096 + 3 * 4096, 4096 * 4096 + 3 * 4096, 4096 * 10 + 10]
    assert (len(counts), sum(counts)) == (19, 38_969_802)  # the count of the published model
    return [4 * each for each in counts]


def expected(
    model: str, device: str, up: float, down: float, stale_it: int, remaining: float, current: int, sizes: list[int]
) -> tuple[float, int, bool]:
    """(cost a step, slice before the cut, quantised) as the published engine finds them, MiB and MiB/s."""
    edge, cloud = published_column(f"runtime_{model}.csv", device), published_column(f"runtime_{model}.csv", "Cloud")
    features = published_column("featuresize.csv", FEATURES[model])
    found = []
    for i in range(len(edge)):
        moved = sizes[current + 1 : i + 1] if i > current else sizes[i + 1 : current + 1]
        update = sum(moved) / MIB / (down if i > current else up)
        if i == len(edge) - 1:
            found.append((edge[i] * remaining + update, i, False))
            continue
        for quantised in (True, False):
            stages = [edge[i], features[i] / up / (4 if quantised else 1), cloud[i], features[i] / down]
            slowest, way = max(stages), sum(stages)
            bubble = way - (stale_it + 1) * slowest
            total = (remaining - 1) * slowest + way
            if bubble > 0:
                total += (math.ceil(remaining / (stale_it + 1)) - 1) * bubble
            found.append((total + update, i, quantised))
    cost, place, quantised = min(found)
    return cost / remaining, place, quantised


def check(model: str, device: str, up: float, down: float, stale_it: int, remaining: float, current: int) -> int:
    sizes = vgg19_bytes() if model == "VGG19" else [0] * len(published_column(f"runtime_{model}.csv", device))
    cost, place, quantised = expected(model, device, up, down, stale_it, remaining, current, sizes)
    path = PUBLISHED / f"runtime_{model}.csv"
    edge, cloud = (read_published(path, each, sizes) for each in (device, "Cloud"))
    problem = Problem(edge, cloud, link(up, down), stale_it=stale_it, current=Current(current + 1, remaining))

    plan = Published().decide(problem)

    predicted = plan.prediction
    assert (plan.cut, plan.codec_up == "int8") == (place + 1, quantised)
    assert predicted.step_s + predicted.pause_s / remaining == pytest.approx(cost, rel=1e-9)
    return place


@pytest.mark.parametrize("model", FEATURES)
@pytest.mark.parametrize("device", ["TX2", "Pi"])
@pytest.mark.parametrize("stale_it", [0, 4])
def test_decisions_on_the_published_tables(model: str, device: str, stale_it: int) -> None:
    for up, down in ((0.3, 0.3), (2.5, 2.5), (5, 12.5), (12.5, 12.5), (12.5, 60), (60, 60)):
        check(model, device, up, down, stale_it, remaining=1563, current=0)


def test_decisions_for_vgg19_depend_on_the_link_and_on_what_is_left() -> None:
    places = {
        (mib_s, left): check("VGG19", "TX2", mib_s, mib_s, 4, left, current=0)
        for mib_s in (0.3, 2.5, 5, 60)
        for left in (20, 1563)
    }

    # Worked out from the tables: 2.5 MiB/s: behind slice 7 T* = 0.2265 s (edge); 5 MiB/s: behind slice 3 T* = 0.2028
    # (cloud); 60: behind slice 1, 0.2058, or 0.1861 behind slice 0, whose 8 MiB come down in 0.133 s.
    assert {left: place for (mib_s, left), place in places.items() if mib_s == 2.5}[1563] == 7
    assert {left: place for (mib_s, left), place in places.items() if mib_s == 5}[1563] == 3
    assert {left: place for (mib_s, left), place in places.items() if mib_s == 60}[1563] == 0
    assert len(set(places.values())) > 3


def test_its_costs_are_those_of_every_candidate(tmp_path: Path) -> None:
    found = candidates(made_up(tmp_path, link(100, 100), 0, Current(1, 10)))

    expected_s = np.array([[10 * 0.130, 10 * 0.100], [10 * 0.070, 10 * 0.0625]])  # plain, quantised
    assert found.total_s == pytest.approx(expected_s)
    assert found.local_s == pytest.approx(0.8)
