"""Texts become numbers of words: from CSV and npz files and made up; and each defect of a file has its own sentence."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.datasets.batches import Batches
from common.datasets.registry import load_texts
from common.datasets.texts import TextSet
from common.datasets.vocabulary import Vocabulary, words_of
from common.errors import DataError, UsageError

REAL_DATA = Path(os.environ.get("TANDEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def load(name: str, *, num_classes: int = 2, length: int = 8, vocabulary: int = 100) -> TextSet:
    return load_texts(name, Path("nowhere"), num_classes=num_classes, length=length, vocabulary=vocabulary, seed=1)


def write(path: Path, rows: list[str], header: str = "text,label", encoding: str = "utf-8") -> str:
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return f"csv:{path}"


def test_words_are_those_that_are_read() -> None:
    assert words_of("It's GOOD -- isn't it?! <br />8/10, \u00fcber-caf\u00e9") == [
        *("it's", "good", "isn't", "it", "br", "8", "10", "\u00fcber", "caf\u00e9"),
    ]


def test_the_commonest_words_have_the_least_numbers() -> None:
    vocabulary = Vocabulary([["b", "b", "c", "a"], ["c", "b"]], size=5)

    assert vocabulary.numbers(["b", "c", "a", "d"]) == [1, 3, 4, 2, 2]


def test_a_pair_of_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ["a good film,1", '"bad, bad",0', "good,1"])
    write(tmp_path / "test.csv", ["a bad good thing and much more of it all,0"])

    data = load(f"{train},{tmp_path / 'test.csv'}")

    # bad and good twice each, then a and film in their order; the test's own words are unknown.
    assert data.train.tokens.tolist() == [[1, 5, 4, 6, 0, 0, 0, 0], [1, 3, 3, 0, 0, 0, 0, 0], [1, 4, 0, 0, 0, 0, 0, 0]]
    assert data.test.tokens.tolist() == [[1, 5, 3, 4, 2, 2, 2, 2]]
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test.labels.tolist() == [0]


def test_of_one_file_a_fifth_is_held_out(tmp_path: Path) -> None:
    name = write(tmp_path / "all.csv", [f"word{i},{'np'[i % 2]}" for i in range(40)], "review,sentiment")

    data, again = load(name), load(name)

    assert np.bincount(data.test.labels).tolist() == [4, 4]
    assert np.bincount(data.train.labels).tolist() == [16, 16]
    assert np.array_equal(data.test.tokens, again.test.tokens)
    assert (data.test.tokens[:, 1] == 2).all()  # no word of the held-out texts is in the vocabulary


def test_batches_of_texts(tmp_path: Path) -> None:
    data = load(write(tmp_path / "all.csv", [f"word{i},{i % 2}" for i in range(40)]))

    (batch, *_) = Batches(data.train, data, 8, seed=0, training=True).epoch(0)

    assert batch.inputs.dtype == torch.int64
    assert batch.inputs.shape == (8, 8)
    assert torch.equal(batch.inputs, torch.from_numpy(data.train.tokens[batch.ids.numpy()].astype(np.int64)))
    assert torch.equal(batch.labels, torch.from_numpy(data.train.labels)[batch.ids])


GOOD = ["good,1", "bad,0"] * 5
DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "latin1": (
        {"rows": [*GOOD, "caf\u00e9,1"], "encoding": "latin1"},
        "is not UTF-8: line 12 has the byte 0xe9; convert it, as with iconv -f latin1 -t utf-8 reviews.csv > ",
    ),
    "utf-16": (
        {"rows": GOOD, "encoding": "utf-16"},
        "is not UTF-8: line 1 has the byte 0xff; convert it, as with iconv -f utf-16",
    ),
    "no header": ({"rows": GOOD, "header": "good,1"}, "has no column text: its first line is 'good,1', and must"),
    "no label": ({"rows": GOOD, "header": "text,stars"}, "has no column label: its first line is 'text,stars'"),
    "nothing": ({"rows": []}, "has a header and no texts"),
    "a comma": ({"rows": [*GOOD, "good, but,1"]}, "line 12 has 3 columns, the header 2: a text with commas in it must"),
    "an open quote": ({"rows": [*GOOD, '"good,1']}, "is no CSV file: line 12: unexpected end of data"),
    "a label too many": ({"rows": [*GOOD, "so so,2"]}, "has 3 classes but --num_classes is 2: pass --num_classes 3"),
    "a label too few": ({"rows": ["good,0"] * 9}, "has 1 classes but --num_classes is 2: pass --num_classes 1"),
    "mixed labels": ({"rows": [*GOOD, "good,pos"]}, "a label is 'pos'; labels are whole numbers counted from 0, or"),
    "an empty label": ({"rows": ["good,pos", "bad,"]}, "a label is ''; labels are whole numbers"),
    "too few texts": ({"rows": GOOD[:4]}, "there are no test texts"),
}


@pytest.mark.parametrize(("content", "message"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_a_csv_file_has_its_own_sentence(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    name = write(tmp_path / "reviews.csv", **content)

    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load(name)

    assert "reviews.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"there is no file {tmp_path / 'x.csv'}")):
        load(f"csv:{tmp_path / 'x.csv'}")
    with pytest.raises(DataError, match="names 3 files; name one, or one to train on and one to test on"):
        load("csv:a,b,c")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load(f"csv:{tmp_path}")


def npz(folder: Path, **changes: Any) -> str:
    arrays = {"train_tokens": np.array([[1, 5, 99], [1, 7, 0]]), "train_labels": np.array([0, 1])}
    arrays |= {"test_tokens": np.array([[1, 3, 4, 5, 6, 7, 8, 9, 10]]), "test_labels": np.array([1])}
    np.savez(folder / "own.npz", **{**arrays, **changes})
    return f"npz:{folder / 'own.npz'}"


def test_npz_texts_get_the_models_length(tmp_path: Path) -> None:
    data = load(npz(tmp_path))

    assert data.train.tokens.tolist() == [[1, 5, 99, 0, 0, 0, 0, 0], [1, 7, 0, 0, 0, 0, 0, 0]]
    assert data.test.tokens.tolist() == [[1, 3, 4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_tokens": np.array([[1, 100], [1, 2]])},
            "train words have numbers from 0 to 100, but the model knows",
        ),
        ({"test_tokens": np.array([[1, -3]])}, "test words have numbers from -1 to 1, but the model knows 100"),
        ({"test_tokens": np.array([[1, 1 << 40]])}, "test words have numbers from 0 to 2147483647, but"),
        ({"train_tokens": np.ones((2, 3))}, "train tokens are float64 (2, 3), but must be integers (N, T)"),
        ({"train_labels": np.array([[0], [1]])}, "train labels are int64 (2, 1), but must be integers (N,)"),
        ({"train_labels": np.array([0])}, "2 train texts but 1 train labels"),
        ({"train_labels": np.array([0, 2])}, "train labels go up to 2 but --num_classes is 2: pass --num_classes 3"),
        ({"test_labels": np.array([-1])}, "test labels go down to -1, but must be counted from 0"),
        ({"test_tokens": np.zeros((0, 3), int), "test_labels": np.zeros(0, int)}, "there are no test texts"),
    ],
)
def test_a_defect_of_an_npz_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load(npz(tmp_path, **change))


def test_synthetic_texts_follow_the_seed_and_can_be_learned() -> None:
    sets = [load_texts("SYNTHETIC", Path(), num_classes=3, length=50, vocabulary=500, seed=seed) for seed in (1, 1, 2)]
    first, again, other = sets

    assert np.array_equal(first.train.tokens, again.train.tokens)
    assert not np.array_equal(first.train.tokens, other.train.tokens)
    assert first.train.tokens.shape == (1024, 50)
    by_class = [first.train.tokens[first.train.labels == each] for each in range(3)]
    counts = np.stack([np.bincount(tokens.ravel(), minlength=500) for tokens in by_class])
    likely = np.log((counts + 1) / (counts + 1).sum(1, keepdims=True))
    guessed = np.stack([likely[:, text].sum(1) for text in first.test.tokens]).argmax(1)
    assert (guessed == first.test.labels).mean() > 0.95
    with pytest.raises(DataError, match="600 classes do not fit into 500 words"):
        load("synthetic", num_classes=600, vocabulary=500)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    message = "'IMBD'; did you mean imdb? Known: imdb, synthetic, npz:FILE, csv:FILE"
    with pytest.raises(UsageError, match=re.escape(message)):
        load("IMBD")


@pytest.mark.slow
def test_real_reviews() -> None:
    train, test = REAL_DATA / "reviews_train.csv", REAL_DATA / "reviews_test.csv"
    if not train.exists():
        pytest.skip(f"{train} is missing: set TANDEM_TEST_DATA to a folder with reviews in it")

    data = load(f"csv:{train},{test}", length=200, vocabulary=10_000)

    assert data.train.tokens.shape == (8000, 200)
    assert data.test.tokens.shape == (1300, 200)
    assert data.train.tokens.max() == 9999
    assert 0.4 < data.train.labels.mean() < 0.6
    assert (data.test.tokens == 2).sum() / (data.test.tokens > 1).sum() < 0.15
