"""Command line of the server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.codec import load_own, make_codec
from common.errors import UsageError
from common.training.hosted import AWAY_S
from common.training.opening import Recipe
from common.training.serve import Server
from common.wire.security import server_security
from discriminative.shared_options import ComputeOptions, check_ports


@dataclass(frozen=True, kw_only=True)
class ListenOptions(ComputeOptions):
    """A server of any workload."""

    ip: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all networks of this machine."""
    port: int = 1883
    """Training port; 0 takes any free one."""
    hyperport: int = 1884
    """Control port; 0 takes any free one."""
    own_codec: tuple[str, ...] = ()
    """Codecs of your own that jobs may use: path/to/file.py:NAME, once for each."""
    security: Path | None = None
    """Folder of `python -m common.wire.security create`: clients need TLS 1.3 and its token; or $TANDEM_SECURITY."""
    insecure: bool = False
    """Without encryption and token where other machines can connect, on a network that you trust."""
    max_sessions: int = 128
    """Sessions at the same time; more are refused."""
    away_s: float = AWAY_S
    """How long a session waits for its edge to come back; its checkpoints stay."""

    def check(self) -> None:
        """Raises UsageError where values make no sense."""
        for name, low in (("max_sessions", 1), ("away_s", 0)):
            if not getattr(self, name) >= low:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be {low} or more")

    def serve(self, recipes: Mapping[str, Recipe], pinned: Mapping[str, Any], **more: Any) -> None:
        """Serve sessions of these recipes until interrupted; ``more`` goes to `common.training.serve.Server`."""
        check_ports(port=self.port, hyperport=self.hyperport)
        for codec in self.own_codec:
            make_codec(load_own(codec))
        server = Server(
            recipes,
            pinned=pinned,
            ip=self.ip,
            port=self.port,
            hyperport=self.hyperport,
            device=self.device,
            queue_limit=self.queue_limit,
            run_dir=self.run_dir,
            codec_memory_mb=self.codec_memory_mb,
            security=server_security(self.ip, self.security, insecure=self.insecure),
            max_sessions=self.max_sessions,
            away_s=self.away_s,
            **more,
        )
        print(f"listening on {self.ip}, port {server.port}, hyperport {server.hyperport}", flush=True)
        try:
            server.serve()
        finally:
            server.close()


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ListenOptions):
    """The cloud's side: waits for edges, and trains the tail of each one's model.

    The client describes the job. What is given here must be the same in every job; anything else is refused.
    """

    model: str | None = None
    """Serve this model only; path/to/file.py:factory for a model of your own."""
    num_classes: int | None = None
    """Serve jobs of this number of classes only."""
    splits: int | None = None
    """Serve jobs of this number of slices only."""
    split_index: int | None = None
    """Serve jobs with this cut only."""
    optim: str | None = None
    """Serve jobs with this optimizer preset only."""
    pretrained: bool = False
    """Serve jobs that start from torchvision's weights only."""
    weights: Path | None = None
    """Serve jobs that start from the weights in this file only."""
    share: Literal["none", "tail", "average"] = "none"
    """What sessions of the same job have in common: a tail that all train in turn (SplitFed-V2), or the average of
    their parts behind each epoch (SplitFed-V1)."""
    clients: int = 1
    """Edges that must have come before the first average."""

    def check(self) -> None:
        """Raises UsageError where values make no sense."""
        super().check()
        if self.clients < 1:
            raise UsageError(f"--clients is {self.clients}; it must be 1 or more")
        if self.clients > 1 and self.share != "average":
            raise UsageError("--clients says how many take part in the first mean of --share average; add that")
        if self.clients > self.max_sessions:
            raise UsageError(f"--clients {self.clients} could never come: --max_sessions is {self.max_sessions}")
