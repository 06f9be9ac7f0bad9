"""Small runs of several parties, for the tests: a server and the parties in threads of this process."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.datasets.clicks import Clicks, make_synthetic_clicks
from common.training.serve import Server
from common.wire.admission import ClientSecurity
from DIN.options import BaseOptions, ClientOptions
from DIN.recipe import RECIPE, WORKLOAD
from DIN.remote import train_party
from DIN.train import Finished, plan_all, train_in_process

T = TypeVar("T")

RECIPES = {WORKLOAD: RECIPE}
_SAMPLES = 600


@cache
def clicks() -> Clicks:
    """Some samples of some users."""
    return make_synthetic_clicks(0).taken(np.arange(_SAMPLES))


def values(run_dir: Path, **more: Any) -> dict[str, Any]:
    return {"epochs": 2, "batch_size": 64, "threads": 1, "run_dir": run_dir, "checkpoint_every": 3, **more}


def here(run_dir: Path, data: Sequence[Clicks] | None = None, **more: Any) -> list[Finished]:
    """All parties in one process, without a network."""
    options = BaseOptions(**values(run_dir, **more))
    return train_in_process(plan_all(options, data or [clicks()] * options.parties), options)


def party(
    server: Server,
    run_dir: Path,
    name: str,
    data: Clicks | None = None,
    protection: ClientSecurity | None = None,
    **more: Any,
) -> Finished:
    """One party over a server."""
    ports = {"portA": server.port, "portB": server.port, "hyperport": server.hyperport}
    options = ClientOptions(**values(run_dir / name, party=name, **{"reconnect_s": 20.0, **ports, **more}))
    return train_party(options, protection, data or clicks())


def together(*runs: Callable[[], T]) -> list[T]:
    """Run all at the same time; the first one's error, if any has one."""
    with ThreadPoolExecutor(len(runs)) as pool:
        started = [pool.submit(run) for run in runs]
        return [each.result(100) for each in started]


def losses(run: Finished) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def same(runs: Sequence[Finished], others: Sequence[Finished]) -> None:
    """Both are the same run, to the last bit."""
    for one, other in zip(runs, others, strict=True):
        assert losses(one) == losses(other)
        for key in ("parameters_digest", "steps", "samples", "epochs", "accuracy", "loss", "train_loss"):
            assert one.summary[key] == other.summary[key], key
        for key in ("auc", "gauc", "log_loss", "batch_auc"):
            assert one.summary.get(key) == other.summary.get(key), key
