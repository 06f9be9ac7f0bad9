"""Command lines of the vertical workload. Flags keep their published spelling; dashes work as well."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.codec import load_own, make_codec
from common.errors import UsageError
from common.naming import letter
from common.training.alignment import MAX_SALT_BYTES
from common.training.hosted import AWAY_S
from common.training.optimizers import find_preset
from common.training.remote import RECONNECT_S
from discriminative.plan_options import EngineOptions
from discriminative.shared_options import ComputeOptions, SlowableOptions, StaleOptions, check_growth

DEFAULT_CODEC = "int8"
SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class DataOptions(ComputeOptions):
    """Whose data."""

    dataset: Literal["", "synthetic", "ml-1m", "ml-100k"] = ""
    """synthetic: made-up users whose chances are known; ml-1m, ml-100k: fetched where they are not there. Default: what
    lies in --dataset_path, and synthetic without one."""
    dataset_path: Path | None = None
    """Folder of MovieLens in a public format: ratings.dat and movies.dat, u.data and u.item, NAME.inter and .item."""
    salt: str = ""
    """Of the hashed ids, the same at all parties and kept from the server; without it, the first party draws one."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(DataOptions, SlowableOptions, StaleOptions):
    """A training job of several parties."""

    parties: int = 2
    """Owners of history: A has the first part of its ten positions, B the second, and so on."""
    label_owner: str = "B"
    """Who has the labels: a party's letter, or server; they never leave it, and it measures."""
    epochs: int = 5
    """How often the training samples are gone through."""
    batch_size: int = 256
    """Samples of a step."""
    optim: str = "din"
    """Optimizer preset: din (SGD, its rate divided by ten behind each epoch, as published), imdb (Adam), ..."""
    lr: float = 0.0
    """First learning rate; 0 takes the preset's."""
    stale_it: int | Literal["auto"] = 5
    """Staleness bound K: a party may be this many batches ahead. 0 waits for each gradient; auto takes the least with
    which this party's link does not hold up the others. Each party may have its own."""
    K_schedule: tuple[int, ...] = ()
    """Epochs (from 0) at whose start this party's K grows by one."""
    schedule: Literal["fixed", "eager"] = "fixed"
    """fixed: results do not depend on timing. eager: each gradient is applied as soon as it is there."""
    cut: str = ""
    """Cut within a party's model, such as cat_1; default behind all of it."""
    compress: str = ""
    """Codec of both directions: none, fp16, int8, int4/c+zstd, ...; docs/codecs.md has all."""
    compress_up: str = ""
    """Codec of the activations; default int8."""
    compress_down: str = ""
    """Codec of the gradients; default int8."""
    use_EF: Literal[0, 1] = 0
    """1 corrects gradients for the codec's error, g <- g - E*g*g (the paper's error feedback)."""
    seed: Annotated[int, tyro.conf.arg(aliases=["--manualSeed"])] = 0
    """Fixes weights and data order."""
    report_freq: int = 100
    """Every how many steps TensorBoard gets a point."""
    log_name: str = ""
    """Name of the run folder; default din-PARTY-DATASET."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 for those at the ends of epochs only, -1 for none."""

    @property
    def codecs(self) -> tuple[str, str]:
        """Specs of up and down; what they name of files is loaded."""
        up = self.compress_up or self.compress or DEFAULT_CODEC
        return load_own(up), load_own(self.compress_down or self.compress or DEFAULT_CODEC)

    @property
    def owner(self) -> int | None:
        """The party with the labels, from 0; None for the server.

        Raises:
            UsageError: there is no such party.
        """
        if self.label_owner.lower() == SERVER:
            return None
        try:
            return party_number(self.label_owner, self.parties)
        except UsageError as error:
            raise UsageError(f"--label_owner: {error}; or {SERVER}") from None

    @property
    def decider(self) -> int:
        """Who has the labels and says which samples are held out; the number behind the last party is the server."""
        return self.parties if self.owner is None else self.owner

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        self.check_staleness()
        check_growth(self.stale_it, self.K_schedule)
        for name, low in (("epochs", 0), ("batch_size", 2), ("seed", 0), ("report_freq", 1), ("checkpoint_every", -1)):
            if getattr(self, name) < low:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be {low} or more")
        if not 2 <= self.parties <= 10:
            raise UsageError(f"--parties is {self.parties}; ten positions of history are shared by 2 to 10 parties")
        if not 0 <= self.lr < math.inf:
            raise UsageError(f"--lr is {self.lr}; it must be 0 or more")
        if self.seed >= 1 << 63:
            raise UsageError(f"--seed is {self.seed}; it must be below 2**63")
        if len(self.salt.encode()) > MAX_SALT_BYTES:
            raise UsageError(f"--salt has {len(self.salt.encode())} bytes; {MAX_SALT_BYTES} are the most")
        find_preset(self.optim)
        up, down = self.codecs
        make_codec(down, "down")
        if make_codec(up, "up").is_exact and self.use_EF:
            raise UsageError("--use_EF 1 corrects the error of --compress_up, and none has no error; use int8")
        _ = self.owner


@dataclass(frozen=True, kw_only=True)
class ClientOptions(JobOptions, EngineOptions):
    """One party: holds its part of the history and its part of the model, and trains with others over a server."""

    plan: Literal["fixed", "ours", "jointdnn"] = "fixed"
    """fixed: as the other flags say. ours: this party's codecs and K, from profiles of both machines, its link, and
    what other parties that plan say of a step, anew while these change. jointdnn: K = 0 without codecs. The cut stays
    at --cut."""
    party: str = ""
    """Which one: A, B, ... or 1, 2, ..."""
    run: str = "din"
    """Name of the run; the parties that give the server the same one train together."""
    ip: str = "127.0.0.1"
    """Address of the server."""
    portA: int = 1883
    """The server's training port for party A."""
    portB: int = 1885
    """The server's training port for party B, and for all others."""
    hyperport: int = 1884
    """The server's control port."""
    security: Path | None = None
    """Folder with ca.pem and token from the server: TLS 1.3, for no other server than that; or $TANDEM_SECURITY."""
    insecure: bool = False
    """Without encryption and token to another machine, on a network that you trust."""
    reconnect_s: float = RECONNECT_S
    """How long to try to reach a server that was lost."""
    resume: Path | None = None
    """Go on with the run of this folder, with all that it was started with."""

    @property
    def port(self) -> int:
        """The server's training port for this party."""
        return self.portA if self.number == 0 else self.portB

    @property
    def plans(self) -> bool:
        """Whether something is to be chosen."""
        return self.plan != "fixed" or self.stale_it == "auto"

    @property
    def looks_s(self) -> float:
        """Seconds between two looks at the plan while it trains; 0 for none."""
        return self.replan_s if self.plan == "ours" or (self.plan == "fixed" and self.plans) else 0.0

    @property
    def number(self) -> int:
        """Which party this is, from 0.

        Raises:
            UsageError: there is no such party.
        """
        try:
            return party_number(self.party, self.parties)
        except UsageError as error:
            raise UsageError(f"--party: {error}") from None


@dataclass(frozen=True, kw_only=True)
class BaseOptions(JobOptions):
    """All parties and the top in one process: the very same training without a network."""

    resume: Path | None = None
    """Go on with the run of this folder, with all that it was started with."""

    def check(self) -> None:
        """Raises UsageError where values make no sense, alone or together."""
        super().check()
        self.check_unplanned()


@dataclass(frozen=True, kw_only=True)
class ServerOptions(DataOptions):
    """Trains the top model together with the parties of one run or several.

    It has data only where runs have --label_owner server: then --dataset or --dataset_path say where the labels are.
    """

    ip: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all networks of this machine."""
    portA: int = 1883
    """Training port for party A; 0 takes any free one."""
    portB: int = 1885
    """Training port for party B and all others; 0 takes any free one."""
    hyperport: int = 1884
    """Control port; 0 takes any free one."""
    security: Path | None = None
    """Folder of `python -m common.wire.security create`: clients need TLS 1.3 and its token; or $TANDEM_SECURITY."""
    insecure: bool = False
    """Without encryption and token where other machines can connect, on a network that you trust."""
    seed: int = 0
    """Of made-up samples (--dataset synthetic), as at the parties."""
    away_s: float = AWAY_S
    """How long a party that was lost is waited for; checkpoints stay."""


def party_number(name: str, parties: int) -> int:
    """From 0, of a letter or a number from 1.

    Raises:
        UsageError: there is no such party.
    """
    known = [letter(each) for each in range(parties)]
    number = int(name) - 1 if name.isdecimal() else known.index(name.upper()) if name.upper() in known else -1
    if not 0 <= number < parties:
        raise UsageError(f"there is no party {name or '(none named)'!r}; of {parties} they are {', '.join(known)}")
    return number
