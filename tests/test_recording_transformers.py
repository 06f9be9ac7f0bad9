"""Language models of transformers, unmodified: cut by recording, with key-value caches that stay where they are."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.liveness import positions
from common.partition.recording import Recording, record, recorded_parts
from tests.test_recording_unsplit import check_cuts, randomised

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

_IDS = torch.tensor([[5, 17, 3, 88, 41], [9, 2, 60, 7, 33]])


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=97, n_positions=32, bos_token_id=1, eos_token_id=1
    )
    return randomised(transformers.GPT2LMHeadModel(config)).eval()


def _cache(model: Any) -> Any:
    return transformers.DynamicCache(config=model.config)


def _give_caches(model: nn.Module, *parts: Any) -> None:
    for part in parts:
        part.local["past_key_values"] = _cache(model)


@pytest.fixture(scope="module")
def gpt2() -> tuple[nn.Module, list[Recording]]:
    """The model, and recordings of the first step of a generation and of a later one."""
    model = _gpt2()
    first = record(model, (), {"input_ids": _IDS, "past_key_values": _cache(model)}, training=False)
    filled = _cache(model)
    with torch.no_grad():
        model(input_ids=_IDS, past_key_values=filled)
    later = record(model, (), {"input_ids": _IDS[:, :1], "past_key_values": filled}, training=False)
    return model, [first, later]


def _generated(step: Any) -> list[Tensor]:
    logits, words = [], _IDS
    for _ in range(7):
        logits.append(step(words))
        words = logits[-1][:, -1:].argmax(-1)
    return logits


# Behind the inputs; behind a block; between query and key of an attention; between two updates of a cache.
@pytest.mark.parametrize("step", ["input", "add_2", "view_11", "cat_2", "scaled_dot_product_attention_1", "linear"])
@torch.no_grad()
def test_generation_with_caches_on_each_side(gpt2: tuple[nn.Module, list[Recording]], step: str) -> None:
    model, recordings = gpt2
    whole = _cache(model)
    expected = _generated(lambda words: model(input_ids=words, past_key_values=whole).logits)
    before = [each.name for each in recordings[0].steps].index(step) + 1
    head, tail = recorded_parts(model, {False: recordings}, {False: [before]})
    _give_caches(model, head, tail)
    journeys: list[int] = []

    def split(words: Tensor) -> Tensor:
        *tensors, journey = head(input_ids=words)
        journeys.append(journey.nbytes)
        logits: Tensor = tail(*tensors, journey).logits
        return logits

    assert all(map(torch.equal, expected, _generated(split)))
    assert max(journeys[1:]) < 450


@torch.no_grad()
def test_a_cache_that_lags_behind_is_refused(gpt2: tuple[nn.Module, list[Recording]]) -> None:
    """The head asks the cache for its length before the cut, but it grows behind."""
    model, recordings = gpt2
    before = [each.name for each in recordings[0].steps].index("transpose_1") + 1
    with pytest.raises(PartitionError, match="recording 1 has no cut"):
        recorded_parts(model, {False: recordings}, {False: [before]})
    head, tail = recorded_parts(model, {False: recordings[:1]}, {False: [before]})
    _give_caches(model, head, tail)
    tail(*head(input_ids=_IDS))
    with pytest.raises(PartitionError, match="sizes or positions"):
        tail(*head(input_ids=_IDS[:, :1]))


@torch.no_grad()
def test_without_a_cache_of_its_own_a_part_takes_a_copy_of_the_examples(
    gpt2: tuple[nn.Module, list[Recording]],
) -> None:
    model, recordings = gpt2
    before = [each.name for each in recordings[0].steps].index("add_2") + 1
    head, tail = recorded_parts(model, {False: recordings}, {False: [before]})
    for _ in range(2):
        outputs = tail(*head(input_ids=_IDS, past_key_values=_cache(model)))
        assert torch.equal(outputs.logits, model(input_ids=_IDS).logits)
        assert outputs.past_key_values.get_seq_length() == 5


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_gpt2_without_a_cache(training: bool) -> None:
    others = [((), {"input_ids": _IDS[:1, :3], "use_cache": False})]
    assert (
        check_cuts(_gpt2(), (), {"input_ids": _IDS, "use_cache": False}, training=training, others=others, most=8) > 5
    )


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_t5(training: bool) -> None:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=90, decoder_start_token_id=0
    )
    model = randomised(transformers.T5ForConditionalGeneration(config))
    kwargs = {"input_ids": _IDS, "labels": _IDS[:, :4], "use_cache": False}
    assert check_cuts(model, (), kwargs, training=training, most=8) > 5


def test_journeys_stay_small(gpt2: tuple[nn.Module, list[Recording]]) -> None:
    for recording in gpt2[1]:
        assert max(recording.extras(each.before)[0].nbytes for each in positions(recording.steps)) < 450
