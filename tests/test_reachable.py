"""What a peer's bytes can reach, over all imports from the modules that take them: nothing that runs code from data."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.small import RECIPE, carried, objective, session_frames, upload
from tests.fuzz.small import settings as small_settings
from tests.test_layout import ROOT, imports, tree, unsafe

pytestmark = pytest.mark.slow  # all of the library is read

ROOTS = (
    "common.wire.tcp",
    "common.wire.security",
    "common.training.acceptor",
    "common.training.serve",
    "common.training.remote",
    "common.training.carrier",
    "common.link.relay",
)
"""All that hold a socket, or are handed what came from one."""

# What these modules may use of other packages. Whoever adds one answers for how it reads a peer's bytes.
PACKAGES = {
    "cryptography",
    "lz4",
    "msgspec",
    "numpy",
    "psutil",
    "safetensors",
    "torch",
    "tqdm",
    "tyro",
    "xxhash",
    "zstandard",
}
# Libraries of models are imported where a job names one; it is looked up in their tables.
PACKAGES |= {"keras", "timm", "transformers", "ultralytics"}

# Beyond what the layout's guard knows (pickle, eval, exec, torch.load, ...), and where it is allowed all the same.
RUNS_CODE = {"ctypes", "imp", "runpy", "subprocess", "multiprocessing", "code", "codeop", "yaml", "xmlrpc"}
CALLS = {"compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load", "torch.package"}
CALLS |= {"torch.ops.load_library", "torch.utils.cpp_extension.load", "np.fromfile", "numpy.fromfile", "np.memmap"}


@cache
def module_path(name: str) -> Path | None:
    """The file of a module of the project."""
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported(name: str) -> Iterator[str]:
    """Names that a module imports, with the packages around them, which Python runs as well."""
    path = module_path(name)
    if path is None:
        return
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for _, each in imports(tree(path), tuple(package)):
        words = each.split(".")
        yield from (".".join(words[: i + 1]) for i in range(len(words)))


@cache
def reached() -> frozenset[str]:
    """All modules of the project, and all names of others, that the roots import, directly or not."""
    seen: set[str] = set()
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imported(name)
    return frozenset(seen)


def ours() -> list[tuple[str, Path]]:
    return sorted((name, path) for name in reached() if (path := module_path(name)) is not None)


def test_the_walk_gets_where_it_must() -> None:
    names = {name for name, _ in ours()}
    assert set(ROOTS) <= names
    assert {"common.codec.lossless", "common.training.tail", "common.partition.layout", "common.wire.tls"} <= names


def test_nothing_that_runs_code_from_data_is_reached() -> None:
    assert [(name, *found) for name, path in ours() for found in unsafe(tree(path))] == []


def runs_code(module: ast.Module) -> Iterator[tuple[int, str]]:
    yield from ((line, name) for line, name in imports(module) if name.split(".")[0] in RUNS_CODE)
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name in CALLS or name.startswith(("importlib.util.", "subprocess.")):
            yield call.lineno, name


def test_nor_what_starts_programs_or_loads_modules_by_name() -> None:
    found = [(name, each) for name, path in ours() for _, each in runs_code(tree(path))]
    # A codec or a model of a user's own is loaded from the file that they name on their own command line; that
    # a peer's name is none of these is tested below, and in the tests of own models and codecs.
    assert {name for name, _ in found} <= {"common.codec.own", "common.models.own"}, found


def test_no_workload_is_reached() -> None:
    """What a server can build is handed to it; no import brings more."""
    assert [name for name in reached() if name.split(".")[0] in ("discriminative", "baseline", "benchmarks")] == []


def test_other_packages_are_known_ones() -> None:
    tops = {name.split(".")[0] for name in reached()} - {"common"}
    assert tops - set(sys.stdlib_module_names) <= PACKAGES


@pytest.mark.parametrize("code", ["import yaml", "compile(x, '', 'exec')", "torch.jit.load(f)", "import subprocess"])
def test_the_guard_finds(code: str) -> None:
    assert list(runs_code(ast.parse(code)))


EVENTS: list[str] = []
_watched = [False]
_WATCHED = ("exec", "compile", "import", "marshal", "pickle.find_class", "os.system", "subprocess", "ctypes", "open")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched[0] and event.startswith(_WATCHED):
        EVENTS.append(f"{event} {arguments[:1]!r}")


def test_at_run_time_a_step_runs_no_code_and_opens_no_file() -> None:
    """Python itself reports: from a frame's bytes to the answer's, on both sides, nothing of the kind happens."""
    sys.addaudithook(_audit)
    for setting in small_settings(("none", "int8+zstd")):
        head, tail = setting.head(), setting.tail()
        for step in range(2):  # in the first, torch imports what it needs
            EVENTS.clear()
            sent = upload(head, step)
            _watched[0] = step > 0
            try:
                answer = tail.encode(tail.step(tail.decode(carried(sent))))
                received = head.decode(carried(answer))
            finally:
                _watched[0] = False
            head.backward(received)
            assert EVENTS == []


def test_the_audit_sees() -> None:
    _watched[0] = True
    try:
        compile("1", "", "eval")
    finally:
        _watched[0] = False
    assert any(each.startswith("compile") for each in EVENTS)
    EVENTS.clear()


def test_honest_frames_of_all_messages_are_at_hand() -> None:
    """The fuzzer's and this test's frames leave no message out."""
    from common.wire import messages  # noqa: PLC0415

    kinds = {type(message) for message, _ in session_frames(small_settings(("none",))[0])}
    assert kinds == set(messages.Message.__args__)
    assert RECIPE.objective is objective
