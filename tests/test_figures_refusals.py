"""What cannot be drawn is told in one line that names the file and the way out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UsageError
from common.figures.commands import main
from tests.made_runs import make_profile, make_run


def broken(name: str, text: str | bytes | None) -> Callable[[Path], None]:
    """Puts a text in a file's place in a run; None: the file is not there."""

    def put(run: Path) -> None:
        if text is None:
            (run / name).unlink()
        elif isinstance(text, bytes):
            (run / name).write_bytes(text)
        else:
            (run / name).write_text(text)

    return put


ROW = '{"step": 0, "loss": 1, "bytes_up": 1, "bytes_down": 1, "staleness": 0, "wall_s": 1}\n'
TRACE = '{"traceEvents": [{"ph": "X", "tid": 3, "name": "forward 1", "ts": 0, "dur": 1, "args": {"step": 1}}]}'
RUNS = [
    ("stages", "summary.json", None, "cannot be read: No such file or directory; a run that has ended well writes it"),
    ("stages", "summary.json", "{", "summary.json is no JSON: "),
    ("stages", "summary.json", "[]", "summary.json holds no JSON object; "),
    ("stages", "summary.json", "{}", "summary.json has no stages_s with edge, uplink, cloud, downlink; "),
    ("stages", "summary.json", b"\xff\xfe", "summary.json is no text; "),
    (
        "stages",
        "summary.json",
        '{"stages_s": {"edge": "fast", "uplink": 1, "cloud": 1, "downlink": 1}}',
        "stages_s.edge is 'fast', no number",
    ),
    ("memory", "summary.json", "{}", "has no edge_peak_memory_bytes that could be drawn"),
    ("energy", "summary.json", "{}", "has no energy_mj: the run was not metered; give a run folder that was metered"),
    ("curves", "metrics.jsonl", None, "metrics.jsonl cannot be read: No such file or directory; a run writes a line"),
    ("curves", "metrics.jsonl", "", "metrics.jsonl has no rows; "),
    ("curves", "metrics.jsonl", "{}\n", "metrics.jsonl has no step; "),
    ("curves", "metrics.jsonl", "x\n{}\n", "metrics.jsonl, line 1, is no JSON object; "),
    ("curves", "metrics.jsonl", "3\n", "metrics.jsonl, line 1, is no JSON object; "),
    ("staleness", "metrics.jsonl", ROW + ROW.replace('"loss": 1', '"loss": "x"'), "loss of row 2 is 'x', no number"),
    ("staleness", "metrics.jsonl", ROW.replace('"staleness": 0', '"staleness": null'), "has no staleness of any step"),
    ("curves", "epochs.csv", "epoch,wall_s,accuracy\n1,2\n", "epochs.csv, line 2, has not as many cells as the header"),
    ("curves", "epochs.csv", "epoch,wall_s,accuracy\n1,2,high\n", "accuracy of row 1 is 'high', no number"),
    ("timeline", "trace.json", None, "trace.json cannot be read: No such file or directory; a run that has ended well"),
    ("timeline", "trace.json", "{}", "trace.json is no timeline of a run; "),
    ("timeline", "trace.json", TRACE, "trace.json is no timeline of a run; "),
    ("timeline", "trace.json", '{"traceEvents": []}', "trace.json holds no training steps; "),
    ("context", "config.json", "{}", "plans.jsonl cannot be read: No such file or directory; only runs that plan"),
]


@pytest.mark.parametrize(("figure", "name", "text", "told"), RUNS, ids=[f"{each[0]} {each[3][:30]}" for each in RUNS])
def test_a_run_that_is_broken_is_told_by_its_file(
    tmp_path: Path, figure: str, name: str, text: str | bytes | None, told: str
) -> None:
    run = make_run(tmp_path / "run")
    broken(name, text)(run)
    with pytest.raises(UsageError) as error:
        main([figure, str(run), "--out", str(tmp_path / "figure.png")])
    assert told in str(error.value)
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "figure.png").exists()


WORDS = [
    (["stage", "x"], "there is no figure 'stage'; did you mean stages?"),
    (["stages"], "which run? Give its folder"),
    (["stages", "{}/none"], "there is no run folder {}/none; "),
    (
        ["stages", "{}"],
        "{} is no run folder: it has no summary.json, metrics.jsonl or config.json; did you mean {}/run?",
    ),
    (["stages", "{}/run/trace.json"], "there is no run folder {}/run/trace.json"),
    (["stages", "{}/run", "--labels", "a", "b"], "--labels has 2 names for 1 runs; give one for each"),
    (["stages", "{}/run", "--lable", "a"], "unknown flag --lable; did you mean --labels?"),
    (["stages", "{}/run", "--out", "{}/x.gif"], "--out is {}/x.gif; its name must end in .png or .pdf or .svg"),
    (["stages", "{}/run", "--out", "{}/none/x.png"], "there is no folder {}/none; make it first"),
    (["timeline", "{}/run", "--steps", "0"], "--first_step is 12 and --steps 0; they must be at least 0 and 1"),
    (["curves", "{}/run", "--smooth", "0"], "--smooth is 0"),
    (["memory"], "which run? Give run folders, or files that quantify wrote with --json"),
    (["memory", "{}/table.csv"], "table.csv is no JSON"),
    (["memory", "{}/empty.json"], "empty.json has no peak_resident_bytes; give a run folder, or a file of"),
    (["energy", "{}/empty.json"], "empty.json has no energy with rails; "),
    (["memory", "{}/run", "--labels", "a", "b"], "--labels has 2 names for 1 measurements"),
    (["comparison", "{}/none.csv"], "none.csv cannot be read: No such file or directory; it is CSV with context"),
    (["comparison", "{}/table.csv"], "table.csv has no column strategy; it is CSV with context"),
    (["comparison", "{}/words.csv"], "words.csv: step_time_s in line 2 is 'fast', no number"),
    (["comparison", "{}/gaps.csv"], "the comparison has no number in any of step_time_s, "),
    (["comparison", "{}/gaps.csv", "--strategies", "our"], "gaps.csv has no our; did you mean ours?"),
    (["blocks"], "which profile? "),
    (["blocks", "{}/table.csv"], "the profile {}/table.csv with table.json beside it cannot be read"),
    (["blocks", "{}/runtime_vgg.csv:TX2"], "has sums by cut and no block times; draw the figure cuts of it"),
    (["blocks", "{}/a.csv", "{}/b.csv"], "{}/a.csv is of resnet20 and {}/b.csv of VGG19; profile the same model"),
    (["cuts"], "which profile? "),
    (["cuts", "{}/a.csv", "{}/b.csv"], "{}/a.csv has 5 cuts and {}/b.csv 4: not one model's"),
    (["cuts", "{}/a.csv", "--codecs", "int9"], "--codecs names int9; {}/a.csv has none, int8"),
    (["cuts", "{}/a.csv", "{}/a.csv", "{}/a.csv"], "cuts takes the profile of an edge and that of a cloud"),
]


@pytest.mark.parametrize(("words", "told"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_what_does_not_fit_is_told_with_the_way_out(tmp_path: Path, words: list[str], told: str) -> None:
    make_run(tmp_path / "run")
    make_profile(tmp_path / "a.csv")
    make_profile(tmp_path / "b.csv", "VGG19", 3)
    (tmp_path / "empty.json").write_text(json.dumps({}))
    (tmp_path / "table.csv").write_text("context,plan\nwifi,ours\n")
    (tmp_path / "words.csv").write_text("context,strategy,step_time_s\nwifi,ours,fast\n")
    (tmp_path / "gaps.csv").write_text("context,strategy,step_time_s\nwifi,ours,\n")
    with pytest.raises(UsageError) as error:
        main([word.replace("{}", str(tmp_path)) for word in words])
    assert told.replace("{}", str(tmp_path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_without_words_the_figures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = capsys.readouterr().out

    assert text.startswith("usage: python profile/plot.py FIGURE FILES...")
    assert "  stages      Mean time of each stage" in text
