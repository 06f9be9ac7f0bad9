"""A command line becomes a config object, or one sentence that says what is wrong with it."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from common.config import parse
from common.errors import UsageError
from common.naming import nearest


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the program does."""

    stale_it: int = 4
    """How far ahead the head may be."""
    lr: float = 0.1
    """Learning rate."""
    use_EF: Literal[0, 1] = 0
    """Error feedback."""
    model: str | None = None
    """Name of a model."""
    run_dir: Path = Path("runs")
    """Folder of the runs."""
    debug: bool = False
    """Show tracebacks."""


def test_no_flags_give_the_defaults() -> None:
    assert parse(Options, []) == Options()


@pytest.mark.parametrize("argv", [["--stale_it", "3"], ["--stale-it", "3"], ["--stale_it=3"], ["--stale-it=3"]])
def test_underscores_and_dashes_are_the_same(argv: list[str]) -> None:
    assert parse(Options, argv) == Options(stale_it=3)


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["--debug"], Options(debug=True)),
        (["--no_debug"], Options()),
        (["--no-debug"], Options()),
        (["--use_EF", "1", "--model", "VGG19"], Options(use_EF=1, model="VGG19")),
        (["--run_dir", "/tmp/x y"], Options(run_dir=Path("/tmp/x y"))),  # noqa: S108
        (["--stale_it", "-3", "--lr", "1e-3"], Options(stale_it=-3, lr=1e-3)),
        (["--stale_it", "1", "--stale_it", "2"], Options(stale_it=2)),
    ],
)
def test_values_take_the_type_of_their_field(argv: list[str], options: Options) -> None:
    assert parse(Options, argv) == options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stale_ti", "3"], "unknown flag --stale_ti; did you mean --stale_it?"),
        (["--stale-ti=3"], "unknown flag --stale-ti; did you mean --stale_it?"),
        (["--use_ef", "1"], "unknown flag --use_ef; did you mean --use_EF?"),
        (["--xyzzy"], "unknown flag --xyzzy; see --help for the list"),
        (["-q"], "unknown flag -q; see --help for the list"),
        (["plugh"], "'plugh' stands where a flag was expected; see --help"),
        (["--stale_it", "3", "4"], "'4' stands where a flag was expected; see --help"),
    ],
)
def test_an_unknown_flag_is_told_with_the_nearest(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(Options, argv)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--stale_it", "many"], ["--stale_it", "'many'"]),
        (["--stale_it", "1.5"], ["--stale_it", "'1.5'"]),
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--use_EF", "2"], ["--use_EF", "'2'", "'0', '1'"]),
        (["--stale_it"], ["--stale_it", "Missing value"]),
        (["--model"], ["--model", "Missing value"]),
    ],
)
def test_a_bad_value_is_told_in_one_line_with_its_flag(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(Options, argv)

    message = str(caught.value)
    assert all(word in message for word in words), message
    assert not set(message) & set("\n│╭╰─")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--use_EF", "2"], "invalid choice '2' for argument '--use_EF'. Expected one of ('0', '1')."),
        (["--stale_it", "x"], "Error parsing --stale_it: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_terminal_without_frames_gets_the_same_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding in ("ascii", "utf-8"):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
            with pytest.raises(UsageError) as caught:
                parse(Options, argv)
        assert str(caught.value) == message


def test_help_shows_each_flag_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Options, ["--help"])

    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "What the program does." in shown
    assert "--stale_it" in shown
    assert "How far ahead the head may be." in shown


def test_the_command_line_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["program", "--stale_it", "9"])

    assert parse(Options) == Options(stale_it=9)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("vgg18", "did you mean VGG16? Known: VGG16, resnet18"),
        ("RESNET18", "did you mean resnet18? Known: VGG16, resnet18"),
        ("zzz", "Known: VGG16, resnet18"),
    ],
)
def test_the_nearest_name_is_found_in_any_case(name: str, end: str) -> None:
    assert nearest(name, ["VGG16", "resnet18"]) == end
