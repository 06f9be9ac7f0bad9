"""Runs that are to be broken: their settings, what they end with, and in what two of them differ."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TandemError
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process

HOST = "127.0.0.1"
RECONNECT_S = 600.0
_BATCH = 10
_SAME = ("steps", "samples", "epochs", "accuracy", "loss", "train_loss", "parameters_digest", "bytes_up_per_step")


@dataclass(frozen=True)
class Setting:
    """What to train, and how it is carried."""

    name: str
    fields: dict[str, Any] = field(hash=False)
    """Of the options, besides those of all settings."""
    tls: bool = False


_MEMORY = {"compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8"}
SETTINGS = (
    Setting("K = 0, none", {"stale_it": 0, "compress": "none"}),
    Setting("K = 3, delta+int4/c+zstd, ef+topk:0.1+int8", {"stale_it": 3, **_MEMORY}),
    Setting("K = 3, none, dropout, TLS", {"stale_it": 3, "compress": "none", "dropout": 0.2}, tls=True),
    Setting(
        "K = 0, delta+int4/c+zstd, ef+topk:0.1+int8, dropout, TLS",
        {"stale_it": 0, "dropout": 0.2, "checkpoint_every": 1, **_MEMORY},
        tls=True,
    ),
    Setting(
        "K = 2, taylor+int8/s, int8/s, Adam, a checkpoint each step",
        {
            "stale_it": 2,
            "compress_up": "taylor+int8/s",
            "compress_down": "int8/s",
            "optim": "tinyimagenet",
            "lr": 1e-3,
            "checkpoint_every": 1,
        },
    ),
)


@dataclass(frozen=True)
class Images:
    """A data set of random images, of which an epoch takes a few steps."""

    path: Path
    steps: int
    """Of an epoch."""

    @classmethod
    def make(cls, folder: Path, steps: int) -> "Images":
        """Write it to a folder."""
        rng = np.random.default_rng(7)
        arrays = {}
        for part, count in (("train", _BATCH * steps), ("test", 2 * _BATCH)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
            arrays[f"{part}_labels"] = np.arange(count) % 10
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
        return cls(folder / "images.npz", steps)

    def options(self, setting: Setting, run_dir: Path, epochs: int) -> dict[str, Any]:
        """Values of the options of a run."""
        return {
            "model": "resnet20",
            "split_index": 3,
            "lr": 0.05,
            "checkpoint_every": 5,
            **setting.fields,
            "dataset": f"npz:{self.path}",
            "batch_size": _BATCH,
            "epochs": epochs,
            "threads": 1,
            "run_dir": run_dir,
        }


@dataclass(frozen=True)
class Outcome:
    """What a run has ended with."""

    losses: tuple[tuple[int, float], ...]
    """Step and loss of each row of ``metrics.jsonl``."""
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Outcome":
        """That of a run's folder.

        Raises:
            TandemError: the run has not ended.
        """
        try:
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            summary = json.loads((folder / "summary.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise TandemError(f"the run of {folder} has not ended well: {error}") from None
        return cls(tuple((row["step"], row["loss"]) for row in rows), summary)

    def difference(self, undisturbed: "Outcome") -> str:
        """In what it differs, in words; empty where it is equal to the last bit."""
        steps = [step for step, _ in self.losses]
        if lost := sorted({step for step, _ in undisturbed.losses} - set(steps)):
            return f"steps {lost[:9]} are lost"
        if twice := [step for step, other in pairwise(sorted(steps)) if step == other]:
            return f"steps {twice[:9]} are there twice"
        if steps != sorted(steps):
            return "the steps are in disorder"
        if other := [mine for mine, its in zip(self.losses, undisturbed.losses, strict=True) if mine != its]:
            return f"the loss of step {other[0][0]} is another ({other[0][1]})"
        wrong = [name for name in _SAME if self.summary[name] != undisturbed.summary[name]]
        return f"{wrong[0]} is {self.summary[wrong[0]]}, not {undisturbed.summary[wrong[0]]}" if wrong else ""


def undisturbed(images: Images, setting: Setting, run_dir: Path, epochs: int) -> Outcome:
    """The same run in one process, which nothing can break."""
    options = BaseOptions(**images.options(setting, run_dir, epochs))
    return Outcome.read(train_in_process(plan_job(options), options).folder)


def client_options(
    images: Images, setting: Setting, run_dir: Path, epochs: int, ports: tuple[int, int], **more: Any
) -> ClientOptions:
    """Options of a run with a server behind two ports of this machine."""
    values = images.options(setting, run_dir, epochs)
    return ClientOptions(ip=HOST, port=ports[0], hyperport=ports[1], reconnect_s=RECONNECT_S, **values, **more)
