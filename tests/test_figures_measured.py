"""Figures of measurements, profiles and comparisons: what their files say, with gaps shown."""

import json
from pathlib import Path

import pytest

from common.drawing import LOOKS
from common.figures import comparison, profiles, resources
from common.figures.comparison import read_comparison, save_comparison
from common.profiling.load import load
from common.profiling.profile_file import load_profile
from tests.made_runs import ENERGY, MEMORY, TABLE, heights, make_profile, make_run, ys


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "20261122-120000-mine")


def test_memory_is_the_largest_peak_that_is_known(run: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(MEMORY | {"peak_process_bytes": 250 * 2**20}))
    bars = resources.memory_bars([run, tmp_path / "m.json"])
    with LOOKS["screen"].applied() as look:
        (axis,) = resources.draw_memory(look, bars, 280).axes

    assert [(bar.label, bar.total) for bar in bars] == [("mine", 300.0), ("m", 250.0)]
    assert [text.get_text() for text in axis.texts] == ["300 MiB", "250 MiB  0.83 x"]
    assert axis.get_xlabel() == "peak memory of the process (MiB); x: of mine"


def test_energy_counts_the_rails_of_the_total_once(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps(ENERGY))
    (bar,) = resources.energy_bars([tmp_path / "e.json"], ["board"])

    assert (bar.label, bar.total, dict(bar.parts)) == ("board", 9.0, {"VDD_CPU": 6.0, "VDD_GPU": 3.0})


def test_a_comparison_is_read_back_and_gaps_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    save_comparison(path, TABLE[:3])
    rows = read_comparison(path)
    with LOOKS["screen"].applied() as look:
        figure = comparison.draw(look, rows)

    assert [(row.context, row.strategy) for row in rows] == [(row.context, row.strategy) for row in TABLE[:3]]
    assert [row.step_time_s for row in rows] == pytest.approx([row.step_time_s for row in TABLE[:3]])
    assert [axis.get_title("left") for axis in figure.axes] == ["step time (ms)", "sent, both ways (MB)"]
    assert len(figure.axes[0].patches) == 3


def test_columns_of_a_comparison_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("context,strategy,step_time_s,other\nwifi,ours,0.25,x\nwifi,edge,,y\n")

    assert [row.step_time_s for row in read_comparison(path)] == [0.25, pytest.approx(float("nan"), nan_ok=True)]


def test_block_times_are_stacked_in_ms(tmp_path: Path) -> None:
    path = make_profile(tmp_path / "p.csv", blocks=2)
    with LOOKS["screen"].applied() as look:
        (axis,) = profiles.draw_blocks(look, [str(path)]).axes

    assert heights(axis) == pytest.approx([1, 2, 1.2, 2.4, 2, 4, 0.1, 0.2])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["block.1", "block.2"]


def test_published_tables_have_cuts(tmp_path: Path) -> None:
    (tmp_path / "runtime_vgg.csv").write_text("TX2,Cloud\n0.1,0.05\n0.2,0.03\n0.3,0.0\n")
    (tmp_path / "featuresize.csv").write_text("vgg\n4\n2\n1\n")
    names = [f"{tmp_path}/runtime_vgg.csv:{device}" for device in ("TX2", "Cloud")]
    with LOOKS["screen"].applied() as look:
        upper, lower = profiles.draw_cuts(look, names).axes

    assert ys(upper, 0)[1] == 4096.0
    assert ys(lower, 0) == pytest.approx([0, 100, 200, 300])


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "profile").glob("*.csv")), ids=lambda path: path.stem
)
def test_the_tables_in_profile_can_be_read_and_tell_their_command(path: Path) -> None:
    about = load_profile(path).about

    assert about.model in about.environment["command"]
    assert not any(Path(word).is_absolute() for word in about.environment["command"])
    assert load(str(path)).local_s > 0
