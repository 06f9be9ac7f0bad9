"""A workload so small that a session opens in milliseconds, and honest frames of all messages recorded from it."""

from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from common.codec.buffers import to_bytes
from common.errors import TandemError
from common.training import Head, Tail
from common.training.exchange import AS_IT_IS, Outgoing, spec_of
from common.training.opening import Recipe
from common.training.part_state import state_of_part, to_pieces
from common.training.prepare import Prepared, largest_body, make_head, make_tail, prepare
from common.wire.framing import Frame, FrameReader, feed, pack
from common.wire.messages import (
    PROTOCOL,
    Aligned,
    Applied,
    Attach,
    Attached,
    Average,
    Averaged,
    Bye,
    Challenge,
    Checkpoint,
    Checkpointed,
    Error,
    Finish,
    Finished,
    Identities,
    Inputs,
    Measure,
    Measured,
    Meet,
    Message,
    Met,
    Move,
    Moved,
    Open,
    Opened,
    OutputGradients,
    Outputs,
    Ping,
    Pong,
    Proof,
    Welcome,
)
from common.wire.structs import Job
from tests.test_session_rules import JOB

WORKLOAD = "small"
SHAPE = (2, 6, 6)
CLASSES = 4
BATCH_SIZE = 5
CODECS = ("none", "fp16", "int8", "int8+zstd", "none+lz4", "int4/c+zstd", "topk:0.2+int8", "int2+lz4", "delta+int8")


class Small(nn.Module):
    """Images (B, 2, 6, 6) to logits (B, 4); two tensors cross its middle cuts, one of them a view of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        logits: Tensor = self.out((y.relu() * y.transpose(2, 3)).flatten(1))
        return logits


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean loss and right answers."""
    return nn.functional.cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


RECIPE = Recipe(lambda _: Small(), objective)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH_SIZE, *SHAPE, generator=generator), torch.arange(BATCH_SIZE) % CLASSES


def upload(head: Head, step: int) -> Outgoing:
    """A step's honest message."""
    inputs, labels = batch(step)
    return head.encode(head.forward(step, 0, (inputs,), labels, torch.arange(BATCH_SIZE)))


@dataclass(frozen=True)
class Setting:
    """A cut and codecs, agreed on."""

    job: Job
    most_bytes: int
    """Of a body."""

    def head(self) -> Head:
        """A new head, with weights of its own."""
        return make_head(_prepare(), self.job, device="cpu", taylor=False)

    def tail(self) -> Tail:
        """A new tail, with weights of its own."""
        return make_tail(_prepare(), self.job, device="cpu", objective=objective)


def _prepare() -> Prepared:
    return prepare(Small, SHAPE, 0)


def settings(codecs: tuple[str, ...] = CODECS) -> list[Setting]:
    """One for each codec that there is, at cuts that one and two tensors cross."""
    prepared = _prepare()
    count = len(prepared.graph.points)
    found = []
    for i, codec in enumerate(codecs):
        for cut in (1 + i % 2, min(3, count - 2)):
            changes: dict[str, Any] = {
                "workload": WORKLOAD,
                "model": "small",
                "num_classes": CLASSES,
                "input_shape": SHAPE,
                "cut": cut,
                "cut_name": prepared.graph.points[cut].name,
                "graph_digest": prepared.graph.digest,
                "weights_digest": prepared.weights_digest,
                "batch_size": BATCH_SIZE,
                "stale_it": 0,
                "compress_up": codec,
                "compress_down": "none" if codec.startswith(("delta", "topk")) else codec,
            }
            if "samples" in Job.__struct_fields__:
                changes["samples"] = BATCH_SIZE
            job = msgspec.structs.replace(JOB, **changes)
            setting = Setting(job, largest_body(prepared.graph, job))
            try:
                setting.tail()
            except TandemError:
                continue  # a codec of another version
            found.append(setting)
    return found


def carried(outgoing: Outgoing) -> Frame:
    """A message as it comes out of a connection."""
    reader = FrameReader()
    (frame,) = [frame for part in pack(outgoing.message, outgoing.buffers) for frame in feed(reader, part)]
    return frame


def session_frames(setting: Setting) -> list[tuple[Message, list[bytes]]]:
    """Each message that an honest session sends, with its buffers."""
    head, tail = setting.head(), setting.tail()
    up = upload(head, 0)
    down = tail.encode(tail.step(tail.decode(carried(up))))
    alone: list[Message] = [
        Challenge(bytes(32)),
        Proof(bytes(32), bytes(32)),
        Welcome(bytes(32)),
        Open(PROTOCOL, "tandem 0.1", setting.job, 8),
        Opened("0123abcd", bytes(16), "tandem 0.1", ("a note",)),
        Meet(PROTOCOL, "tandem 0.1", "a run", 0, 2, 1, bytes(16), 0.1, 0.02),
        Met((), bytes(16), 0.2, 0.02),
        Aligned((), "0123abcd"),
        Ping(7, 300),
        Pong(7, 1.5, 0.25, 300),
        Attach("0123abcd", b"", 0),
        Attached(0),
        Measure(PROTOCOL, "tandem 0.1", setting.job, ("none", "int8")),
        Measured(b"x" * 40),
        Checkpoint(3, copy=True),
        Applied(0),
        Finish(),
        Bye(),
        Finished({"out.weight": "0" * 32}),
        Error("failed", "a reason"),
    ]
    pieces, buffers = to_pieces(state_of_part(tail.part, tail.updater))
    move = Move(1, "x", "none", "none", 0, 1, 0, pieces)
    outputs = AS_IT_IS.encode([torch.randn(BATCH_SIZE, CLASSES)], 0)
    turns = (Outputs(0, training=True, payload=outputs.spec), OutputGradients(0, 1.5, 2, outputs.spec))
    states = (move, Moved(pieces), Checkpointed(pieces), Average(pieces), Averaged(2, pieces))
    moving = [Outgoing(each, buffers) for each in states]
    turning = [Outgoing(each, outputs.buffers) for each in turns]
    images, ids = batch(0)[0], torch.arange(BATCH_SIZE)
    asked = Inputs(0, epoch=0, training=True, tensors=(spec_of(images),), ids=spec_of(ids))
    turning.append(Outgoing(asked, (to_bytes(images), to_bytes(ids))))
    announcing = Outgoing(Identities(BATCH_SIZE), (bytes(16 * BATCH_SIZE), bytes(BATCH_SIZE)))
    every = (up, down, *moving, *turning, announcing)
    with_buffers = [(each.message, [bytes(b) for b in each.buffers]) for each in every]
    return [*((message, []) for message in alone), *with_buffers]
