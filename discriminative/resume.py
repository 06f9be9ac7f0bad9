"""Go on with a run by its folder alone: its options are those that it was started with."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from common.errors import UsageError


class Resumable(Protocol):
    """The options of a run that can be gone on with; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def resume(self) -> Path | None:
        """The run's folder."""


Options = TypeVar("Options", bound=Resumable)

_CONFIG = "config.json"
OF_THE_MOMENT = frozenset(
    {
        *("resume", "ip", "port", "hyperport", "security", "insecure", "reconnect_s", "on_disconnect"),
        *("device", "threads", "workers", "queue_limit", "codec_memory_mb", "run_dir", "data_path", "debug"),
        *("meter", "watts", "meter_interval_ms"),
        *("portA", "portB", "dataset_path"),
    }
)
"""Options that change nothing of what is trained: they are this command line's."""


def with_saved(options: Options) -> Options:
    """The options of the run that is to be resumed; the same where none is.

    Raises:
        UsageError: the folder is no run's, or a flag says something else than the run was started with.
    """
    if options.resume is None:
        return options
    saved = _read(options.resume)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if field.name in OF_THE_MOMENT or field.name not in saved:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        given, value = getattr(options, field.name), _like(default, saved[field.name])
        if given == default:
            changes[field.name] = value
        elif given != value and field.name != "epochs":  # a run may be made longer
            raise UsageError(
                f"--{field.name} is {given}, but {options.resume} was started with {value}; a run that is resumed "
                "keeps what it was started with"
            )
    return dataclasses.replace(options, **changes)


def _read(folder: Path) -> dict[str, Any]:
    try:
        saved = json.loads((folder / _CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume {folder}: this is no run folder ({error}); name the folder that the run printed at its start"
        ) from None
    if not isinstance(saved, dict):
        raise UsageError(f"--resume {folder}: {_CONFIG} holds no options")
    if (folder / "summary.json").exists():
        raise UsageError(f"--resume {folder}: this run is over; its summary.json says what came of it")
    return saved


def _like(default: Any, value: Any) -> Any:
    """A value as JSON has it, of the type of the option."""
    if isinstance(default, tuple):
        return tuple(value)
    return Path(value) if isinstance(default, Path) else value
