"""The cut table: operations by hand, sums, the files it is saved to, and what cannot be asked for."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.config import parse
from common.errors import PartitionError, UsageError
from common.models import build_model
from common.partition import trace
from common.partition.__main__ import Options, main
from common.partition.cut_figure import save_figure
from common.partition.cut_table import crossing, cumulative_flops, cut_table, save_table, table_lines, trace_example

ROOT = Path(__file__).parent.parent
SMALL = ["resnet20", "--input", "3,8,8"]


@pytest.fixture(scope="module", autouse=True)
def _counter_is_loaded() -> None:
    """The first use of torch's counter in a process imports for a second."""
    with FlopCounterMode(display=False):
        torch.ones(1, 1).mm(torch.ones(1, 1))


def small_table() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 5, 4))
    return model, torch.rand(2, 3, 6, 5)


def test_operations_by_hand() -> None:
    model, x = small_table()

    rows = cut_table(trace(model, (x,)), (x,))

    conv, linear = 2 * (8 * 6 * 5) * (3 * 3 * 3), 2 * (8 * 6 * 5) * 4
    assert [row.name for row in rows] == ["input", "0", "1", "2", "3"]
    assert [row.mflops_before * 1e6 for row in rows] == pytest.approx([0, conv, conv, conv, conv + linear])
    assert [row.mflops_behind * 1e6 for row in rows] == pytest.approx([conv + linear, linear, linear, linear, 0])
    assert [crossing(row) for row in rows] == [
        "3x6x5 float32",
        "8x6x5 float32",
        "8x6x5 float32",
        "240 float32",
        "4 float32",
    ]
    assert [row.activations_kib * 1024 / 4 for row in rows] == [90, 240, 240, 240, 4]
    weights = [8 * 27 + 8, 240 * 4 + 4]
    assert [row.parameters_before for row in rows] == [0, weights[0], weights[0], weights[0], sum(weights)]
    assert [row.parameters_behind for row in rows] == [sum(weights), weights[1], weights[1], weights[1], 0]


def test_sums_are_those_of_the_whole_model() -> None:
    model = build_model("resnet20").eval()
    x = torch.rand(3, 3, 16, 16)
    graph = trace(model, (x,))
    with FlopCounterMode(display=False) as counter:
        model(x)

    flops = cumulative_flops(graph, (x,))
    rows = cut_table(graph, (x,))

    assert flops[-1] == counter.get_total_flops()
    assert flops == sorted(flops)
    assert len(rows) == len(graph.points)
    for row in rows:
        assert row.mflops_before + row.mflops_behind == pytest.approx(counter.get_total_flops() / 3e6)
        assert row.parameters_before + row.parameters_behind == sum(p.numel() for p in model.parameters())


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def test_attention_counts() -> None:
    x = torch.rand(2, 5, 8)

    rows = cut_table(trace(Attending(), (x,)), (x,))

    # For 5 places of width 8: four projections, then queries with keys, and weights with values.
    assert rows[-1].mflops_before * 1e6 == pytest.approx(2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8))


def test_counting_leaves_no_mark() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x = torch.rand(2, 4)
    graph = trace(model, (x,))
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()

    cut_table(graph, (x,))

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.training for each in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_levels_zoom() -> None:
    graph, (x,) = trace_example("resnet20", 10, "3,8,8", 2)

    stage, module, operation = (cut_table(graph, (x,), level) for level in ("stage", "module", "operation"))

    assert len(stage) == graph.blocks + 1
    assert len(stage) < len(module) < len(operation) == len(graph.points)
    assert [row for row in operation if row.level != "operation"] == module
    assert [row for row in module if row.level != "module"] == stage


def test_the_csv_has_all_columns_with_units(tmp_path: Path) -> None:
    graph, (x,) = trace_example("resnet20", 10, "3,8,8", 2)
    rows = cut_table(graph, (x,), "operation")

    save_table(tmp_path / "cuts.csv", rows)

    with (tmp_path / "cuts.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [
        "index",
        "name",
        "level",
        "crosses",
        "activations_kib",
        "parameters_before",
        "parameters_behind",
        "mflops_before",
        "mflops_behind",
        "unsafe",
    ]
    assert [(int(each["index"]), each["name"], each["level"]) for each in found] == [
        (row.index, row.name, row.level) for row in rows
    ]
    assert [float(each["mflops_before"]) for each in found] == [row.mflops_before for row in rows]
    inside = next(each for each in found if each["name"] == "features.1.branch.0")
    assert inside["crosses"] == "16x8x8 + 16x8x8 float32"
    assert float(inside["activations_kib"]) == 8.0


def test_the_printed_table_is_short() -> None:
    model, x = small_table()

    lines = table_lines(cut_table(trace(model, (x,)), (x,)))

    assert lines[0].split() == [
        *("index", "name", "level", "crosses", "KiB"),
        *("parameters", "before", "behind", "MFLOPs", "before", "behind"),
    ]
    assert lines[2].split() == ["1", "0", "stage", "8x6x5", "float32", "0.94", "224", "964", "0.01", "0.00"]
    assert len(lines) == 6


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x + i for i in range(5)]
        y: Tensor = torch.cat([*parts, (x > 0).float(), x.double().float()], 1).sum(1)
        return y


def test_of_many_tensors_the_first_are_printed() -> None:
    x = torch.rand(2, 6)

    row = cut_table(trace(Wide(), (x,)), (x,))[6]

    assert crossing(row) == "6 + 6 + 6 + 6 + 6 + 6 float32 + 6 bool"
    assert crossing(row, 3) == "6 + 6 + 6 float32 + 4 more"


class Windows(nn.Module):
    """Several windows of each sample in the first axis, as in a Swin transformer."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x.reshape(-1, 2, 3).exp().sum()
        return y


def test_a_first_axis_of_several_to_a_sample_is_shown() -> None:
    x = torch.rand(2, 4, 6)

    rows = cut_table(trace(Windows(), (x,)), (x,))

    assert [crossing(row) for row in rows] == ["4x6 float32", "4x2x3 float32", "4x2x3 float32", "1 float32"]


@pytest.mark.slow
@pytest.mark.parametrize(("level", "suffix"), [("stage", ".png"), ("operation", ".png"), ("module", ".pdf")])
def test_the_figure_is_saved(tmp_path: Path, level: str, suffix: str) -> None:
    graph, (x,) = trace_example("resnet56", 10, "3,8,8", 2)

    save_figure(tmp_path / f"cuts{suffix}", cut_table(graph, (x,), level), "resnet56")  # type: ignore[arg-type]

    start = (tmp_path / f"cuts{suffix}").read_bytes()[:4]
    assert start == (b"\x89PNG" if suffix == ".png" else b"%PDF")


@pytest.mark.parametrize("sizes", ["3,224", "a,b,c", "3,0,8", "3,-1,8", "3,,8", "3x8x8", "3,8,8,8", "3,8,9999999999"])
def test_an_input_that_is_none(sizes: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--input is {sizes!r}; it is channels,height,width")):
        trace_example("resnet20", 10, sizes, 2)


@pytest.mark.parametrize(
    ("model", "sizes", "batch_size", "message"),
    [
        ("resnet20", "4,8,8", 2, "expected input[2, 4, 8, 8] to have 3 channels, but got 4 channels instead"),
        ("resnet20", "3,1000000,1000000", 1000, "an't allocate memory"),
    ],
)
def test_an_input_that_the_model_fails_on(model: str, sizes: str, batch_size: int, message: str) -> None:
    start = f"{model} with --input {sizes} --batch_size {batch_size} --num_classes 10: "
    with pytest.raises(PartitionError, match=re.escape(start)) as caught:
        trace_example(model, 10, sizes, batch_size)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_that_only_serves_inference_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cuts", "resnet20", "--input", "3,1,1", "--batch-size", "1"])

    main()

    lines = capsys.readouterr().out.splitlines()
    reason = "the model fails on the example inputs: Expected more than 1 value per channel when training"
    assert lines[0].endswith("not for training:")
    assert reason in lines[1]
    assert lines[-2] == "traced by torch.fx"
    assert lines[-1].startswith(f"for inference only: {reason}")


def test_other_values_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="no model is called 'resnet2o'; did you mean resnet20"):
        trace_example("resnet2o", 10, "", 2)
    for classes, batch_size, flag in ((0, 2, "num_classes"), (10, 0, "batch_size"), (10, 1 << 70, "batch_size")):
        with pytest.raises(UsageError, match=f"--{flag} is .*; it must be 1 to 1048576"):
            trace_example("resnet20", classes, "", batch_size)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet20", "--levle", "stage"], "unknown flag --levle; did you mean --level?"),
        (["resnet20", "vgg11"], "'vgg11' stands where a flag was expected"),
        (["resnet20", "--level", "layer"], "invalid choice 'layer'"),
        ([], "MODEL"),
    ],
)
def test_a_command_line_that_does_not_fit(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(Options, argv)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "{}/none/cuts.csv"], "--out is {}/none/cuts.csv, but there is no folder {}/none; make it first"),
        (["--plot", "{}/none/cuts.png"], "--plot is {}/none/cuts.png, but there is no folder {}/none; make it first"),
        (["--plot", "{}/cuts.gif"], "--plot is {}/cuts.gif; its name must end in .png or .pdf"),
        (["--out", "{}"], "--out is {}, which is a folder; name a file"),
    ],
)
def test_files_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: list[str], message: str) -> None:
    words = [flag.replace("{}", str(tmp_path)) for flag in flags]
    monkeypatch.setattr(sys, "argv", ["cuts", *SMALL, *words])

    with pytest.raises(UsageError, match=re.escape(message.replace("{}", str(tmp_path)))):
        main()


def test_the_table_is_printed_and_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["cuts", "--out", str(tmp_path / "cuts.csv"), *SMALL, "--num-classes", "7"])

    main()

    *lines, served = capsys.readouterr().out.splitlines()
    assert served == "traced by torch.fx"
    assert len(lines) == len((tmp_path / "cuts.csv").read_text().splitlines()) == 14
    assert lines[-1].split()[1:5] == ["classifier", "stage", "7", "float32"]


@pytest.mark.slow
def test_the_program(tmp_path: Path) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "common.partition", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    flags = [
        "--level",
        "module",
        "--input",
        "3,64,64",
        "--out",
        str(tmp_path / "a.csv"),
        "--plot",
        str(tmp_path / "a.png"),
    ]
    done = run("torchvision:resnet18", *flags)
    wrong = run("torchvision:resnet19")

    assert (done.returncode, done.stderr) == (0, "")
    assert "layer1.0.conv1" in done.stdout
    assert "512x2x2" in (tmp_path / "a.csv").read_text()
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: torchvision has no image classifier 'resnet19'; the nearest are resnet18")
    assert len(wrong.stderr.splitlines()) == 1
