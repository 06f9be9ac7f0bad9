"""A program ends with the promised exit code, and tells an error in one line on stderr."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.command import Terminated, run_command
from common.errors import ConnectionLost, DataError, JobRefused, TandemError, UsageError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _process_is_as_before() -> Iterator[None]:
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # else the command closes pytest's own
    yield
    signal.signal(signal.SIGTERM, handler)
    root.handlers, root.level = handlers, level


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *argv: str) -> object:
    """Exit code of a program."""
    monkeypatch.setattr(sys, "argv", ["program", *argv])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code


def failing(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_success_is_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: print("result"), monkeypatch) == 0
    assert capsys.readouterr() == ("result\n", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("x"), 2), (DataError("x"), 1), (JobRefused("x"), 1), (ConnectionLost("x"), 1), (TandemError("x"), 1)],
)
@pytest.mark.parametrize("argv", [[], ["--debug"]])
def test_wrong_usage_is_2_and_failure_is_1(
    error: TandemError, code: int, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(failing(error), monkeypatch, *argv) == code


def test_an_error_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(failing(DataError("no data\n  in   /nowhere")), monkeypatch)

    assert capsys.readouterr() == ("", "error: no data in /nowhere\n")


def test_debug_shows_the_traceback_as_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(failing(DataError("no data")), monkeypatch, "--debug")

    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert any("raise error" in line for line in lines)
    assert lines[-1] == "error: no data"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(KeyboardInterrupt()), monkeypatch) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_termination_is_an_orderly_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    assert run(main, monkeypatch) == 143
    assert closed == [True]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated()])
def test_a_program_that_runs_until_it_is_stopped_has_done_its_work(
    stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["server"])
    with pytest.raises(SystemExit) as ended:
        run_command(failing(stop), until_stopped=True)
    assert ended.value.code == 0


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program"])

    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 // 0))


@pytest.mark.parametrize(("argv", "shown"), [([], ["to know"]), (["--debug"], ["to know", "to find out"])])
def test_debug_messages_are_shown_with_debug_only(
    argv: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        logging.getLogger("tandem.test").info("to %s", "know")
        logging.getLogger("tandem.test").debug("to find out")

    run(main, monkeypatch, *argv)

    assert capsys.readouterr().err.splitlines() == shown


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_traceback() -> None:
    source = "from common.command import run_command; run_command(lambda: print('line\\n' * 100_000))"
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == ""
    assert program.returncode == 1
