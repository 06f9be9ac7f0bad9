"""Weights in a file of this machine's user: safetensors, or what torch saved, of which only tensors are read.

Never for anything that came over a network from a peer: no module that takes a peer's bytes imports this one.
"""

from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UsageError

State = dict[str, Tensor]

_WRAPPED = ("state_dict", "model", "model_state_dict")
"""Where training programs put the weights, beside other things that they save."""


def read_weights(path: Path) -> State:
    """The tensors of a file, by name.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds something else than tensors by name.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path.absolute()} to load weights from")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _saved_by_torch(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"the weights in {path} cannot be read: {_first_line(error)}") from error
    while isinstance(content, dict) and (inner := [content[key] for key in _WRAPPED if key in content]):
        content = inner[0]
    if not isinstance(content, dict) or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise UsageError(f"{path} holds something else than tensors by name; save the state_dict() of a model")
    return {str(name): value for name, value in content.items()}


def file_digest(path: Path) -> str:
    """Equal for equal files.

    Raises:
        UsageError: it cannot be read.
    """
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                state.update(chunk)
    except OSError as error:
        raise UsageError(f"the weights in {path.absolute()} cannot be read: {error.strerror}") from error
    return state.hexdigest()


def _saved_by_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged in any way, or with code in it
        raise UsageError(
            f"the weights in {path} cannot be read: it is damaged, or holds more than tensors; only tensors are ever "
            "loaded, and no code: save the state_dict() of a model"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
