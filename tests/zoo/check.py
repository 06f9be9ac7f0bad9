"""Is a model that is cut the model?

``python -m tests.zoo.check SUITE MODEL FILE`` checks one model in this process and leaves its row in FILE, with as
much in it as the check has found so far.
"""

import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from common.partition import trace
from common.partition.graph import Graph
from tests.zoo.crossing import seed
from tests.zoo.entry import Entry, Inputs, randomise
from tests.zoo.evaluation import evaluate
from tests.zoo.families import find_entry
from tests.zoo.row import CLOSE, DIFFERS, EXACT, Row, one_line, write_rows
from tests.zoo.training import Trained, train

BUDGET_S = 20.0
# Seeds: what is checked has other values than what was traced, so that no trace passes that froze some.
_TRACED, _CHECKED = 0, 1
_SHRINKS = 1e-5  # what rounding shrinks by from 24 to 53 bits is 2e-9; what a model makes of it varies


def check(entry: Entry, save: Callable[[Row], None] = lambda _: None, budget_s: float = BUDGET_S) -> Row:
    """Check one model.

    Args:
        entry: what to build.
        save: gets the row after each part of the check.
        budget_s: for cuts one by one; where they take longer, cuts all at once stand for them.

    Returns:
        The row; with a failure in it where something is not as it should be.
    """
    row, started = Row(entry.suite, entry.name), time.perf_counter()
    try:
        model = _built(entry)
        graph, row = _traced(entry, model, row)
        save(row)
        row = _evaluated(entry, model, graph, row, budget_s)
        save(row)
        row = _trained(entry, model, graph, row)
    except Exception as error:  # noqa: BLE001  whatever goes wrong with a model is a row of the table
        traceback.print_exc()
        row = _failed(row, f"{type(error).__name__}: {error}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = replace(row, check_s=f"{time.perf_counter() - started:.1f}", peak_mib=f"{peak_mib:.0f}")
    save(row)
    return row


def _built(entry: Entry) -> nn.Module:
    seed(0)
    return randomise(entry.build(), entry.inputs(_TRACED))


def _traced(entry: Entry, model: nn.Module, row: Row) -> tuple[Graph, Row]:
    args, kwargs = entry.inputs(_TRACED)
    started = time.perf_counter()
    graph = trace(model, args, kwargs)
    sizes = [point.activation_bytes for point in graph.points]
    return graph, replace(
        row,
        front_end=graph.front_end,
        trace_s=f"{time.perf_counter() - started:.2f}",
        points=str(len(graph.points)),
        narrowest_bytes=str(min(sizes[1:-1], default="")),
        widest_bytes=str(max(sizes[1:-1], default="")),
        unsafe_points=str(sum(bool(point.unsafe) for point in graph.points)),
        refused=one_line("; ".join(graph.report)),
    )


def _evaluated(entry: Entry, model: nn.Module, graph: Graph, row: Row, budget_s: float) -> Row:
    found = evaluate(model, graph, lambda: entry.inputs(_CHECKED), budget_s)
    verdict = DIFFERS if found.failure else EXACT
    return _failed(replace(row, evaluation=verdict, evaluation_cuts=found.cuts), found.failure)


def _trained(entry: Entry, model: nn.Module, graph: Graph, row: Row) -> Row:
    found = train(model, graph, lambda: entry.inputs(_CHECKED))
    failure, double_error = found.failure or found.gradient_failure, 0.0
    if found.gradient_failure and not found.failure:
        precise = _trained_in_double(entry)
        double_error = precise.gradient_error
        if not precise.failure and double_error <= _SHRINKS * found.gradient_error < float("inf"):
            failure = ""
    verdict = DIFFERS if failure else CLOSE if found.gradient_error else EXACT
    row = replace(
        row,
        training=verdict,
        training_cuts=str(found.cuts),
        gradient_error=_number(found.gradient_error),
        double_error=_number(double_error) if found.gradient_failure else "",
    )
    return _failed(row, failure)


def _trained_in_double(entry: Entry) -> Trained:
    """The same with twice the digits: rounding shrinks with them, however much a model amplifies it; errors do not."""
    model = _built(entry).double()
    args, kwargs = _in_double(entry.inputs(_TRACED))
    return train(model, trace(model, args, kwargs), lambda: _in_double(entry.inputs(_CHECKED)))


def _in_double(inputs: Inputs) -> Inputs:
    args, kwargs = tree_map(
        lambda each: each.double() if isinstance(each, Tensor) and each.is_floating_point() else each, inputs
    )
    return args, kwargs


def _number(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _failed(row: Row, failure: str) -> Row:
    return replace(row, failure="; ".join(filter(None, (row.failure, one_line(failure)))))


def main() -> None:
    """Check the model that the command line names."""
    suite, name, file = sys.argv[1:]
    torch.set_num_threads(1)
    check(find_entry(suite, name), lambda row: write_rows(Path(file), [row]))


if __name__ == "__main__":
    main()
