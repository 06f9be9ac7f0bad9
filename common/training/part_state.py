"""The state of a part: its parameters and buffers, and what its optimizer keeps of them, tensor by tensor.

The same form goes into checkpoints, and over the network when the cut moves.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from common.codec.buffers import dtype_name, elements, from_bytes, named_dtype, to_bytes
from common.errors import PartitionError
from common.partition.steps import state_of
from common.training.optimizers import Updater
from common.wire.framing import Buffer
from common.wire.structs import Piece, TensorSpec

State: TypeAlias = dict[tuple[str, str], Tensor]
"""By (name, slot): slot is empty for the value itself, else what the optimizer calls it."""

VALUE = ""
_SEPARATOR = "|"


def state_of_part(part: nn.Module, updater: Updater) -> State:
    """All of it; the tensors are the part's own."""
    values = {(name, VALUE): value.detach() for name, value in state_of(part).items()}
    return {**values, **updater.state()}


def only(state: Mapping[tuple[str, str], Tensor], names: Iterable[str]) -> State:
    """What belongs to some parameters and buffers."""
    chosen = set(names)
    return {key: value for key, value in state.items() if key[0] in chosen}


def only_values(state: Mapping[tuple[str, str], Tensor]) -> State:
    """Without what the optimizer keeps."""
    return {key: value for key, value in state.items() if key[1] == VALUE}


def values_of(state: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    """The values by name, in memory of their own, for a file of weights."""
    return {name: value.detach().cpu().contiguous().clone() for (name, slot), value in state.items() if slot == VALUE}


def put_mean(part: nn.Module, mean: Mapping[tuple[str, str], Tensor]) -> None:
    """Give a part other values, in place; its optimizer keeps what it has.

    Raises:
        KeyError: one is missing.
        RuntimeError: one has another shape.
    """
    with torch.no_grad():
        for name, tensor in state_of(part).items():
            tensor.copy_(mean[name, VALUE])


def copied(state: Mapping[tuple[str, str], Tensor]) -> State:
    """The same in memory of its own, on the CPU."""
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}


def put_values(part: nn.Module, state: Mapping[tuple[str, str], Tensor]) -> None:
    """Give a part its parameters and buffers; it may be on the meta device.

    Raises:
        PartitionError: one that is missing, or of another shape or dtype.
    """
    replaced: dict[int, Tensor] = {}  # weights under two names stay one tensor
    for name, old in state_of(part).items():
        new = replaced.get(id(old))
        if new is None:
            value = state.get((name, VALUE))
            if value is None:
                raise PartitionError(f"the state has no {name}; is it of another model or cut?")
            if value.shape != old.shape or value.dtype != old.dtype:
                raise PartitionError(
                    f"{name} came as {dtype_name(value.dtype)} of shape {tuple(value.shape)}; the model has "
                    f"{dtype_name(old.dtype)} of shape {tuple(old.shape)}"
                )
            value = laid_out(value.detach(), old)
            new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
            replaced[id(old)] = new
        path, _, leaf = name.rpartition(".")
        owner = part.get_submodule(path)
        register = owner._parameters if leaf in owner._parameters else owner._buffers
        register[leaf] = new  # type: ignore[assignment]


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A tensor in the memory order of another, by which kernels round."""
    if value.stride() == like.stride():
        return value
    return torch.empty_strided(like.shape, like.stride(), dtype=value.dtype).copy_(value)


def optimizer_state(state: Mapping[tuple[str, str], Tensor]) -> State:
    """What is the optimizer's of a state."""
    return {key: value for key, value in state.items() if key[1] != VALUE}


def to_pieces(state: Mapping[tuple[str, str], Tensor]) -> tuple[tuple[Piece, ...], tuple[Buffer, ...]]:
    """A state as parts of a message, and its buffers."""
    pieces = tuple(
        Piece(name, slot, TensorSpec(dtype_name(value.dtype), tuple(value.shape)))
        for (name, slot), value in state.items()
    )
    return pieces, tuple(to_bytes(value.contiguous()) for value in state.values())


def from_pieces(pieces: Iterable[Piece], buffers: Iterable[memoryview]) -> State:
    """A state from parts of a message; the tensors are in memory of their own.

    Raises:
        CodecError: a dtype, shape or number of bytes that no tensor has.
        ValueError: more or fewer buffers than pieces.
    """
    state: State = {}
    for piece, buffer in zip(pieces, buffers, strict=True):
        dtype = named_dtype(piece.tensor.dtype)
        elements(piece.tensor.shape)
        state[piece.name, piece.slot] = from_bytes(buffer, dtype, piece.tensor.shape).clone()
    return state


def flat(state: Mapping[tuple[str, str], Tensor], prefix: str) -> dict[str, Tensor]:
    """By names for a file."""
    return {f"{prefix}{name}{_SEPARATOR}{slot}": value for (name, slot), value in state.items()}


def unflat(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """From the names of a file."""
    state: State = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            name, _, slot = key.removeprefix(prefix).rpartition(_SEPARATOR)
            state[name, slot] = value
    return state


def nbytes(state: Mapping[tuple[str, str], Tensor]) -> int:
    """Bytes of its tensors."""
    return sum(value.nbytes for value in state.values())


def materialised(part: nn.Module) -> bool:
    """Whether nothing of a part is on the meta device."""
    return all(value.device != torch.device("meta") for value in state_of(part).values())
