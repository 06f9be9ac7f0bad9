"""MovieLens in its public formats, the samples that are made of it, and how scores are judged."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.datasets import movielens
from common.datasets.clicks import HISTORY, make_clicks, make_synthetic_clicks
from common.datasets.download import Digest
from common.datasets.movielens import GENRES, Ratings, load_movielens
from common.errors import DataError
from DIN.metrics import auc, batch_auc, group_auc, log_loss, measured

RATINGS = [(1, 2, 5, 100), (1, 3, 3, 90), (2, 3, 4, 80)]
FILMS = [(1, ("Action",)), (2, ("Comedy", "Sci-Fi")), (3, ())]


def write(folder: Path, form: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "1m":
        (folder / "ratings.dat").write_text("".join(f"{u}::{m}::{s}::{t}\n" for u, m, s, t in RATINGS))
        films = "".join(f"{m}::Café {m} (1999)::{'|'.join(g) or '(none)'}\n" for m, g in FILMS)
        (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    elif form == "100k":
        (folder / "u.data").write_text("".join(f"{u}\t{m}\t{s}\t{t}\n" for u, m, s, t in RATINGS))
        marks = {m: "|".join(str(int(name in genres)) for name in GENRES) for m, genres in FILMS}
        films = "".join(f"{m}|Café|01-Jan-1995||http://x|{int(not g)}|{marks[m]}\n" for m, g in FILMS)
        (folder / "u.item").write_bytes(films.encode("latin-1"))
    else:
        head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        (folder / "x.inter").write_text(head + "".join(f"{u}\t{m}\t{s}\t{t}\n" for u, m, s, t in RATINGS))
        head = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        (folder / "x.item").write_text(head + "".join(f"{m}\tCafé\t{' '.join(g) or 'unknown'}\n" for m, g in FILMS))


def check(ratings: Ratings) -> None:
    rows = zip(ratings.users, ratings.movies, ratings.stars, ratings.times, strict=True)
    assert [tuple(map(int, row)) for row in rows] == RATINGS
    named = [tuple(GENRES[g - 1] for g in row if g) for row in ratings.genres]
    assert named == [(), *(genres for _, genres in FILMS)]


@pytest.mark.parametrize("form", ["1m", "100k", "atomic"])
def test_all_formats_are_read(tmp_path: Path, form: str) -> None:
    write(tmp_path / "ml-1m", form)
    check(load_movielens(tmp_path / "ml-1m"))
    if form != "atomic":
        check(load_movielens(tmp_path))  # what was unpacked stands in a folder of its own


def test_it_is_fetched_where_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "made", "1m")
    asked: list[str] = []

    def download(url: str, path: Path, digest: Digest, way_out: str, *, progress: bool) -> None:
        asked.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for file in (tmp_path / "made").iterdir():
                archive.write(file, f"../ml-1m/{file.name}")

    monkeypatch.setattr(movielens, "download", download)
    for _ in range(2):
        check(load_movielens(tmp_path / "data", name="ml-1m"))
    assert asked == ["https://files.grouplens.org/datasets/movielens/ml-1m.zip"]
    assert not (tmp_path / "ml-1m").exists()  # a path in an archive leads nowhere else


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("ratings.dat", "1::2::5\n", "line 1: 3 columns where 4 are due"),
        ("ratings.dat", "1::x::5::7\n", "is damaged"),
        ("ratings.dat", "1::-4::5::7\n", "films have numbers from 1"),
        ("ratings.dat", "", "is damaged"),
        ("ratings.dat", "1::2::nan::7\n", "is damaged: a number is nan or inf"),
        ("ratings.dat", "1::nan::5::7\n", "is damaged: a number is nan or inf"),
        ("ratings.dat", "1::2::5::inf\n", "is damaged: a number is nan or inf"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str, words: str) -> None:
    write(tmp_path, "1m")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=words):
        load_movielens(tmp_path)


def test_lines_end_where_they_end(tmp_path: Path) -> None:
    """In UTF-8 Å and ... have a byte that latin-1 calls the end of a line, and str.splitlines would split there."""
    write(tmp_path, "atomic")
    films = (tmp_path / "x.item").read_bytes().replace("Café".encode(), "Ådalen…".encode())
    (tmp_path / "x.item").write_bytes(films.replace(b"\n", b"\r\n"))
    check(load_movielens(tmp_path))


def test_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no MovieLens data.*let --dataset ml-1m or ml-100k fetch it"):
        load_movielens(tmp_path)


def test_histories_are_what_was_liked_before() -> None:
    random = np.random.default_rng(0)
    count = 300
    users, movies = random.integers(1, 5, count), random.integers(1, 40, count)
    stars, times = random.integers(1, 6, count).astype(float), random.permutation(count)
    clicks = make_clicks("made", Ratings(users, movies, stars, times, np.zeros((40, 6), np.int64)))
    for user in range(1, 5):
        liked: list[int] = []
        mine = np.flatnonzero(clicks.keys[:, 0] == user)
        assert clicks.held_out[mine].tolist() == [i >= np.floor(0.8 * len(mine)) for i in range(len(mine))]
        order = np.flatnonzero(users == user)[np.argsort(times[users == user])]
        for row, rating in zip(mine, order, strict=True):
            assert clicks.keys[row].tolist() == [user, movies[rating], times[rating]]
            last = liked[-HISTORY:]
            assert clicks.history[row].tolist() == last + [0] * (HISTORY - len(last))
            assert clicks.labels[row] == (stars[rating] > 3)
            liked += [int(movies[rating])] if stars[rating] > 3 else []


def test_made_up_chances_are_those_of_the_labels() -> None:
    clicks = make_synthetic_clicks(3)
    assert clicks.chances is not None
    for low in np.arange(0, 1, 0.2):
        some = (clicks.chances >= low) & (clicks.chances < low + 0.2)
        assert abs(clicks.labels[some].mean() - clicks.chances[some].mean()) < 0.02
    held_out = clicks.held_out
    assert 0.8 < (auc(clicks.chances[held_out], clicks.labels[held_out]) or 0) < 0.95


def test_scores_are_judged() -> None:
    scores, labels = np.array([0.9, 0.8, 0.3, 0.4, 0.5, 0.6]), np.array([1, 0, 0, 1, 1, 1])
    users = np.array([7, 3, 7, 3, 9, 9])
    assert auc(scores, labels) == pytest.approx(5 / 8)
    assert group_auc(scores, labels, users) == pytest.approx((1.0 * 2 + 0.0 * 2) / 4)  # user 9 likes all
    assert batch_auc(scores, labels, 2) == pytest.approx((1.0 + 1.0) / 2)
    given = np.array([0.9, 0.2, 0.7, 0.4, 0.5, 0.6])
    assert log_loss(scores, labels) == pytest.approx(-np.log(given).mean())
    assert auc(scores, np.ones(6, np.int64)) is None
    assert measured(scores, np.zeros(6, np.int64), users)["gauc"] is None
