"""Whether a model can train on single samples: batch norms over samples alone cannot."""

import copy

import torch

from common.errors import UsageError
from common.partition.graph import Graph
from common.training.prepare import example_batch
from common.training.randomness import one_at_a_time


def require_batch(graph: Graph, input_shape: tuple[int, ...], batch_size: int) -> None:
    """Try a single sample on a copy of the model, where batches have no more; random states stay as they were.

    Raises:
        UsageError: the model cannot train on it.
    """
    if batch_size > 1:
        return
    with one_at_a_time, torch.random.fork_rng(), torch.no_grad():
        model = copy.deepcopy(graph.model).train()
        try:
            model(example_batch(model, input_shape, 1))
        except ValueError as error:
            raise UsageError(
                f"--batch_size is 1, and the model cannot train on that: {error}; give 2 or more"
            ) from None
