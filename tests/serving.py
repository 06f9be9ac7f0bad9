"""A server in this process, for the tests that need one."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.models.own import choose_model
from common.training.opening import Recipe
from common.training.serve import Server
from discriminative.recipe import WORKLOAD, make_recipe


@contextmanager
def serving(
    run_dir: Path,
    model: str | None = None,
    *,
    recipes: Mapping[str, Recipe] | None = None,
    port: int = 0,
    hyperport: int = 0,
    **more: Any,
) -> Iterator[Server]:
    """A server on this machine, in a thread; started with ``--model``, where that is given.

    It forgets a session soon after its edge has gone.
    """
    chosen = choose_model(model) if model else None
    more.setdefault("away_s", 0.5)
    server = Server(
        recipes or {WORKLOAD: make_recipe(chosen)},
        pinned={"model": chosen.name} if chosen else {},
        ip="127.0.0.1",
        port=port,
        hyperport=hyperport,
        device="cpu",
        queue_limit=5,
        run_dir=run_dir,
        **more,
    )
    thread = threading.Thread(target=server.serve, name="server")
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
