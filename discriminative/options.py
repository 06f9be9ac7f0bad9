"""Command lines of the discriminative programs. Flags keep their published spelling; dashes work as well."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.codec import load_own, make_codec
from common.errors import UsageError
from common.training.delay import NO_CORRECTION, NOT_LATE, Delay, Late
from common.training.metered import check_metering
from common.training.milestones import check_milestones
from common.training.optimizers import find_preset, require_momentum
from common.training.remote import RECONNECT_S
from discriminative.plan_options import PlanOptions
from discriminative.shared_options import SlowableOptions, StaleOptions, check_growth

# Chosen by measurement, which also says what they cost: docs/codecs.md, "Which codec".
DEFAULT_UP = "int4/c+zstd"
DEFAULT_DOWN = "ef+int2/c+zstd"


@dataclass(frozen=True)
class Corrections:
    """What a head does besides replaying its steps."""

    taylor: bool = False
    """Correct gradients for the codec's error."""
    stash: bool = False
    """Keep graphs and weights instead."""
    delay: Delay = NO_CORRECTION
    """About gradients that are late."""
    late: Late = NOT_LATE
    """The same, of a head at the cloud."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SlowableOptions, StaleOptions):
    """A training run of any workload."""

    workers: int = 0
    """Processes that load batches ahead; 0 loads in the training thread."""
    splits: int = 0
    """Number of slices the model is divided into; 0 makes each of its blocks a slice."""
    split_index: int | None = None
    """The head holds slices [0, split_index): 0 is cloud-only, SPLITS edge-only; default 1."""
    cut: str = ""
    """Cut behind this module or operation instead, such as features.3.relu; or an index of the cut table."""
    epochs: int = 10
    """How often the training set is gone through."""
    batch_size: int = 32
    """Samples of a step."""
    lr: float = 0.0
    """First learning rate; 0 takes the preset's."""
    K_schedule: tuple[int, ...] = ()
    """Epochs (from 0) at whose start K grows by one; published are 8 for imdb, and 3 for tiny_imagenet."""
    schedule: Literal["fixed", "eager"] = "fixed"
    """fixed: results do not depend on timing. eager: each gradient is applied as soon as it is there."""
    compress: str = ""
    """Codec of both directions: none, fp16, int8, int4/c+zstd, topk:0.1+int8, ...; docs/codecs.md has all."""
    compress_up: str = ""
    """Codec of the activations, also delta+... (what changed since the last epoch); default int4/c+zstd."""
    compress_down: str = ""
    """Codec of the gradients, also ef+... (what was left out is made up for); default ef+int2/c+zstd."""
    seed: Annotated[int, tyro.conf.arg(aliases=["--manualSeed"])] = 0
    """Fixes weights, data order, augmentation and dropout."""
    meter: Literal["auto", "none"] = "auto"
    """auto: the energy sensors that this machine has, and memory by stage; none: only the peak of memory."""
    watts: str = ""
    """IDLE,BUSY of this machine: a model of its energy, weighted by the use of its cores, where it has no sensor."""
    meter_interval_ms: float = 50.0
    """Between two samples of energy."""
    report_freq: int = 100
    """Every how many steps TensorBoard gets a point."""
    log_name: str = ""
    """Name of the run folder; default MODEL-DATASET."""
    track_weights: Literal[0, 1] = 0
    """1 takes a histogram of the weights of each slice behind each epoch: TensorBoard, weights.npz, and
    `python profile/plot.py weights RUN`. A client has those of its own part."""
    track_point: tuple[str, ...] = ()
    """The slices of --track_weights, such as 0,1,2,3; default all."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 for those at the ends of epochs only, -1 for none."""
    resume: Path | None = None
    """Go on with the run of this folder, with all that it was started with."""
    move: tuple[str, ...] = ()
    """STEP:CUT for each step before which the cut is to be moved, such as 100:layer3."""

    @property
    def corrections(self) -> Corrections:
        """What a head does besides replaying its steps."""
        return Corrections()

    @property
    def codecs(self) -> tuple[str, str]:
        """Specs of up and down; what they name of files is loaded."""
        up = self.compress_up or self.compress or DEFAULT_UP
        down = self.compress_down or self.compress or DEFAULT_DOWN
        return load_own(up), load_own(down)

    @property
    def tracked(self) -> tuple[int, ...]:
        """The slices of --track_point.

        Raises:
            UsageError: one that is no number.
        """
        words = [word for each in self.track_point for word in each.split(",") if word]
        if wrong := [word for word in words if not word.isdigit()]:
            raise UsageError(f"--track_point has {wrong[0]!r}; slices are numbers, from 0")
        return tuple(map(int, words))

    @property
    def moves(self) -> dict[int, str]:
        """Cuts to move to, by step.

        Raises:
            UsageError: one that cannot be read.
        """
        moves = {}
        for each in self.move:
            step, _, cut = each.partition(":")
            if not step.isdigit() or not cut:
                raise UsageError(f"--move {each} is no STEP:CUT, such as 100:layer3")
            moves[int(step)] = cut
        return moves

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        for name, low in (("epochs", 0), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be {low} or more")
        for name, low in (("report_freq", 1), ("workers", 0), ("splits", 0), ("lr", 0), ("checkpoint_every", -1)):
            if not low <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be {low} or more")
        if self.split_index is not None and self.split_index < 0:
            raise UsageError(f"--split_index is {self.split_index}; it must be 0 or more")
        if self.seed >= 1 << 63:
            raise UsageError(f"--seed is {self.seed}; it must be below 2**63")
        if self.cut and (self.splits or self.split_index is not None):
            raise UsageError("--cut names the cut that --splits and --split_index count off; give one or the other")
        self.check_staleness()
        check_growth(self.stale_it, self.K_schedule)
        if self.compress and self.compress_up and self.compress_down:
            raise UsageError("--compress says the same as --compress_up and --compress_down; leave it out")
        if self.tracked and not self.track_weights:
            raise UsageError("--track_point says which slices --track_weights 1 watches; add that")
        _ = self.moves
        check_metering(self.meter, self.watts, self.meter_interval_ms)


@dataclass(frozen=True, kw_only=True)
class EdgeOptions(RunOptions):
    """A run with a server."""

    ip: str = "127.0.0.1"
    """Address of the server."""
    port: int = 1883
    """The server's training port."""
    hyperport: int = 1884
    """The server's control port."""
    security: Path | None = None
    """Folder with ca.pem and token from the server: TLS 1.3, for no other server than that; or $TANDEM_SECURITY."""
    insecure: bool = False
    """Without encryption and token to another machine, on a network that you trust."""
    reconnect_s: float = RECONNECT_S
    """How long to try to reach a server that was lost, before --on_disconnect."""
    on_disconnect: Literal["stop", "edge", "wait"] = "stop"
    """When the server stays away: stop (--resume goes on later), train on alone with the whole model on the edge until
    it is back, or wait for ever."""


@dataclass(frozen=True, kw_only=True)
class PlannedOptions(EdgeOptions, PlanOptions):
    """A run with a server whose cut, codecs and K may be chosen."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(RunOptions):
    """A training job of a classifier."""

    model: str = "resnet20"
    """VGG11, VGG16, VGG19, resnet18, resnet20, resnet50, resnet50_imgnet, resnet56, Mobilenetv3_large, BILSTM,
    torchvision:NAME, or path/to/file.py:factory."""
    num_classes: int = 10
    """Width of the model's last layer."""
    dropout: float | None = None
    """Dropout probability of the classifier's hidden features; default the model's own."""
    pretrained: bool = False
    """Start from torchvision's weights; give it to the server as well."""
    weights: Path | None = None
    """Start from the weights in this file (.safetensors, or of torch.save); give it to the server as well."""
    freeze: int = 0
    """How many slices, from the first on, are not trained (transfer type 2)."""
    cache_activations: bool = False
    """With all of the head frozen: its activations stay on the cloud, and cross in the first epoch only."""
    dataset: str = "digits"
    """digits, synthetic, mnist, cifar10, tiny_imagenet, folder:PATH, npz:FILE; texts: imdb, csv:FILE, npz:FILE."""
    data_path: Path = Path("data")
    """Where data sets are, or are downloaded to."""
    augment: bool = True
    """Change training images at random, where that was published with their data set."""
    optim: str = "resnet"
    """Optimizer preset: resnet, resnetpre, mobilenet, tinyimagenet, imdb."""
    milestones: tuple[int, ...] = ()
    """Epochs (from 0) at whose start the learning rate is multiplied by --gamma, in the place of the preset's."""
    gamma: float = 0.1
    """Factor of --milestones."""
    stale_it: int | Literal["auto"] = 4
    """Staleness bound K: the head may be this many batches ahead. 0 waits for each gradient (JointDNN); auto takes
    the least that keeps the slowest stage busy."""
    labels: Literal["cloud", "edge"] = "cloud"
    """Where the loss is computed. edge: labels never leave it; the model's outputs come down and their gradients go
    up, which costs each step a round trip more."""
    gradients: Literal["cloud", "local"] = "cloud"
    """What the head learns from. local: from a small classifier of its own at the cut; no gradients come down."""
    align_every: int = 0
    """With --gradients local: every so many steps the head takes the cloud's gradient instead; 0 for never."""
    lookahead: bool = False
    """Compute activations with the weights that are expected K steps on, when their gradients will be applied."""
    gradient_shrink: float = 1.0
    """Factor of gradients that are late (K > 0); below 1 it steadies training that staleness makes diverge."""
    replay: Literal["recompute", "stash"] = "recompute"
    """recompute: the head computes a batch's activations again when its gradient has come, under the weights of then.
    stash: it keeps their graph and weights instead, up to K + 1 times: less computing, more memory."""
    use_EF: Literal[0, 1] = 0
    """1 corrects gradients for the codec's error, g <- g - E*g*g (the paper's error feedback)."""

    @property
    def corrections(self) -> Corrections:
        """What the head does besides replaying its steps."""
        delay = Delay(self.lookahead, self.gradient_shrink)
        return Corrections(taylor=bool(self.use_EF), stash=self.replay == "stash", delay=delay)

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        super().check()
        for name, low in (("num_classes", 1), ("freeze", 0)):
            if getattr(self, name) < low:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be {low} or more")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; it is a probability, 0 up to 1")
        find_preset(self.optim)
        check_milestones(self.milestones, self.gamma)
        if not 0 < self.gradient_shrink <= 1:
            raise UsageError(f"--gradient_shrink is {self.gradient_shrink}; it is above 0 and at most 1")
        if self.lookahead and self.replay == "stash":
            raise UsageError(
                "--lookahead meets the weights of K steps on, and --replay stash those of then; choose one"
            )
        if self.lookahead:
            require_momentum(self.optim, "--lookahead", "leave it out")
        up, down = self.codecs
        make_codec(down, "down")
        if make_codec(up, "up").is_exact and self.use_EF:
            raise UsageError("--use_EF 1 corrects the error of --compress_up, and none has no error; use int8")
        self._check_local()

    def _check_local(self) -> None:
        if self.align_every < 0:
            raise UsageError(f"--align_every is {self.align_every}; it must be 0 or more")
        if self.gradients == "cloud":
            if self.align_every:
                raise UsageError("--align_every is of --gradients local; with --gradients cloud every step is aligned")
            return
        if self.move:
            raise UsageError("--gradients local trains a classifier of one cut, which --move would leave; drop one")
        if self.lookahead or self.replay == "stash":
            flag = "--lookahead" if self.lookahead else "--replay stash"
            raise UsageError(f"{flag} is for gradients that come late, and with --gradients local none do; drop one")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(JobOptions, PlannedOptions):
    """The edge's side: holds the data and the head, and trains together with a server."""


@dataclass(frozen=True, kw_only=True)
class BaseOptions(JobOptions):
    """Head and tail in one process: the very same training without a network, for ablations."""

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        super().check()
        self.check_unplanned()
