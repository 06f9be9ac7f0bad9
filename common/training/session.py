"""The rules of a session, pure: what a job may ask for, and the order in which steps may come."""

from collections import deque

from common.errors import JobRefused, ProtocolError, UsageError
from common.training.milestones import check_milestones
from common.wire.messages import PROTOCOL, Activations, Gradients, Inputs, Measure, Open

MAX_BATCH_SIZE = 1 << 16
MAX_CLASSES = 1 << 16
MAX_SAMPLE_ELEMENTS = 1 << 24
MAX_PARTIES = 64


def check_open(request: Open | Measure) -> None:
    """Raises JobRefused where a request is not one that this version can carry out."""
    if request.protocol != PROTOCOL:
        raise JobRefused(
            f"the client speaks protocol {request.protocol} (software {request.software}), this server "
            f"{PROTOCOL}; install the same version of Tandem on both machines"
        )
    job = request.job
    if job.labels not in ("cloud", "edge", "elsewhere"):
        raise JobRefused(f"labels are to be at {job.labels!r}; it is cloud, edge or elsewhere")
    if job.gradients not in ("cloud", "local"):
        raise JobRefused(f"gradients are to be {job.gradients!r}; it is cloud or local")
    if job.direction not in ("up", "down"):
        raise JobRefused(f"activations are to go {job.direction!r}; it is up or down")
    if job.direction == "down" and job.labels != "edge":
        raise JobRefused("with the head at the cloud, what the loss compares with is at the edge")
    if job.parties and (job.direction != "up" or job.gradients != "cloud" or job.kept):
        raise JobRefused("several parties train one model with heads of their own, and by its gradients alone")
    if not 0 <= job.parties <= MAX_PARTIES or not 0 <= job.party < max(job.parties, 1):
        raise JobRefused(f"party {job.party} of {job.parties} asks; they count from 0, and {MAX_PARTIES} are the most")
    if (job.labels == "elsewhere") > (job.parties > 0):
        raise JobRefused("labels are elsewhere only where several parties train one model")
    elements = 1
    for size in job.input_shape:
        elements *= max(size, 0)
    for name, value, low, high in (
        ("batch_size", job.batch_size, 1, MAX_BATCH_SIZE),
        ("num_classes", job.num_classes, 1, MAX_CLASSES),
        ("elements of a sample", elements, 1, MAX_SAMPLE_ELEMENTS),
        ("stale_it", job.stale_it, 0, 1 << 16),
        ("epochs", job.epochs, 0, 1 << 32),
        ("seed", job.seed, 0, (1 << 63) - 1),
        ("learning_rate", job.learning_rate, 0, 1e6),
        ("dropout", job.dropout, 0, 1),
        ("align_every", job.align_every, 0, 1 << 40),
        ("kept", job.kept, 0, 1 << 40),
        ("late_momentum", job.late_momentum, 0, 1 - 1e-6),
    ):
        if not low <= value <= high:
            raise JobRefused(f"{name} is {value}; it must be {low} to {high}")
    try:
        check_milestones(job.milestones, job.gamma)
    except UsageError as error:
        raise JobRefused(str(error)) from None


class StepOrder:
    """The order of steps on one side: each training step once, one after the other, epochs never back."""

    def __init__(self) -> None:
        self._next = 0
        self._epoch = 0

    def state(self) -> tuple[int, int]:
        """The step that is due next, and the epoch of the last one."""
        return self._next, self._epoch

    def load_state(self, state: tuple[int, int]) -> None:
        """Go on from a `state`."""
        self._next, self._epoch = state

    def activations(self, message: Activations | Inputs) -> None:
        """Check an upload as the cloud receives it."""
        if not message.training:
            return
        if message.step != self._next:
            what = "inputs" if isinstance(message, Inputs) else "activations"
            raise ProtocolError(f"{what} of step {message.step} came where step {self._next} was due")
        if message.epoch < self._epoch:
            raise ProtocolError(f"epoch {message.epoch} came after epoch {self._epoch}")
        self._next, self._epoch = message.step + 1, message.epoch


class AnswerOrder:
    """The order of answers as the head receives them: one for each upload, oldest first."""

    def __init__(self) -> None:
        self._due: deque[tuple[int, int, bool]] = deque()

    def sent(self, step: int, count: int, training: bool = True) -> None:
        """An upload of ``count`` samples is on its way."""
        self._due.append((step, count, training))

    def gradients(self, message: Gradients) -> None:
        """Check an answer."""
        self.answered(message.step, message.count, training=message.training)

    def answered(self, step: int, count: int, *, training: bool) -> None:
        """An answer for a step of so many samples is there."""
        due = self._due.popleft() if self._due else None
        if due != (step, count, training):
            raise ProtocolError(
                f"an answer for step {step} ({count} samples) came; due was "
                f"{'nothing' if due is None else f'step {due[0]} ({due[1]} samples)'}"
            )
