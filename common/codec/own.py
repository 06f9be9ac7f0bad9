"""A user's own value stage: loaded from a file where its user names it, or registered by their program.

A peer's spec says ``own:NAME``; that is looked up among what this machine's user has loaded, and loads nothing.
"""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from common.codec.grammar import OWN_PREFIX
from common.codec.values import ValueStage
from common.errors import UsageError
from common.naming import nearest

Factory = TypeVar("Factory", bound=Callable[[], ValueStage])

_OWN: dict[str, Callable[[], ValueStage]] = {}
_FROM_FILES: dict[tuple[Path, str], str] = {}
_FILE = re.compile(r"(?:^|(?<=\+))[^+]*\.py:\w+")
_METHODS = ("encode", "nbytes", "decode")


def register(name: str) -> Callable[[Factory], Factory]:
    """Decorate a class or function that makes a value stage: specs call it ``own:name``.

    Raises:
        UsageError: no name, or one that is taken.
    """
    if not re.fullmatch(r"\w+", name):
        raise UsageError(f"{name!r} is no name for a codec; letters, digits and _ make one")

    def registered(factory: Factory) -> Factory:
        if _OWN.setdefault(name, factory) is not factory:
            raise UsageError(f"there is a codec {OWN_PREFIX}{name} already; give yours another name")
        return factory

    return registered


def load_own(spec: str) -> str:
    """The spec of the user of this machine, with each ``path/to/file.py:NAME`` in it loaded and called ``own:NAME``.

    Not for specs that a peer sent.

    Raises:
        UsageError: no such file, a file that fails, or no such codec in it.
    """
    return _FILE.sub(lambda match: _load(match[0]), spec)


def make_own(word: str) -> ValueStage:
    """The value stage ``own:NAME``.

    Raises:
        UsageError: nobody has loaded one of this name here, or it is none.
    """
    name = word.removeprefix(OWN_PREFIX)
    if name not in _OWN:
        raise UsageError(
            f"this machine has loaded no codec {word!r}; its user names the file that has it, "
            f"--own_codec path/to/file.py:{name} on a server"
        )
    stage = _OWN[name]()
    missing = [each for each in _METHODS if not callable(getattr(stage, each, None))]
    if missing:
        raise UsageError(f"{word} has no method {', '.join(missing)}; docs/codecs.md says what a codec has")
    return stage


def _load(word: str) -> str:
    path_text, _, name = word.rpartition(":")
    path = Path(path_text).expanduser()
    key = (path.resolve(), name)
    if key not in _FROM_FILES:
        module = _module(path)
        own = {
            each: value
            for each, value in vars(module).items()
            if getattr(value, "__module__", "") == _module_name(path)
        }
        if not callable(own.get(name)):
            raise UsageError(f"{path} has no codec {name!r}; {nearest(name, own)}")
        _FROM_FILES[key] = OWN_PREFIX + name
        register(name)(own[name])
    return _FROM_FILES[key]


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path} to load a codec from")
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # as an import would: dataclasses and the like look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _module_name(path: Path) -> str:
    """Name of the module that a file is loaded as."""
    return f"own_codec_{path.stem}"
