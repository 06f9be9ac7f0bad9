"""Models whose cut is crossed by tensors in all kinds of memory, as heads and tails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.codec import make_codec
from common.training import Head, Tail
from common.training.exchange import Outgoing
from common.training.optimizers import Updater, find_preset
from common.wire.framing import Frame, FrameReader, feed, pack

BATCH_SIZE = 6
CODEC = make_codec("none")


class First(nn.Module):
    """Images (B, 3, 8, 8) to features (B, 8, 8, 8), and from there to what crosses."""

    def __init__(self, cross: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.conv, self.norm, self._cross = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), cross

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._cross(self.norm(self.conv(x)))


class Second(nn.Module):
    """From what crosses to features (B, 8, 8, 8), and from there to the outputs (B, 3)."""

    def __init__(self, take: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.out, self._take = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3), take

    def forward(self, *live: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(self.conv(self._take(*live))).mean((2, 3)))
        return logits


def _windows(x: Tensor) -> tuple[Tensor, ...]:
    B, C, H, W = x.shape
    return (x.view(B, C, 2, H // 2, 2, W // 2).permute(0, 2, 4, 1, 3, 5).reshape(B * 4, C, H // 2, W // 2),)


def _together(x: Tensor) -> Tensor:
    B = x.shape[0] // 4
    return x.view(B, 2, 2, 8, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(B, 8, 8, 8)


def _halves(x: Tensor) -> tuple[Tensor, ...]:
    y = torch.cat([x, x.sin()], 1)
    return y[:, :8], y[:, 8:]


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).repeat(1, 8, 1, 1)


@dataclass(frozen=True)
class Case:
    """What crosses, and what becomes of it."""

    cross: Callable[[Tensor], tuple[Tensor, ...]]
    take: Callable[..., Tensor]
    groups: Sequence[Sequence[int]] = ()
    wanted: tuple[bool, ...] = (True,)
    views: int = 1


CASES = {
    "dense": Case(lambda x: (x,), torch.relu_, views=0),
    "channels last": Case(lambda x: (x.to(memory_format=torch.channels_last),), torch.relu_),
    "channels last, flattened": Case(
        lambda x: (x.to(memory_format=torch.channels_last),),
        lambda x: x.flatten(2).transpose(1, 2).reshape(-1, 8, 8, 8),
    ),
    "expanded": Case(lambda x: (x[:, :1].expand(-1, 8, -1, -1),), lambda x: x.cos()),
    "windows": Case(_windows, _together, views=0),
    "sequence first": Case(
        lambda x: (x.flatten(2).permute(2, 0, 1).contiguous(),),
        lambda x: x.permute(1, 2, 0).reshape(-1, 8, 8, 8),
        views=0,
    ),
    "chunks, one overwritten": Case(_halves, lambda a, b: a.relu_() * b + a, wanted=(True, True), views=2),
    "thirds of a projection": Case(
        lambda x: x.view(-1, 8, 8, 4, 2).permute(3, 0, 4, 1, 2)[:3].unbind(0),
        lambda q, k, v: _attention(q, k, v)[:, :8],
        wanted=(True, True, True),
        views=3,
    ),
    "overlapping": Case(
        lambda x: (x, x.transpose(2, 3), x[:, 2:5]),
        lambda x, turned, part: torch.cat([x[:, :5] * turned[:, 3:], part.exp()], 1),
        groups=[[0, 1, 2]],
        wanted=(True, True, True),
        views=3,
    ),
    "overlapping with gaps": Case(
        lambda x: (x[:, 1:4], x[:, 3:]),
        lambda a, b: torch.cat([a, b.sin()], 1),
        groups=[[0, 1]],
        wanted=(True, True),
        views=2,
    ),
    "a number": Case(lambda x: (x, torch.tensor(x.shape[1])), lambda x, n: x / int(n), wanted=(True, False), views=0),
}


def objective(outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    return nn.functional.cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH_SIZE, 3, 8, 8, generator=generator)
    return inputs, torch.randint(0, 3, (BATCH_SIZE,), generator=generator)


def carried(outgoing: Outgoing) -> Frame:
    """A message as it comes out of a connection: in memory of its own."""
    reader = FrameReader()
    (frame,) = [frame for part in pack(outgoing.message, outgoing.buffers) for frame in feed(reader, part)]
    return frame


def parts(case: Case) -> tuple[First, Second]:
    torch.manual_seed(0)
    return First(case.cross), Second(case.take)


def split(case: Case, example: Sequence[Any] | None = None, *, data_dependent: bool = False) -> tuple[Head, Tail]:
    first, second = parts(case)
    with torch.no_grad():
        crossing = [(tuple(each.shape), each.dtype) for each in First(case.cross)(torch.rand(2, 3, 8, 8))]
    head = Head(
        first,
        Updater(find_preset("resnet"), first),
        CODEC,
        CODEC,
        gradients_wanted=case.wanted,
        groups=case.groups,
        evaluation_groups=case.groups,
        stale_it=0,
        seed=0,
    )
    tail = Tail(
        second,
        Updater(find_preset("resnet"), second),
        CODEC,
        CODEC,
        objective=objective,
        example=example or crossing,
        evaluation_example=example or crossing,
        example_size=2,
        data_dependent=data_dependent,
        most_bytes=1 << 18,
        batch_size=BATCH_SIZE,
        num_classes=3,
        seed=0,
    )
    return head, tail
