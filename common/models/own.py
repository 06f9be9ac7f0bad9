"""A user's own model: loaded from a file where its user names it, and never because a peer does.

The factory of ``path/to/file.py:factory`` is called with the number of classes (and ``dropout``, if it takes that) and
returns an `nn.Module`. The file may say ``INPUT_SHAPE = (channels, height, width)``; else the model takes 3 x 32 x 32.
With ``VOCABULARY = n`` and ``INPUT_SHAPE = (words,)`` it takes texts: numbers of words, int64 below n.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from common.errors import UsageError
from common.models import of_keras, of_transformers, own_transformers
from common.models.choice import Choice
from common.models.inputs import Images, Tokens
from common.models.registry import IMAGE, find
from common.naming import nearest

OWN_PREFIX = "own:"
_MARK = ".py:"


def choose_model(name: str) -> Choice:
    """The model that the user of this machine names: of the registry, or in a file of theirs, which is loaded.

    Not for names that a peer sent; those are for `common.models.registry.choose`.
    """
    if _MARK in name:
        return choose_own(name)
    if name.lower().endswith(of_keras.SUFFIX):
        return of_keras.choose(name)
    if name.lower().startswith(of_transformers.PREFIX):
        return own_transformers.choose_local(name[len(of_transformers.PREFIX) :])
    return find(name)


def choose_own(name: str) -> Choice:
    """Load the file of ``path/to/file.py:factory`` and find the factory.

    Raises:
        UsageError: no such file, a file that fails, no such factory, or an input shape that is none.
    """
    path, _, factory_name = name.rpartition(":")
    module = _load(Path(path).expanduser())
    known = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
    if factory_name not in known:
        raise UsageError(f"{path} has no {factory_name!r} to build a model; {nearest(factory_name, known)}")
    inputs = _inputs(module, path)
    vocabulary = inputs.vocabulary if isinstance(inputs, Tokens) else 0
    factory = getattr(module, factory_name)
    return Choice(OWN_PREFIX + factory_name, partial(_build, factory, name, vocabulary), inputs)


def _inputs(module: ModuleType, path: str) -> Images | Tokens:
    """What the file says that its models take."""
    shape, words = getattr(module, "INPUT_SHAPE", IMAGE), getattr(module, "VOCABULARY", 0)
    if not isinstance(words, int) or words < 0:
        raise UsageError(f"{path}: VOCABULARY is {words!r}; it must be how many numbers of words there are")
    form, sizes = ("(words,)", 1) if words else ("(channels, height, width)", 3)
    if not (isinstance(shape, tuple) and len(shape) == sizes and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UsageError(f"{path}: INPUT_SHAPE is {shape!r}; it must be {form}")
    return Tokens(words, length=shape[0]) if words else Images(shape)


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path} to load a model from")
    spec = importlib.util.spec_from_file_location(f"own_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # as an import would: dataclasses and the like look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _build(
    factory: Callable[..., Any], name: str, vocabulary: int, num_classes: int, *, dropout: float = 0.0
) -> nn.Module:
    options = {"dropout": dropout} if dropout else {}
    if options and "dropout" not in inspect.signature(factory).parameters:
        raise UsageError(f"--dropout is {dropout}, but {name} takes no dropout; leave it out")
    try:
        model = factory(num_classes, **options)
    except Exception as error:
        raise UsageError(f"{name} failed on {num_classes} classes: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} gave a {type(model).__name__}; it must return a torch.nn.Module")
    if vocabulary:
        setattr(model, "vocabulary", vocabulary)  # noqa: B010  a number of no tensor, by which examples are made
    return model
