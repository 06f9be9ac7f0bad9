"""Command lines of the generative programs; what they share with all workloads is inherited."""

from dataclasses import dataclass
from typing import Literal

from common.codec import load_own, make_codec
from common.errors import UsageError
from common.models.chairs import Form
from common.training.delay import FARTHEST, Late
from common.training.optimizers import find_preset, require_momentum
from common.training.plateau import Plateau
from discriminative.options import Corrections, PlannedOptions, RunOptions
from discriminative.plan_options import Strategies
from discriminative.server_options import ListenOptions

DEFAULT_UP = "int8+zstd"  # of gradients that are late already, int4 is too coarse here
DEFAULT_DOWN = "int4+zstd"
PATIENCE, LATE_PATIENCE = 2, 6  # epochs; late gradients make the loss swing, which is not yet its end


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(RunOptions):
    """Training of a generator of images."""

    image_size: int = 64
    """Pixels of a side: 32, 64, or 128 as published."""
    width: float = 0.25
    """Factor of the widths of all layers; 1 as published."""
    dataset: str = "shapes"
    """shapes (drawn on the fly), chairs:PATH (the public rendered chairs), objects:PATH (any folder of renders)."""
    num_chairs: int = 0
    """How many chairs the model tells apart; 0 for those of the data set (809 as published)."""
    optim: str = "chairs"
    """Optimizer preset; chairs is the published one: Adam, 5e-4, halved when the held-out loss falls no more."""
    splits: int = 0
    """Number of slices the model is divided into; 0 makes each of its 11 blocks a slice."""
    split_index: int | None = None
    """The cloud's head holds slices [0, split_index): 0 is edge-only, SPLITS leaves the edge the loss; default 5."""
    compress_up: str = ""
    """Codec of the gradients, also ef+... (what was left out is made up for); default int8+zstd."""
    compress_down: str = ""
    """Codec of the activations, also delta+... (what changed since the last epoch); default int4+zstd."""
    stale_it: int | Literal["auto"] = 1
    """Staleness bound K: the cloud may be this many batches ahead of the gradients that it has applied. auto takes the
    least that keeps the slowest stage busy."""
    lookahead: float = 1.5
    """Compute activations with the weights that are expected so many times as far on as their gradients will be late;
    1 is when they will be applied, 0 is now."""
    late_rate: float = 0.5
    """With K > 0 the head's learning rate is at most this / K of the first one; 0 sets no limit."""
    late_momentum: float = 0.98
    """With K > 0 the momentum of the head's optimizer (Adam's first), in the place of the preset's; 0 leaves that."""
    patience: int | None = None
    """With --optim chairs: the learning rate is halved behind more than so many epochs without a lower held-out loss;
    default 2 as published, and 6 with K > 0, where the loss swings."""
    samples: int = 8
    """Held-out images to show beside what is generated of their poses, behind each epoch; 0 shows none."""

    @property
    def corrections(self) -> Corrections:
        """What the head does besides replaying its steps."""
        return Corrections(late=Late(self.lookahead, self.late_rate))

    @property
    def codecs(self) -> tuple[str, str]:
        """Specs of up and down; what they name of files is loaded."""
        up, down = (getattr(self, f"compress_{way}") or self.compress for way in ("up", "down"))
        return load_own(up or DEFAULT_UP), load_own(down or DEFAULT_DOWN)

    @property
    def halves(self) -> bool:
        """Whether the learning rate falls where the held-out loss does so no more."""
        return self.optim == "chairs"

    def plateau(self, *, late: bool) -> Plateau | None:
        """When it does, in a run whose gradients are late or are not."""
        if not self.halves:
            return None
        usual = LATE_PATIENCE if late else PATIENCE
        return Plateau(patience=usual if self.patience is None else self.patience)

    @property
    def form(self) -> Form:
        """Which generator."""
        return Form(self.image_size, self.width)

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        super().check()
        self.form.check()
        find_preset(self.optim)
        if self.patience is not None and (self.patience < 0 or not self.halves):
            reason = "it must be 0 or more" if self.halves else "the rate is halved with --optim chairs only"
            raise UsageError(f"--patience is {self.patience}; {reason}")
        for name in ("num_chairs", "samples", "late_rate"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.lookahead <= FARTHEST:
            raise UsageError(f"--lookahead is {self.lookahead}; it goes from 0 to {FARTHEST:g}")
        if not 0 <= self.late_momentum < 1:
            raise UsageError(f"--late_momentum is {self.late_momentum}; it goes from 0 to below 1")
        for name in ("lookahead", "late_momentum"):
            if getattr(self, name):
                require_momentum(self.optim, f"--{name}", f"--{name} 0")
        up, down = self.codecs
        make_codec(up, "down")  # gradients go up here
        make_codec(down, "up")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(GeneratorOptions, PlannedOptions):
    """The edge's side: holds the images, the loss and the tail, and trains together with a server."""

    plan: Strategies = "fixed"
    """fixed: as the other flags say. ours: cut, codecs and K from profiles of both machines and the live network, anew
    while it changes. jointdnn, edge: what it is compared with, chosen once. (Not cloud and neurosurgeon.)"""

    def check_plan(self) -> None:
        """Raises UsageError where values make no sense."""
        super().check_plan()
        if self.plan == "cloud":
            raise UsageError(
                "--plan cloud puts all on the cloud, and the images that the loss compares with are here; "
                "--plan fixed --split_index 11 leaves the edge no more than the loss"
            )
        if self.plan == "neurosurgeon":
            raise UsageError(
                "--plan neurosurgeon chooses for inference that begins at the edge, and this model's begins at the "
                "cloud; --plan jointdnn chooses a cut for serial training"
            )


@dataclass(frozen=True, kw_only=True)
class BaseOptions(GeneratorOptions):
    """Head and tail in one process: the very same training without a network, for ablations."""

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        super().check()
        self.check_unplanned()


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ListenOptions):
    """The cloud's side: waits for edges, and trains the head of each one's generator.

    The client describes the job. What is given here must be the same in every job; anything else is refused.
    """

    image_size: int | None = None
    """Serve generators of this size only; with --width."""
    width: float | None = None
    """Serve generators of this width only; with --image_size."""
    num_chairs: int | None = None
    """Serve generators of this number of chairs only."""
    split_index: int | None = None
    """Serve jobs with this cut only."""

    def check(self) -> None:
        """Raises UsageError where values make no sense."""
        super().check()
        if (self.image_size is None) != (self.width is None):
            raise UsageError("--image_size and --width name a generator together; give both or neither")

    @property
    def pinned(self) -> dict[str, object]:
        """Fields of the job that must have these values."""
        pinned: dict[str, object] = {}
        if self.image_size is not None and self.width is not None:
            form = Form(self.image_size, self.width)
            form.check()
            pinned["model"] = form.name
        if self.num_chairs is not None:
            pinned["num_classes"] = self.num_chairs
        if self.split_index is not None:
            pinned["split_index"] = self.split_index
        return pinned
