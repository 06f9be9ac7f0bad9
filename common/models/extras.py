"""Libraries of models that Tandem does not require: imported when a name asks for them, and kept off the network."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType

from common.errors import UsageError
from common.models.offline import offline


def load(module: str, extra: str, name: str) -> ModuleType:
    """Import a library.

    Args:
        module: of the library.
        extra: of Tandem, that brings it.
        name: of the model that needs it, for errors.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    command = f"pip install 'tandem[{extra}]'"
    try:
        with apart(), redirect_stdout(StringIO()):  # some print, where only results should stand
            import_module(module.partition(".")[0])
            return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise UsageError(f"{name} needs {missing}, which is not installed here: {command}") from None
    except (ImportError, OSError) as error:
        raise UsageError(f"{name} needs {module}, which does not load here: {_first_line(error)}; {command}") from error


@contextmanager
def building(name: str) -> Iterator[None]:
    """While a library builds a model: what it raises is told as one error, and it loads nothing from the network."""
    try:
        with apart():
            yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name} cannot be built: {type(error).__name__}: {_first_line(error)}") from error


@contextmanager
def apart() -> Iterator[None]:
    """No connections, and no warnings: those of a library's own code are nothing that a user here can act on."""
    with offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
