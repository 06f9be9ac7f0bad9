"""What a run's files tell of energy, memory and network, with a meter and without one."""

import gc
import json
import subprocess
import sys
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from common.drawing import LOOKS
from common.errors import UsageError
from common.figures import resources
from common.figures.run_folder import RunFolder
from common.metering.energy import EnergyMeter
from common.metering.gauges import own_peak
from common.metering.memory import MemoryMeter
from common.metering.meter import NullMeter
from common.models import build_model
from common.partition import verify
from common.training.journal import Journal
from common.training.metered import Metered, check_metering, metered
from common.training.thrift import give_back
from common.training.timed import busy_timer
from discriminative.demo_figure import draw
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, report, train_in_process
from tests.made_runs import make_run
from tests.test_metering import WATTS, Machine, Played
from tests.test_resume import Killed, folder_of, killed_at, values

STAGES = {"load", "forward", "encode", "decode", "wait", "backward", "evaluate"}


def board(machine: Machine, watts: float = 4.0) -> EnergyMeter:
    return EnergyMeter([Played(machine, {WATTS: lambda _: watts})], timing=machine.timing)


def play(meter: Metered) -> None:
    """Until the machine's time is over, which takes none."""
    with meter:
        assert isinstance(meter._energy, EnergyMeter)
        meter._energy._sampler._thread.join(5)


def test_a_run_tells_its_joules_by_stage_and_by_row() -> None:
    machine = Machine(2.0)
    meter, rows = Metered(board(machine), None), []
    forward, again = ExitStack(), ExitStack()
    machine.at += [
        (0.21, lambda: forward.enter_context(meter.window("forward"))),
        (0.46, forward.close),
        (0.5, meter.restart),
        (1.0, lambda: rows.append(meter.step_mj())),
        (1.2, lambda: rows.append(meter.step_mj())),
        (1.31, lambda: again.enter_context(meter.window("forward"))),
        (1.46, again.close),
    ]
    play(meter)
    facts = meter.end(123.0)

    assert facts["energy_mj"] == pytest.approx(8000)
    assert facts["energy_per_step_mj"] == 123.0
    assert facts["energy"]["stages_mj"] == {"forward": pytest.approx(800)}  # 0.4 s of 4 W in two windows
    assert facts["energy"]["stages_s"] == {"forward": pytest.approx(0.2)}
    assert facts["energy"]["rails_mj"] == {"watts": pytest.approx(8000)}
    assert rows == [pytest.approx(2000, abs=201), pytest.approx(800, abs=201)]  # as it was sampled each 50 ms
    assert meter.end(123.0)["energy_mj"] == facts["energy_mj"]


def test_energy_goes_on_from_a_checkpoint_as_time_does() -> None:
    machine = Machine(1.0)
    meter = Metered(board(machine), None)
    machine.at.append((0.5, lambda: meter.rewind(700.0)))
    play(meter)

    assert meter.energy_mj() == pytest.approx(700 + 2000, abs=201)


def test_a_run_that_was_not_metered_before_tells_no_total() -> None:
    machine = Machine(1.0)
    meter = Metered(board(machine), None)
    meter.rewind(None)
    play(meter)
    facts = meter.end(0.0)

    assert meter.energy_mj() is meter.step_mj() is None
    assert "energy_mj" not in facts
    assert facts["energy"]["rails_mj"] == {"watts": pytest.approx(4000)}


def test_without_a_meter_nothing_is_told_or_done() -> None:
    with metered("none") as meter:
        meter.restart()
        with meter.window("forward"):
            pass
        assert meter.step_mj() is None
    assert meter.end(0.0).keys() <= {"network_sent_bytes", "network_received_bytes"}
    assert isinstance(meter.window("x"), type(NullMeter().window("x")))


def test_memory_is_told_by_stage() -> None:
    with Metered(NullMeter(), MemoryMeter(interval_s=3600.0)) as meter:
        with meter.window("forward"):
            held = torch.ones(16 << 20)  # 64 MiB
        del held
        with meter.window("backward"):
            pass
    peaks = meter.end(0.0)["stages_peak_memory_bytes"]

    assert peaks["forward"] - peaks["backward"] > 32 << 20
    assert own_peak() > peaks["forward"] - (4 << 20)  # the kernel's counts lag a little


def test_a_journal_tells_stages_of_training_and_of_evaluation_apart() -> None:
    stages, journal = [], Journal(busy_timer("cpu"))

    def window(stage: str) -> Any:
        stages.append(stage)
        return NullMeter().window(stage)

    journal.window = window
    for training in (True, False):
        with journal.work("encode", 0, training=training):
            pass
    assert stages == ["encode", "evaluate"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("auto", "5", 50.0), "two numbers"),
        (("auto", "15,5", 50.0), "idle <= busy"),
        (("none", "5,15", 50.0), "--meter none"),
        (("auto", "", 0.0), "--meter_interval_ms"),
    ],
)
def test_what_cannot_be_metered_is_refused(given: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_metering(*given)


def test_a_process_does_not_inherit_the_peak_of_its_starter() -> None:
    code = "from common.metering.gauges import own_peak; print(own_peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert 1 << 20 < int(done.stdout) < 120 << 20 < own_peak()  # this process has imported torch


def test_what_is_in_cycles_only_is_given_back() -> None:
    gc.disable()
    try:
        model = torch.nn.Linear(2, 2)
        model.itself = [model]  # type: ignore[assignment]
        gone = weakref.ref(model)
        del model
        give_back()
        assert gone() is None
    finally:
        gc.enable()


def test_verification_keeps_no_gradients_and_leaves_none() -> None:
    model = build_model("resnet20")
    images = (torch.rand(2, 3, 32, 32),)
    found = verify.outcome(model, model, images, {}, training=True)
    full = found.recompute()

    assert found.gradients == [None if each is None else verify._digest(each) for each in full]
    assert not any(each.grad is not None or each._backward_hooks for each in model.parameters())


def in_process(images: str, tmp_path: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, tmp_path, stale_it=2, watts="5,15", **more))
    return train_in_process(plan_job(options), options)


def rows_of(run: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_metered_run_tells_all_in_its_files(images: str, tmp_path: Path) -> None:
    run = in_process(images, tmp_path)
    summary, rows = run.summary, rows_of(run)

    spent = [row["energy_mj"] for row in rows]
    assert sum(spent) == pytest.approx(summary["energy_per_step_mj"] * summary["steps"])
    assert 0 < sum(spent) < summary["energy_mj"]
    # Between idle and busy, over the run; building the model came before.
    assert 5e3 * summary["wall_s"] * 0.5 < summary["energy_mj"] < 15e3 * summary["wall_s"] * 1.2
    assert summary["energy"]["stages_mj"].keys() == summary["stages_peak_memory_bytes"].keys() == STAGES
    assert max(summary["stages_peak_memory_bytes"].values()) < summary["edge_peak_memory_bytes"] + (4 << 20)
    assert 0 < summary["metering_share"] < 0.2
    assert summary["network_sent_bytes"] >= 0
    assert "J, " in report(run)
    assert "model, not measured" in report(run)
    (bar,) = resources.energy_bars([run.folder])
    assert dict(bar.parts) == {"model, not measured": pytest.approx(summary["energy_mj"] / 1e3)}


@pytest.mark.slow
def test_a_run_without_meter_is_the_same_run(images: str, tmp_path: Path) -> None:
    options = BaseOptions(**values(images, tmp_path / "bare", stale_it=2, meter="none"))
    bare, other = train_in_process(plan_job(options), options), in_process(images, tmp_path / "metered")

    assert "energy" not in bare.summary
    assert "energy_mj" not in rows_of(bare)[0]
    assert bare.summary["edge_peak_memory_bytes"] > 0
    assert bare.summary["parameters_digest"] == other.summary["parameters_digest"]


@pytest.mark.slow
def test_energy_is_part_of_checkpoints(images: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(Killed):
            in_process(images, tmp_path / "killed")
    folder = folder_of(tmp_path / "killed")
    resumed = in_process(images, tmp_path, resume=folder)

    since_mj = sum(resumed.summary["energy"]["rails_mj"].values())
    assert resumed.summary["energy_mj"] > since_mj > 0
    assert len([row for row in rows_of(resumed) if "energy_mj" in row]) == resumed.summary["steps"]
    assert not resources.energy_bars([folder])[0].parts  # of the time since then only


def test_memory_bars_show_parts_where_they_are_known() -> None:
    parts = {"torch": 200.0, "head": 100.0}
    with LOOKS["screen"].applied() as look:
        figure = resources.draw_memory(look, [resources.Bar("a", 300.0, parts), resources.Bar("b", 250.0, {})], 180)
    (axis,) = figure.axes
    bars: list[Any] = list(axis.patches)

    assert [each.get_width() for each in bars] == [200.0, 100.0, 250.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["torch", "head"]


def test_the_demo_shows_timelines_and_curves_of_its_runs(tmp_path: Path) -> None:
    runs = {name: make_run(tmp_path / name) for name in ("serial", "pipelined")}
    draw(tmp_path / "demo.png", runs, "wifi")

    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert RunFolder(runs["serial"]).label == "serial"
