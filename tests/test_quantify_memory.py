"""quantify.memory: what a command holds is what is measured, and its failure is told."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from quantify.memory import measure
from quantify.memory_table import COLUMNS

HOLD_64_MIB = "import time; block = bytearray(64 << 20); time.sleep(0.4)"
ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_what_a_command_holds_is_seen() -> None:
    idle, code = measure([sys.executable, "-c", "import time; time.sleep(0.4)"], 0.02)
    holding, _ = measure([sys.executable, "-c", HOLD_64_MIB], 0.02)
    difference = max(s.resident_bytes for s in holding) - max(s.resident_bytes for s in idle)
    assert code == 0
    assert difference == pytest.approx(64 << 20, rel=0.05)


@pytest.mark.slow
def test_children_are_counted() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD_64_MIB!r}])"
    samples, _ = measure([sys.executable, "-c", child], 0.02)
    assert max(s.processes for s in samples) == 2
    assert max(s.resident_bytes for s in samples) > 64 << 20


def test_a_command_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="no-such-program cannot be started"):
        measure(["no-such-program"], 0.1)


@pytest.mark.slow
def test_the_program_writes_its_table_and_passes_failure_on(tmp_path: Path) -> None:
    table = tmp_path / "memory.csv"
    command = [sys.executable, "-m", "quantify.memory", "--out", str(table), "--", sys.executable, "-c", "exit(3)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "exit code 3" in done.stderr
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert list(rows[0]) == list(COLUMNS)
    assert COLUMNS[:3] == ("time_s", "resident_bytes", "processes")  # as ever; newer columns come behind
    assert all(int(row["host_used_bytes"]) > 0 for row in rows)


@pytest.mark.slow
def test_a_peak_between_two_samples_is_told(tmp_path: Path) -> None:
    summary = tmp_path / "memory.json"
    hold = "block = bytearray(256 << 20); del block; import time; time.sleep(0.2)"
    flags = ["--interval_ms", "5000", "--out", str(tmp_path / "memory.csv"), "--json", str(summary)]
    command = [sys.executable, "-m", "quantify.memory", *flags, "--", sys.executable, "-c", hold]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    peaks = json.loads(summary.read_text())
    assert peaks["peak_process_bytes"] > 256 << 20
    assert peaks["peak_resident_bytes"] < 128 << 20


@pytest.mark.slow
def test_a_running_process_and_the_machine_are_measured_for_a_while(tmp_path: Path) -> None:
    table, figure = tmp_path / "memory.csv", tmp_path / "memory.pdf"
    for which in (["--pid", str(os.getpid()), "--plot", str(figure)], []):
        flags = [*which, "--duration_s", "0.2", "--out", str(table)]
        done = subprocess.run(
            [sys.executable, "-m", "quantify.memory", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "machine: " in done.stdout
        assert ("resident in" in done.stdout) == bool(which)
    assert figure.read_bytes().startswith(b"%PDF")
