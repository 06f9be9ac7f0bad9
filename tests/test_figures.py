"""Figures: each command draws what the files say, in all formats and both looks."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from common.drawing import COLORS, LOOKS, fill, inline_svg, line, short
from common.figures import curves, decisions, stages, staleness, timeline
from common.figures.commands import COMMANDS, main
from common.figures.comparison import save_comparison
from common.figures.run_folder import RunFolder, open_runs
from tests.made_runs import (
    ENERGY,
    MEMORY,
    STAGES_S,
    STEPS,
    TABLE,
    heights,
    make_decisions,
    make_profile,
    make_run,
    make_weights,
    ys,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "20261122-120000-mine")
    make_decisions(folder)
    make_weights(folder)
    return folder


@pytest.fixture
def inputs(tmp_path: Path, run: Path) -> dict[str, list[str]]:
    """Arguments of each figure."""
    other = make_run(tmp_path / "20261122-120001-$other_^run", stale_it=0, energy_mj=4500.0)
    (tmp_path / "energy.json").write_text(json.dumps(ENERGY))
    (tmp_path / "memory.json").write_text(json.dumps(MEMORY))
    save_comparison(tmp_path / "table.csv", TABLE)
    files = [str(make_profile(tmp_path / f"{name}.csv", slower=i)) for i, name in enumerate(("cloud", "edge"), 1)]
    runs = [str(run), str(other)]
    return {
        "blocks": files,
        "cuts": [*files, "--codecs", "none", "int8"],
        "stages": runs,
        "timeline": [*runs, "--first_step", "5", "--steps", "3"],
        "curves": [*runs, "--over", "time", "bytes", "steps", "--labels", "a", "b"],
        "context": [str(run)],
        "staleness": runs,
        "memory": [*runs, str(tmp_path / "memory.json"), "--budget_mib", "250"],
        "energy": [str(other), str(tmp_path / "energy.json")],
        "comparison": [str(tmp_path / "table.csv")],
        "weights": [str(run), "--slices", "0", "2"],
    }


def test_each_figure_of_the_brief_is_a_command(inputs: dict[str, list[str]]) -> None:
    assert set(inputs) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_figure_is_written_whole(name: str, inputs: dict[str, list[str]], tmp_path: Path) -> None:
    out = [tmp_path / f"figure.{suffix}" for suffix in ("png", "svg")]
    main([name, *inputs[name], "--out", *map(str, out)])
    with Image.open(out[0]) as image:
        assert image.size[0] in (600, 900)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 4
    texts = "".join(ElementTree.fromstring(out[1].read_text()).itertext())  # noqa: S314  it is our own
    assert "None" not in texts
    assert "nan" not in texts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stages", "context"])
def test_paper_has_print_sizes_serif_letters_and_is_a_pdf(
    name: str, inputs: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main([name, *inputs[name], "--style", "paper"])
    body = (tmp_path / f"{name}.pdf").read_bytes()
    assert b"STIXGeneral" in body
    assert b"DejaVu" not in body
    width_pt = float(body.split(b"/MediaBox [ 0 0 ")[1].split()[0])
    assert width_pt == pytest.approx(72 * (3.35 if name == "stages" else 7.0))


def test_the_same_figure_is_the_same_file(run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.svg" for i in range(2)]
    for path in paths:
        main(["stages", str(run), "--out", str(path)])

    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_lines_and_bars_are_told_apart_without_colour() -> None:
    lines, bars = ([style(i) for i in range(12)] for style in (line, fill))

    assert len({(str(each["linestyle"]), each["marker"]) for each in lines[: len(COLORS)]}) == len(COLORS)
    assert len({str(each) for each in lines}) == 12
    assert len({each["hatch"] for each in bars[: len(COLORS)]}) == len(COLORS)
    assert len({str(each) for each in bars}) == 12


def drawn_stages(run: Path) -> Figure:
    with LOOKS["screen"].applied() as look:
        return stages.draw(look, open_runs([run]))


def test_stage_bars_are_the_stages_in_ms(run: Path) -> None:
    (axis,) = drawn_stages(run).axes

    assert heights(axis) == pytest.approx([1e3 * each for each in STAGES_S.values()])
    (limit,) = [each for each in axis.collections if isinstance(each, LineCollection)]
    assert limit.get_segments()[0][0][1] == pytest.approx(80)
    assert [text.get_text() for text in axis.texts] == ["100 ms (1.25 x)"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["mine\nK = 2"]
    assert axis.get_ylabel() == "time of a step (ms)"


def test_the_timeline_begins_with_the_step_that_was_asked_for(run: Path) -> None:
    with LOOKS["screen"].applied() as look:
        figure = timeline.draw(look, open_runs([run]), 5, 2)
    (axis,) = figure.axes

    assert axis.get_xlim() == pytest.approx((0, 200))
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "edge",
        "edge codec",
        "uplink",
        "cloud codec",
        "cloud",
        "downlink",
    ]
    shown = {int(text.get_text()) for text in axis.texts}
    assert shown >= {4, 5, 6}
    assert "step 5" in axis.get_xlabel()


def test_the_timeline_of_a_short_run_begins_with_its_last_step(run: Path) -> None:
    with LOOKS["screen"].applied() as look:
        figure = timeline.draw(look, open_runs([run]), 10_000, 1)

    assert str(STEPS - 1) in {text.get_text() for text in figure.axes[0].texts}


def test_curves_go_over_time_bytes_and_steps(run: Path) -> None:
    (opened,) = open_runs([run])
    axes: tuple[curves.Over, ...] = ("time", "bytes", "steps")
    over = {name: curves.curve(opened, name, 1) for name in axes}

    assert over["time"].x[-1] == pytest.approx(4.0)
    assert over["bytes"].x[-1] == pytest.approx(40 * 3000 / 1e6)
    assert over["steps"].x[-1] == 40
    assert over["steps"].loss[9] == pytest.approx(0.2)
    assert np.isnan(over["steps"].loss[7])  # a loss that was not finite is a gap
    assert over["time"].epochs_x.tolist() == [2.0, 4.0]
    assert over["bytes"].epochs_x.tolist() == pytest.approx([20 * 3000 / 1e6, 40 * 3000 / 1e6])
    assert over["time"].accuracy.tolist() == [50.0, 75.0]


def test_curves_are_means_of_some_steps_and_need_no_accuracy(run: Path) -> None:
    (run / "epochs.csv").unlink()
    (opened,) = open_runs([run])
    mean = curves.curve(opened, "steps", 4)
    with LOOKS["screen"].applied() as look:
        figure = curves.draw(look, [opened])

    assert mean.x[0] == 4
    assert mean.loss[0] == pytest.approx(np.mean([2.0 / (1 + step) for step in range(4)]))
    assert len(figure.axes) == 2  # one row, over time and bytes


def test_runs_that_send_nothing_are_left_out_over_bytes(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(
        text.replace('"bytes_up": 2000, "bytes_down": 1000', '"bytes_up": 0, "bytes_down": 0')
    )
    with LOOKS["screen"].applied() as look:
        figure = curves.draw(look, open_runs([run]))

    assert figure.axes[1].get_title("left") == "runs that send nothing are left out"
    assert not figure.axes[1].lines


def test_a_run_under_way_is_drawn_without_its_unfinished_line(run: Path) -> None:
    (run / "summary.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    (opened,) = open_runs([run])

    assert len(opened.steps["loss"]) == STEPS
    with LOOKS["screen"].applied() as look:
        assert timeline.draw(look, [opened]).axes


def test_the_histogram_has_shares_of_the_steps(run: Path) -> None:
    with LOOKS["screen"].applied() as look:
        (axis,) = staleness.draw(look, open_runs([run])).axes

    assert heights(axis) == pytest.approx([2.5, 2.5, 95.0])


def test_decisions_hold_until_the_next(run: Path) -> None:
    with LOOKS["screen"].applied() as look:
        figure = decisions.draw(look, RunFolder(run))
    link, cut, stale_it, times, rtt = figure.axes

    up = ys(link, 0)
    assert np.isnan(up[0])
    assert up[1] == pytest.approx(10)
    assert ys(rtt, 0)[0] == pytest.approx(20)
    assert ys(cut, 0) == [10, 10, 3, 3, 3, 3]
    assert [text.get_text() for text in cut.texts] == ["int8 / fp16", "int4/c / fp16"]
    assert ys(stale_it, 0) == [3, 3, 2, 2, 2, 2]
    # What a decision measured is of the plan before it.
    assert list(np.asarray(times.lines[1].get_xdata())) == [0, 1, 2, 3, 4]
    assert ys(times, 1) == pytest.approx([110] * 5)


def test_svgs_on_one_page_share_no_ids(run: Path) -> None:
    with LOOKS["screen"].applied():
        svgs = [inline_svg(drawn_stages(run), f"f{i}", "x") for i in range(2)]
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in svgs]

    assert ids[0]
    assert not ids[0] & ids[1]


def test_long_names_keep_their_end() -> None:
    assert short("a" * 40 + "tail", 10) == "…aaaaatail"
    assert short("a\nb") == "a b"


def test_runs_of_the_same_name_are_numbered(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"20261122-12000{i}-same") for i in range(2)]

    assert [run.label for run in open_runs(folders)] == ["same", "same (2)"]


@pytest.mark.slow
def test_the_script_draws_from_any_folder_and_shadows_nothing(run: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "profile" / "plot.py")]
    done = subprocess.run(
        [*words, "stages", str(run)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "figure: stages.png\n", "")
    assert (tmp_path / "stages.png").exists()
    failed = subprocess.run([*words, "stage"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: there is no figure 'stage'; did you mean stages? Known: blocks, ")
