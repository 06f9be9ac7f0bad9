"""Every message that crosses the network, as a tagged frozen struct.

The byte format of a frame that carries them is in ``framing``; both are specified in ``docs/protocol.md``.
Buffers (tensor bytes) travel in the frame's body, in the order each message states.
"""

from typing import TypeAlias

from common.wire.structs import Job, Payload, Piece, Resume, Struct, TailTimes, TensorSpec, View

PROTOCOL = 5
"""Version of the messages; raised when a peer of the version before could not follow."""


class Sent(Struct, frozen=True, array_like=True):
    """Base of all messages: an array, since names of fields would be most of what a small frame has beside tensors."""


class Challenge(Sent, frozen=True, tag="challenge"):
    """Cloud -> edge, first on a connection under TLS: asks for a proof that the edge knows the token."""

    nonce: bytes


class Proof(Sent, frozen=True, tag="proof"):
    """Edge -> cloud: answers `Challenge`."""

    nonce: bytes
    proof: bytes


class Welcome(Sent, frozen=True, tag="welcome"):
    """Cloud -> edge: the proof is right, and here is the cloud's own; what follows is as without TLS."""

    proof: bytes


class Open(Sent, frozen=True, tag="open"):
    """Edge -> cloud, first on the control port: asks for a session."""

    protocol: int
    software: str
    job: Job
    window: int
    """The most frames that the edge sends without having received their answers."""
    resume: Resume | None = None


class Opened(Sent, frozen=True, tag="opened"):
    """Cloud -> edge: the session exists and waits for its training connection."""

    session: str
    key: bytes
    """Shows that a connection is of the edge that opened the session."""
    software: str
    notes: tuple[str, ...] = ()
    """Sentences for the user, such as a difference that is allowed but should be known."""
    checkpoint: int = 0
    """Where a resumed session goes on: one of ``resume.checkpoints``, the newest that both sides have."""
    share: str = "none"
    """What this session has in common with others: ``none``, ``tail``, or ``average`` (of the parts, each epoch)."""


class Measure(Sent, frozen=True, tag="measure"):
    """Edge -> cloud, first on the control port: how fast is the cloud at this model? Answered by `Measured`."""

    protocol: int
    software: str
    job: Job
    codecs: tuple[str, ...]
    """Which to time at each cut."""


class Measured(Sent, frozen=True, tag="measured"):
    """Cloud -> edge: its profile of the model."""

    profile: bytes
    """Two texts as a JSON array, packed by zlib: the table, and what it is about (``docs/planning.md``)."""


class Meet(Sent, frozen=True, tag="meet"):
    """Edge -> cloud, first on the control port: one of several parties looks for the others. Answered by `Met`."""

    protocol: int
    software: str
    run: str
    """What its user calls the run; the same at all parties."""
    party: int
    """Which one it is, from 0."""
    parties: int
    decider: int
    """The party that says which samples are held out, as it has the labels; ``parties`` where the cloud has them."""
    salt: bytes
    """For hashing ids, if it is the first party; empty where its user has given one to all parties."""
    step_s: float = 0.0
    """How long a step would take if it were up to this party, as it has planned; 0 where it has not."""
    turn_s: float = 0.0
    """Of the party with the labels: from a step's outputs at the cloud to their gradients there, as it has planned."""


class Met(Sent, frozen=True, tag="met"):
    """Cloud -> edge, every second until all parties are there."""

    missing: tuple[int, ...]
    """The parties that are not there; none in the last one."""
    salt: bytes = b""
    """The first party's."""
    step_s: float = 0.0
    """The longest of all parties', in the last one."""
    turn_s: float = 0.0
    """The same."""


class Identities(Sent, frozen=True, tag="identities"):
    """Edge -> cloud, behind the last `Met`: the samples of a party. Answered by `Aligned`.

    Buffers: 16 bytes for each hashed id, each once; then a byte for each, 1 where the party would hold it out.
    """

    count: int


class Aligned(Sent, frozen=True, tag="aligned"):
    """Cloud -> edge, every second until all parties have sent theirs.

    Buffers: in the last one, a byte for each id: 0 where another party lacks it, 1 for training, 2 for held out.
    """

    missing: tuple[int, ...]
    """The parties whose ids are missing; none in the last one."""
    group: str = ""
    """What their jobs are to be called."""


class Ping(Sent, frozen=True, tag="ping"):
    """Either way on the control port: answered at once by `Pong` with the same number.

    Buffers: any, of any content; it is the time of their way that is of interest.
    """

    number: int
    wanted: int = 0
    """Bytes that the answer is to have as its buffer."""
    step_s: float = 0.0
    """How long a step would take if it were up to this party, as it plans now; 0 where it does not."""
    turn_s: float = 0.0
    """As in `Meet`, as it plans now."""


class Pong(Sent, frozen=True, tag="pong"):
    """Answer to `Ping`, with the answerer's own clock (seconds, its origin unknown).

    Buffers: one of as many bytes as were wanted, if any were.
    """

    number: int
    clock_s: float
    seconds: float = 0.0
    """From behind the first bytes of the ping to its last one."""
    timed_bytes: int = 0
    """How many bytes came in these seconds."""
    step_s: float | None = None
    """The longest of the other parties', once all have told theirs; None where there are none."""
    turn_s: float = 0.0
    """The same."""


class Attach(Sent, frozen=True, tag="attach"):
    """Edge -> cloud, first on the training port: this connection belongs to that session, and replaces its last one.

    On the control port likewise, where a control connection broke.
    """

    session: str
    key: bytes
    received: int
    """Frames of the session's training that have come down so far; what was sent behind them is sent again."""


class Attached(Sent, frozen=True, tag="attached"):
    """Cloud -> edge: training may begin, or go on."""

    received: int
    """Frames that have come up so far."""


class Inputs(Sent, frozen=True, tag="inputs"):
    """Edge -> cloud, where the head is at the cloud: a step's inputs, as they are; answered by `Activations`.

    Buffers: one for each tensor of ``tensors``, then ``ids``.
    """

    step: int
    epoch: int
    training: bool
    tensors: tuple[TensorSpec, ...]
    ids: TensorSpec
    """Which samples these are: their indices in the data set."""
    ahead: float = 0  # as a whole number it takes one byte
    """The weights to compute with are those that are expected so many steps on, counted at the epoch's rate."""


class Activations(Sent, frozen=True, tag="activations"):
    """Head -> tail: one step's activations.

    Buffers: one for each tensor of ``payload``, then ``labels``, then ``ids``, then, where ``random_state``
    is set, the head's random-number state behind its forward pass.
    """

    step: int
    epoch: int
    training: bool
    payload: Payload
    labels: TensorSpec
    ids: TensorSpec
    """Which samples these are: their indices in the data set."""
    gradients_wanted: tuple[bool, ...]
    """For each live tensor: whether the head can use its gradient."""
    random_state: bool = False
    views: tuple[View, ...] = ()
    """One for each live tensor, where they are not the tensors of ``payload`` themselves."""
    times: TailTimes = TailTimes()
    """Of a head at the cloud."""


class Gradients(Sent, frozen=True, tag="gradients"):
    """Tail -> head: the answer to `Activations`; ``payload`` has the gradients that were wanted, in order.

    Buffers: one for each tensor of ``payload``.
    """

    step: int
    training: bool
    loss: float
    """Mean over the step's samples."""
    correct: int
    count: int
    payload: Payload
    times: TailTimes = TailTimes()
    views: tuple[View, ...] = ()
    """One for each gradient, where they are not the tensors of ``payload`` themselves."""
    rate: float = 1  # as a whole number it takes one byte
    """To a head at the cloud: factor of its learning rate, which the edge's validation loss decides."""


class Applied(Sent, frozen=True, tag="applied"):
    """Cloud -> edge: its head has applied the `Gradients` of a step."""

    step: int


class Outputs(Sent, frozen=True, tag="outputs"):
    """Tail -> head, where the labels stay at the edge: the model's outputs, for the loss. Buffers: one."""

    step: int
    training: bool
    payload: Payload
    times: TailTimes = TailTimes()


class OutputGradients(Sent, frozen=True, tag="output_gradients"):
    """Head -> tail, in training: the loss's gradients of the `Outputs`; answered by `Gradients`. Buffers: one."""

    step: int
    loss: float
    """Mean over the step's samples; the answer has it again."""
    correct: int
    payload: Payload


class Checkpoint(Sent, frozen=True, tag="checkpoint"):
    """Edge -> cloud on the training port: keep the state as it is behind all that was sent before this."""

    answered: int
    """Answers that the edge has applied; the cloud keeps those behind them, too."""
    copy: bool = False
    """Whether the edge wants a copy of the tail's state, to train on alone if it must."""


class Checkpointed(Sent, frozen=True, tag="checkpointed"):
    """Cloud -> edge: the state is held, and the checkpoint before it is on disk. Buffers: one for each piece."""

    pieces: tuple[Piece, ...] = ()
    """The tail's state, where the edge wanted a copy."""


class Move(Sent, frozen=True, tag="move"):
    """Edge -> cloud on the training port, when every step was answered: train by another plan from now on.

    Buffers: one for each piece, as it is in memory.
    """

    cut: int
    cut_name: str
    compress_up: str
    compress_down: str
    stale_it: int
    step: int
    """The training step that is due next, and its epoch: an edge may have trained alone meanwhile."""
    epoch: int
    pieces: tuple[Piece, ...]
    """State of what is in the tail from now on, and was not (or has changed at the edge)."""


class Moved(Sent, frozen=True, tag="moved"):
    """Cloud -> edge: done; with the state of what is in the head from now on, and was not. Buffers as in `Move`."""

    pieces: tuple[Piece, ...] = ()
    refusal: str = ""
    """Why all stays as it is."""


class Average(Sent, frozen=True, tag="average"):
    """Edge -> cloud on the training port, behind an epoch: the head's values, for the mean with other edges' heads.

    Buffers: one for each piece.
    """

    pieces: tuple[Piece, ...]


class Averaged(Sent, frozen=True, tag="averaged"):
    """Cloud -> edge: the mean; the tails have theirs already. Buffers: one for each piece."""

    edges: int
    """How many heads it is of."""
    pieces: tuple[Piece, ...]


class Finish(Sent, frozen=True, tag="finish"):
    """Edge -> cloud on the training port: every step was answered, the run is over."""


class Finished(Sent, frozen=True, tag="finished"):
    """Cloud -> edge: digest of each of the tail's parameters and buffers."""

    digests: dict[str, str]


class Bye(Sent, frozen=True, tag="bye"):
    """Edge -> cloud, last of all: `Finished` has come, and the session may be forgotten."""


class Error(Sent, frozen=True, tag="error"):
    """Either way, last on its connection: why the sender gives up."""

    code: str
    """``denied`` (the connection), ``refused`` (the job), ``gone`` (no such session here), ``protocol`` (the peer's
    bytes), ``failed`` (the sender)."""
    text: str


Message: TypeAlias = (
    Challenge
    | Proof
    | Welcome
    | Open
    | Opened
    | Measure
    | Measured
    | Meet
    | Met
    | Identities
    | Aligned
    | Ping
    | Pong
    | Attach
    | Attached
    | Inputs
    | Activations
    | Gradients
    | Applied
    | Outputs
    | OutputGradients
    | Checkpoint
    | Checkpointed
    | Move
    | Moved
    | Average
    | Averaged
    | Finish
    | Finished
    | Bye
    | Error
)
