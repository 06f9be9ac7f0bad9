"""What a codec is told besides the tensors: which step and samples they are of, and where each lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from common.codec.channels import WHOLE, Channels, channels_of
from common.wire.structs import View

Key: TypeAlias = tuple[int, ...]
"""Whole numbers that seed the random choices about one tensor of one step."""


@dataclass(frozen=True)
class Context:
    """The message that tensors belong to. Both sides know all of it before they encode or decode."""

    step: int = 0
    training: bool = True
    """Whether this is a training step; memories stay as they are in an evaluation."""
    ids: Tensor | None = None
    """(B,) whole numbers: which samples the tensors are of; `delta` remembers by them."""
    views: tuple[View, ...] = ()
    """Where the live tensors lie in the encoded storages; by these a codec finds the channels."""

    @staticmethod
    def of(given: "Context | int") -> "Context":
        """A bare step number stands for a training step of unknown samples."""
        return Context(given) if isinstance(given, int) else given


@dataclass(frozen=True)
class Slot:
    """One floating-point tensor of a message."""

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    elements: int
    channels: Channels = WHOLE
    """Known where it is encoded; decoders read it from the bytes."""


@dataclass(frozen=True)
class Place:
    """Where the values of a flat tensor belong, and how chance decides about them."""

    channels: Channels = WHOLE
    positions: Tensor | None = None
    """int64, ascending: where the values stand in their tensor, when they are not all of it."""
    key: Key = ()


def slot_channels(shape: tuple[int, ...], index: int, views: Sequence[View]) -> Channels:
    """Channels of storage ``index`` of a message."""
    return channels_of(shape, [view for view in views if view.storage == index])
