"""What messages are made of: frozen structs that stand within them."""

import msgspec


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages: immutable, and a field that nobody knows is an error."""


class TensorSpec(Struct, frozen=True, array_like=True):
    """One tensor as it was before encoding, and what its decoder needs besides the bytes."""

    dtype: str
    shape: tuple[int, ...]
    params: tuple[float, ...] = ()
    """Numbers of the value stage, such as scale and offset."""


class Payload(Struct, frozen=True, array_like=True):
    """Encoded tensors; each takes one buffer of the body."""

    codec: str
    tensors: tuple[TensorSpec, ...]


class View(Struct, frozen=True, array_like=True):
    """Where a tensor lies in a message's payload; lengths are in elements."""

    storage: int
    """Which tensor of the payload is its memory, or holds its elements."""
    offset: int
    """Of its first element, from the beginning of its memory."""
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Job(Struct, frozen=True):
    """What is to be trained. Names only, looked up in the server's own registries; never code."""

    workload: str
    model: str
    num_classes: int
    input_shape: tuple[int, ...]
    """Shape of one sample, without the batch: (channels, height, width) of an image, or (words,) of a text."""
    cut: int
    """Index of the cut point in the model's graph."""
    cut_name: str
    splits: int
    split_index: int
    """The slices that the cut was chosen by; -1 where it was named directly."""
    graph_digest: str
    """Digest of the traced graph: both sides must mean the same model by the same cut."""
    weights_digest: str
    """Digest of the whole model before training."""
    batch_size: int
    epochs: int
    optim: str
    learning_rate: float
    """Overrides the preset's where it is not 0."""
    seed: int
    stale_it: int
    dropout: float
    compress_up: str
    compress_down: str
    samples: int = 0
    """Training samples, as far as told: for codecs that remember something of each."""
    vocabulary: int = 0
    """How many numbers of words there are, where samples are texts (int64); 0 where they are images (float32)."""
    frozen: int = 0
    """Index of the cut point before which nothing is trained, and all computes as in evaluation."""
    labels: str = "cloud"
    """Where the loss is computed; at the ``edge`` labels never leave it, and the outputs come down instead. Of several
    parties, those without labels have them ``elsewhere``."""
    gradients: str = "cloud"
    """What the head learns from: gradients of the ``cloud``, or a ``local`` loss, with which none are wanted."""
    align_every: int = 0
    """With a local loss: every so many steps the cloud's gradient is taken instead; 0 for never."""
    kept: int = 0
    """Of how many samples the cloud keeps the activations, held-out ones included; 0 where it keeps none."""
    direction: str = "up"
    """Which way activations go: ``up``, the head is at the edge; ``down``, the head is at the cloud, and the edge has
    the tail with the loss and what it compares with."""
    weights: str = ""
    """What the model starts from, where that is not the seed alone: equal where both sides start from the same."""
    group: str = ""
    """What the parties that train one model together agreed to be called; empty for an edge with a model of its own."""
    party: int = 0
    """Which of them this is, from 0."""
    parties: int = 0
    """How many there are; 0 for an edge with a model of its own."""
    milestones: tuple[int, ...] = ()
    """Epochs (from 0) at whose start the learning rate is multiplied by ``gamma``; empty leaves those of the preset."""
    gamma: float = 0.1
    late_momentum: float = 0.0
    """Of a head's optimizer where K > 0, in the place of the preset's; 0 leaves that."""

    @property
    def activations_codec(self) -> str:
        """The codec of the way that activations go."""
        return self.compress_up if self.direction == "up" else self.compress_down

    @property
    def gradients_codec(self) -> str:
        """The codec of the other way."""
        return self.compress_down if self.direction == "up" else self.compress_up


class Resume(Struct, frozen=True, array_like=True):
    """A session that an edge wants to go on with, from one of its own checkpoints."""

    session: str
    key: bytes
    checkpoints: tuple[int, ...]
    """Those that the edge has on disk: how many frames it had sent when each was taken."""


class Piece(Struct, frozen=True, array_like=True):
    """One tensor of a part's state."""

    name: str
    """Of the parameter or buffer."""
    slot: str
    """What the optimizer keeps of it, such as ``exp_avg``; empty for the value itself."""
    tensor: TensorSpec


class TailTimes(Struct, frozen=True, array_like=True):
    """When the tail's side worked on a step: (start on its own clock, busy seconds) for each stage."""

    # Whole numbers, as these take one byte each where nothing was timed.
    receive: tuple[float, float] = (0, 0)
    decode: tuple[float, float] = (0, 0)
    compute: tuple[float, float] = (0, 0)
    encode: tuple[float, float] = (0, 0)
    timed_bytes: int = 0
    """How many bytes came in the seconds of ``receive``."""
