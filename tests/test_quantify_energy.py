"""quantify.energy: a table and a summary that say the same, a figure, and its errors in words."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from common.metering.constant import parse_watts
from common.metering.detect import detect
from common.metering.report import Cost, EnergyReport, Event, MemoryReport, RailEnergy
from quantify import energy, energy_figure, memory_figure
from quantify.energy_table import EnergyTable, read_table
from quantify.output import check_outputs
from quantify.target import Target, divided, target
from tests.test_metering import Machine, Played
from tests.test_metering_boards import TX2_MW, orin

ROOT = Path(__file__).parent.parent


def test_a_board_is_measured_to_its_table(tmp_path: Path) -> None:
    found = detect(sys_root=orin(tmp_path / "sys"), only=("ina3221",))
    table = tmp_path / "energy.csv"
    report, code = energy.measure(found, Target("this machine", None, 0.0, False), 0.05, table)
    columns = read_table(table)

    assert code == 0
    assert report.mean_w == pytest.approx(6.93 + 2.376 + 4.5, rel=1e-3)
    assert set(columns.watts) == set(columns.joules) == {rail.name for rail in report.rails}
    for rail in report.rails:
        assert columns.joules[rail.name][-1] == pytest.approx(rail.joules, abs=1e-4)
        assert columns.watts[rail.name][0] == pytest.approx(rail.peak_w, rel=1e-3)


def test_lost_rails_and_events_have_their_place_in_the_table(tmp_path: Path) -> None:
    machine, path = Machine(0.2), tmp_path / "energy.csv"
    rails = detect(sys_root=orin(tmp_path / "sys"), only=("ina3221",)).sources[0].rails[:2]
    source = Played(machine, {rails[0]: lambda _: 2.0, rails[1]: lambda now_s: None if now_s > 0.12 else 1.0})
    with EnergyTable(path, rails) as table:
        machine.run(source, on_sample=lambda sample: table.add(sample, ["a", "b"] if sample.time_s == 0 else []))
    with path.open() as file:
        rows = list(csv.DictReader(file))

    assert list(rows[0]) == ["time_s", *(f"{rail.name}_{unit}" for unit in "wj" for rail in rails), "events"]
    assert (rows[0]["events"], rows[1]["events"]) == ("a; b", "")
    assert rows[-1][f"{rails[1].name}_w"] == ""
    assert read_table(path).watts[rails[0].name] == [2.0] * len(rows)


@pytest.mark.slow
def test_the_program_measures_a_command_with_the_declared_model(tmp_path: Path) -> None:
    files = {flag: tmp_path / f"energy.{flag}" for flag in ("out", "json", "plot")}
    files["plot"] = tmp_path / "energy.png"
    flags = [word for flag, path in files.items() for word in (f"--{flag}", str(path))]
    script = "echo one >> $TANDEM_MARKS; sleep 0.3; echo two >> $TANDEM_MARKS; sleep 0.1"
    command = [sys.executable, "-m", "quantify.energy", "--watts", "5,15", "--source", "constant", *flags, "--"]
    done = subprocess.run(
        [*command, "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "model, not measured: 5 W idle, 15 W busy" in done.stdout
    assert "metering took" in done.stdout
    summary = json.loads(files["json"].read_text())
    joules, elapsed_s = summary["energy"]["total_j"], summary["energy"]["elapsed_s"]
    assert 5 * 0.4 <= joules <= 15 * elapsed_s
    assert [event["name"] for event in summary["energy"]["events"]] == ["one", "two"]
    assert read_table(files["out"]).joules["model"][-1] == pytest.approx(joules, rel=1e-3)
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_without_a_sensor_the_program_says_what_it_looked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantify.energy", "--source", "pmic", "--out", str(tmp_path / "e.csv")]
    done = subprocess.run(
        [*command, "--", "true"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={"PATH": ""}
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: --source pmic: no vcgencmd; this is no Raspberry Pi, or its package raspi-utils is missing\n"
    )


@pytest.mark.parametrize("text", ["5", "a,b", "15,5", "-1,5", "1,2,3", "5,inf", "nan,5"])
def test_watts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--watts"):
        parse_watts(text)


def test_watts_are_idle_and_busy() -> None:
    assert parse_watts("5,15.5") == (5.0, 15.5)


def test_files_are_refused_before_anything_runs(tmp_path: Path) -> None:
    check_outputs(50, tmp_path / "a.csv", None, tmp_path / "a.pdf")
    with pytest.raises(UsageError, match=r"ends in \.png or \.pdf"):
        check_outputs(50, tmp_path / "a.csv", None, tmp_path / "a.svg")
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        check_outputs(50, tmp_path / "a.csv", tmp_path / "none" / "a.json", None)
    with pytest.raises(UsageError, match="must be above 0"):
        check_outputs(0, tmp_path / "a.csv", None)


def test_what_to_measure_is_one_thing() -> None:
    assert divided(["--a", "1", "--", "x", "--", "y"]) == (["--a", "1"], ["x", "--", "y"])
    for command, pid, duration_s, told in (
        ([], None, None, "give the command to measure behind --"),
        (["true"], 1, None, "without --pid and --duration_s"),
        (["true"], None, 1.0, "without --pid and --duration_s"),
        ([], 2**22 + 1, None, "no process has this number"),
        ([], None, 0.0, "--duration_s is 0; it must be above 0"),
    ):
        with pytest.raises(UsageError, match=told), target("quantify.energy", command, pid, duration_s):
            pass


@pytest.mark.parametrize("suffix", ["png", "pdf"])
@pytest.mark.slow
def test_figures_are_drawn_of_many_rails_and_of_none_lost(tmp_path: Path, suffix: str) -> None:
    table, path = tmp_path / "e.csv", tmp_path / f"e.{suffix}"
    names = [name for rails in TX2_MW.values() for name in rails]
    table.write_text(
        f"time_s,{','.join(f'{name}_{unit}' for unit in 'wj' for name in names)},events\n"
        + "".join(f"{row},{','.join(['1.5'] * 24)},\n" for row in range(5))
    )
    rails = tuple(RailEnergy(name, "cpu", name == "VDD_IN", 6.0, 4.0, 1.5, None) for name in names)
    report = EnergyReport(("INA3221",), 4.0, 6.0, 1.5, rails, events=tuple(Event(t / 9, f"e{t}") for t in range(30)))
    energy_figure.save_figure(path, table, report, "a command")

    assert path.stat().st_size > 10_000


@pytest.mark.slow
def test_the_machines_memory_alone_is_drawn_without_processes(tmp_path: Path) -> None:
    table, path = tmp_path / "m.csv", tmp_path / "m.png"
    table.write_text(
        "time_s,resident_bytes,processes,proportional_bytes,host_used_bytes,events\n0.0,0,0,,5000000,\n1.0,0,0,,6000000,\n"
    )
    memory_figure.save_figure(
        path, table, MemoryReport(1.0, 0, 0.0, 0, 0, None, 6_000_000, 9_000_000, cost=Cost()), "it"
    )

    assert path.read_bytes().startswith(b"\x89PNG")
