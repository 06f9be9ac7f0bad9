"""Some models of the zoo, of every suite and through every front end; and that its checks find what is wrong."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.partition import layout, trace
from common.partition.graph import Graph
from tests.zoo import training
from tests.zoo.check import check
from tests.zoo.crossing import difference, leaves
from tests.zoo.entry import Entry, Inputs, generator, randomise
from tests.zoo.evaluation import evaluate
from tests.zoo.families import LEFT_OUT, all_entries, find_entry
from tests.zoo.report import report, totals
from tests.zoo.row import CLOSE, EXACT, Row, one_line, read_rows, write_rows
from tests.zoo.training import ROUNDING, gradient_error, train

_MODELS = [
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "ssdlite320_mobilenet_v3_large"),
    ("timm", "edgenext_xx_small"),
    ("timm", "efficientvit_m0"),
    ("ultralytics", "yolov8n-cls"),
    ("transformers", "vit"),
    ("transformers", "mixtral"),
    ("transformers", "t5"),
    ("other", "bilstm"),
    ("other", "gpt2-decoding"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves
@pytest.mark.parametrize(("suite", "name"), _MODELS)
def test_a_cut_model_is_the_model(suite: str, name: str) -> None:
    entry = find_entry(suite, name)
    pytest.importorskip(entry.library, exc_type=ImportError)

    row = check(entry, budget_s=1)

    assert row.passed, row.failure


def test_the_zoo_has_as_many_models_as_the_survey() -> None:
    entries = all_entries()

    assert Counter(entry.suite for entry in entries) == {
        "torchvision": 38,
        "timm": 95,
        "ultralytics": 14,
        "transformers": 22,
        "other": 2,
    }
    assert len({(entry.suite, entry.name) for entry in entries}) == len(entries)


def test_an_unknown_model_is_told() -> None:
    with pytest.raises(LookupError, match="no resnet18 of timm"):
        find_entry("timm", "resnet18")


class Small(nn.Module):
    """A residual layer that starts as nothing, and statistics that belong to no data."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = x + self.gain * self.layers(x)
        return {"out": out, "parts": [out[:2], out[2:]]}


def batch(seed: int = 0) -> Inputs:
    return (torch.randn(4, 4, generator=generator(seed)) + 3,), {}


SMALL = Entry("small", "other", "torch", Small, batch)


def small() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = randomise(Small(), batch())
    return model, trace(model, *batch())


def test_random_weights_matter() -> None:
    model, _ = small()
    state = model.state_dict()

    assert all(value.any() for value in model.parameters())
    assert state["layers.1.running_mean"].abs().sum() > 0.5
    assert [each.momentum for each in model.modules() if isinstance(each, nn.BatchNorm1d)] == [0.1]
    assert model.training


def test_a_right_model_passes() -> None:
    rows: list[Row] = []

    row = check(SMALL, rows.append)

    assert row.passed, row.failure
    assert (row.evaluation, row.evaluation_cuts) == (EXACT, "each")
    assert row.training in (EXACT, CLOSE)
    assert [bool(each.training) for each in rows] == [False, False, True]


def test_all_cuts_at_once_stand_for_each() -> None:
    row = check(SMALL, budget_s=0)

    assert row.evaluation_cuts.startswith("all at once")
    assert row.passed, row.failure


def spoilt(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor]) -> None:
    """A wire that changes the last tensor."""

    def pack(values: Sequence[Tensor], groups: Any) -> tuple[Any, Any]:
        *others, last = values
        return layout.pack([*others, spoil(last.detach())], groups)

    monkeypatch.setattr("tests.zoo.crossing.pack", pack)


@pytest.mark.parametrize("budget_s", [0, 60])
def test_a_wrong_wire_is_found(monkeypatch: pytest.MonkeyPatch, budget_s: float) -> None:
    model, graph = small()
    spoilt(monkeypatch, lambda value: value * (1 + 1e-6))

    assert "cuts are wrong: input (0): outputs differ by" in evaluate(model, graph, batch, budget_s).failure
    assert "input (0): loss, outputs or buffers differ by" in train(model, graph, batch).failure


def test_gradients_that_do_not_come_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = small()
    monkeypatch.setattr(
        type(graph), "gradients_wanted", lambda self, cut: [False] * len(self.crossing(cut, training=True))
    )

    found = train(model, graph, batch)

    assert not found.failure
    assert "gradients differ by" in found.gradient_failure
    row = check(SMALL)
    assert "gradients differ by" in row.failure  # in float64 too
    assert float(row.double_error) > 0.1
    assert not row.passed


def test_what_is_gone_in_float64_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training._gradient
    monkeypatch.setattr(
        training, "_gradient", lambda leaf: honest(leaf) * (1.001 if leaf.dtype == torch.float32 else 1)
    )

    row = check(SMALL)

    assert row.passed, row.failure
    assert row.training == CLOSE
    assert float(row.gradient_error) > 1e-4
    assert float(row.double_error) < 1e-12


def test_a_model_of_chance_is_no_proof() -> None:
    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.calls = nn.Parameter(torch.ones(())), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.gain * self.calls

    model = Chance()
    _, graph = small()

    assert "the second time" in evaluate(model, graph, batch, 1).failure
    assert "the second time" in train(model, graph, batch).failure


def test_leaves_are_found_in_objects() -> None:
    class Cache:
        def __init__(self) -> None:
            self.keys = [torch.zeros(2)]
            self.itself = self

    found = leaves({"a": (1, None), "cache": Cache(), "kind": int})

    assert found[:2] == [1, None]
    assert [isinstance(each, Tensor) for each in found] == [False, False, True]


def test_differences_are_relative_and_never_hidden() -> None:
    a = torch.tensor([1.0, 100.0])

    assert difference([a, 1, "x", None], [a.clone(), 1, "x", None]) == 0
    assert difference([a], [a + torch.tensor([1.0, 0])]) == pytest.approx(0.01)
    for other in ([], [a.double()], [a[:1]], [a * float("nan")], [1]):
        assert difference([a], other) == float("inf")
    assert difference([1], [True]) == difference([torch.tensor([1])], [torch.tensor([2])]) == float("inf")


def test_gradients_are_compared_by_their_size() -> None:
    expected = {"a": torch.tensor([10.0, 1.0]), "rounding": torch.tensor([1e-9]), "none": None}
    found = {"a": torch.tensor([10.0, 1.0]), "rounding": torch.tensor([-1e-9]), "none": torch.zeros(1)}

    assert gradient_error(expected, expected) == 0
    assert gradient_error(expected, found) == pytest.approx(2e-9 / 1e-5)
    assert gradient_error({"a": torch.ones(2)}, {"a": torch.ones(2) + ROUNDING}) == pytest.approx(ROUNDING, rel=0.05)
    assert gradient_error({"a": None}, {"a": torch.ones(1)}) == float("inf")
    assert gradient_error({"a": torch.ones(1)}, {"a": torch.tensor([float("nan")])}) == float("inf")


ROW = Row("other", "bilstm", "torch.fx", points="9", evaluation=EXACT, training=EXACT)


def test_rows_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "zoo.csv"
    rows = [ROW, replace(ROW, model="other, too", failure='said "no"')]

    write_rows(path, rows)

    assert list(read_rows(path).values()) == rows
    assert read_rows(tmp_path / "none.csv") == {}


def test_the_page_tells_what_is_missing() -> None:
    entries = [find_entry("other", "bilstm"), find_entry("other", "gpt2-decoding")]
    rows = {ROW.key: ROW, ("other", "gpt2-decoding"): Row("other", "gpt2-decoding", failure="took longer than 300 s")}

    page = report(entries, rows, LEFT_OUT)

    assert "**1 of 2** models pass" in page
    assert "- other gpt2-decoding: took longer than 300 s" in page
    assert all(each in page for each in LEFT_OUT)
    assert totals(list(rows.values())) == "1 of 2 models pass"


def test_messages_name_no_folder_of_this_machine() -> None:
    told = one_line("Error:\n  no\n (/somewhere/lib/python3.11/site-packages/timm/a.py:3) " + "x" * 1000)

    assert told.startswith("Error: no (timm/a.py:3) xxx")
    assert len(told) < 600
