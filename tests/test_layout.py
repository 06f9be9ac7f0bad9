"""The layout's rules: names that would shadow the standard library, code that would run from data, import order."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["common", "discriminative", "generative", "DIN", "baseline", "benchmarks", "quantify", "inference"]
WORKLOADS = {"discriminative", "generative", "DIN", "baseline", "benchmarks", "quantify", "inference", "services"}
BESIDE_SCRIPTS = [".", "discriminative", "generative", "DIN", "baseline", "quantify", "benchmarks", "profile"]

# What a part of the library may import of the library; `errors` and `naming` and the like go everywhere.
FREE = {"errors", "naming", "config", "command", "records", "vision"}
LAYERS = {
    "wire": set[str](),
    "link": set[str](),
    "drawing": set[str](),
    # The cut table looks models up by name and draws itself; a live set's layout is told in messages.
    "partition": {"models", "wire", "drawing"},
    "models": set[str](),
    "datasets": set[str](),
    "codec": {"wire"},
    "metering": set[str](),
    "profiling": {"codec", "partition", "metering"},
    "planning": {"wire", "codec", "partition", "link", "profiling", "metering"},
    "figures": {"drawing", "profiling", "planning"},
    "report": {"drawing", "figures", "planning"},
    "training": {"wire", "codec", "partition", "link", "datasets", "planning", "profiling", "metering"},
}


@cache
def sources() -> tuple[Path, ...]:
    """Python files of the project: those that git knows of, else those of the known folders."""
    found = [path for name in [*PACKAGES, "services", "tests"] for path in (ROOT / name).rglob("*.py")]
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        # Not ignored: what is new and not added yet counts as well.
        command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        if listed.returncode == 0:
            found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return tuple(sorted(path for path in found if path.exists()))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: ast.Module, package: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a module imports, wherever in it; relative names are made full."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def imports_of_library() -> Iterator[tuple[str, str, str]]:
    """Part of the library that imports, where, and the name."""
    for path in sources():
        folder, *rest = path.relative_to(ROOT).parts
        if folder == "common":
            for line, name in imports(tree(path), path.relative_to(ROOT).parent.parts):
                yield rest[0].removesuffix(".py"), f"{path.relative_to(ROOT)}:{line}", name


def test_the_sources_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in sources()}

    assert {"common/errors.py", "discriminative/client.py", "tests/test_layout.py"} <= names


@pytest.mark.parametrize("folder", ["profile", "data"])
def test_folders_with_a_standard_name_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", BESIDE_SCRIPTS)
def test_no_file_beside_a_script_has_a_standard_name(folder: str) -> None:
    taken = {path.stem for path in (ROOT / folder).glob("*.py")} & sys.stdlib_module_names

    # The interpreter itself imports codecs before any script's folder is on the path: that one cannot be shadowed.
    assert taken <= {"__main__", "codecs"}


UNSAFE_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "builtins.eval", "builtins.exec", "pickle.load", "pickle.loads"}


def unsafe(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of what may run code that a file or a peer brings."""
    yield from ((line, name) for line, name in imports(module) if name.split(".")[0] in UNSAFE_MODULES)
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        unsafe_load = name == "torch.load" and given.get("weights_only") != "True"
        if name in UNSAFE_CALLS or unsafe_load or given.get("allow_pickle", "False") != "False":
            yield call.lineno, name


def test_nothing_is_unpickled_or_evaluated() -> None:
    found = [(path.relative_to(ROOT), *each) for path in sources() for each in unsafe(tree(path))]

    # A test may write the pickle that must not be read.
    assert [each for each in found if (each[0].parts[0], each[2]) != ("tests", "pickle")] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "pickle.loads(data)",
        "eval('1')",
        "exec('x')",
        "torch.load('f')",
        "torch.load('f', weights_only=False)",
        "np.load('f', allow_pickle=True)",
    ],
)
def test_the_guard_finds(code: str) -> None:
    assert len(list(unsafe(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["model.eval()", "torch.load('f', weights_only=True)", "np.load('f', allow_pickle=False)", "import copy"]
)
def test_the_guard_lets_pass(code: str) -> None:
    assert list(unsafe(ast.parse(code))) == []


def test_the_library_imports_no_workload() -> None:
    assert [(place, name) for _, place, name in imports_of_library() if name.split(".")[0] in WORKLOADS] == []


def test_imports_of_the_library_run_one_way() -> None:
    wrong = []
    for part, place, name in imports_of_library():
        words = name.split(".")
        if words[0] == "common" and len(words) > 1:
            allowed = FREE if part in FREE else LAYERS.get(part, {words[1]}) | FREE | {part}
            wrong += [f"{place}: {name}"] if words[1] not in allowed else []

    assert wrong == []


def test_errors_stand_on_nothing() -> None:
    assert list(imports(tree(ROOT / "common" / "errors.py"))) == []
