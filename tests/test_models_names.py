"""Names of models that must not work: hostile ones, those of libraries that are missing, those for another machine."""

import re
import socket
import sys
import threading
from pathlib import Path

import pytest

from common.errors import UsageError
from common.models import build_model
from common.models.extras import building, load
from common.models.offline import Offline, offline
from common.models.own import choose_model
from common.models.own_transformers import _parsed
from common.models.registry import choose, find


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("timm:resnet18", "timm", "zoo"),
        ("ultralytics:yolov8n", "ultralytics", "zoo"),
        ("hf:gpt2", "transformers", "hf"),
        ("hf:gpt2(n_layer=1)", "transformers", "hf"),
        ("model.keras", "keras", "keras"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.keras").touch()

    command = re.escape(f"needs {package}, which is not installed here: pip install 'tandem[{extra}]'")
    with pytest.raises(UsageError, match=command):
        choose_model(name)


def test_what_a_library_needs_and_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needy_library.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "broken_library.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(UsageError, match=r"x:y needs a_package_that_nobody_has, .*: pip install 'tandem\[zoo\]'"):
        load("needy_library", "zoo", "x:y")
    with pytest.raises(UsageError, match=r"x:y needs broken_library, which does not load here: libGL"):
        load("broken_library", "zoo", "x:y")


@pytest.mark.parametrize(
    "name",
    [
        "model.keras",
        "/etc/passwd",
        "../model.py:small",
        "/tmp/model.py:small",  # noqa: S108  a name, and no file
        "own:small",
        "http://example.org/model",
        "hf-hub:timm/resnet18",
        "keras:model",
        "os:system",
        ":",
        "",
    ],
)
def test_a_peer_reaches_only_tables(name: str) -> None:
    with pytest.raises(UsageError, match="no model is called"):
        choose(name)


@pytest.mark.parametrize("name", ["./folder", "/etc", "openai/gpt2", "gpt2(n_layer=100000)", "folder/"])
def test_a_peer_gives_no_options_and_no_folders(name: str) -> None:
    with pytest.raises(UsageError, match=r"hold only where they are typed.*: start this side with the same --model"):
        choose(f"hf:{name}")


def test_a_long_name_is_not_even_looked_up() -> None:
    with pytest.raises(UsageError, match="a model's name has 200 letters at most, not 100005"):
        choose("timm:" + "x" * 100_000)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2(n_layer=__import__('os').system('true'))",
        "gpt2(n_layer=2).config",
        "gpt2(n_layer=2)(n_head=2)",
        "gpt2(**{'n_layer': 2})",
        "gpt2(*[2])",
        "gpt2(2)",
        "gpt2(n_layer=[2])",
        "gpt2(n_layer=None)",
        "gpt2(n_layer=1j)",
        "gpt2(n_layer=1, n_layer=2)",
        "gpt2(n_layer=2); import os",
        "gpt2(n_layer=2",
        "gpt2(n_layer=" + "(" * 10_000,
        "os.system(n_layer=2)",
        "(n_layer=2)",
    ],
)
def test_options_are_literals(name: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form hf:TYPE\(option=value, \.\.\.\)"):
        _parsed(name)


def test_options_are_read_as_what_they_are() -> None:
    kind, options = _parsed("gpt2( n_layer=2, resid_pdrop = 0.5, activation_function='relu', scale=True, low=-1 )")

    assert kind == "gpt2"
    assert options == {"n_layer": 2, "resid_pdrop": 0.5, "activation_function": "relu", "scale": True, "low": -1}


def test_offline_holds_for_one_thread_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        reached = []
        with offline():
            with offline(), pytest.raises(Offline):
                socket.create_connection(address, timeout=5)
            with pytest.raises(Offline):  # as before, behind an inner one
                socket.getaddrinfo("localhost", 80)
            thread = threading.Thread(target=lambda: reached.append(socket.create_connection(address, timeout=5)))
            thread.start()
            thread.join(timeout=5)
        reached.append(socket.create_connection(address, timeout=5))
        for each in reached:
            each.close()
    assert len(reached) == 2


def test_a_library_that_would_download_is_told_so() -> None:
    with (
        pytest.raises(UsageError, match="x:y cannot be built: Offline: models are built without the network"),
        building("x:y"),
    ):
        socket.create_connection(("127.0.0.1", 9), timeout=5)


@pytest.mark.parametrize("ask", [find, build_model, choose_model])
def test_names_of_the_table_are_found_by_all(ask: object) -> None:
    assert callable(ask)
    assert ask("resnet20") is not None
