"""MovieLens in its public formats: who rated which film when, and the films' genres.

Read are 1M (``ratings.dat``, ``movies.dat``), 100K (``u.data``, ``u.item``) and RecBole's atomic files (``NAME.inter``,
``NAME.item``, whose first line is ``name:type`` of each column). Harper and Konstan, TiiS 5(4), 2015.
"""

import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.datasets.download import Digest, download
from common.errors import DataError

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.int64]

GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Genre g has number g + 1; 0 is none."""
SLOTS = 6
"""Genres of a film, at most: none has more."""
MAX_MOVIE = 1 << 20
LICENCE = (
    "MovieLens is GroupLens' (University of Minnesota): free for research, not to be redistributed, no commercial use "
    "without permission; cite Harper and Konstan 2015 (https://grouplens.org/datasets/movielens)"
)
_ENCODING = "latin-1"


@dataclass(frozen=True)
class _Source:
    """A version of the data that can be fetched."""

    archive: str
    folder: str
    digest: Digest


_SOURCES = {
    "ml-1m": _Source("ml-1m.zip", "ml-1m", Digest("md5", "c4d9eecfca2ab87c1945afe126590906")),
    "ml-100k": _Source("ml-100k.zip", "ml-100k", Digest("md5", "0e33842e24a9c977be4e0107933c0723")),
}
NAMES = tuple(_SOURCES)


@dataclass(frozen=True)
class Ratings:
    """Ratings, in any order, and the films."""

    users: Numbers
    """int64 (N,)."""
    movies: Numbers
    """int64 (N,), from 1."""
    stars: npt.NDArray[np.float64]
    """float64 (N,), 1 to 5."""
    times: Numbers
    """int64 (N,), seconds since 1970."""
    genres: Numbers
    """int64 (M, `SLOTS`): of each film by its number, 0 in unused slots; row 0 is no film."""


def load_movielens(path: Path, *, name: str = "", progress: bool = True) -> Ratings:
    """Read the ratings in a folder, in whichever of the formats its files are.

    Args:
        path: the folder, or one that holds it.
        name: one of `NAMES`: what to fetch where nothing is there.
        progress: whether a download shows a bar.

    Raises:
        DataError: there is no such data and it could not be fetched, or a file is damaged.
    """
    if (found := _find(path)) is None and name:
        _fetch(path, _SOURCES[name], progress=progress)
        found = _find(path)
    if found is None:
        raise DataError(
            f"{path} has no MovieLens data: neither ratings.dat and movies.dat (1M), nor u.data and u.item (100K), nor "
            "NAME.inter and NAME.item (RecBole); put one of them there, or let --dataset ml-1m or ml-100k fetch it"
        )
    read, ratings, films = found
    log.info("%s", LICENCE)
    return read(ratings, films)


def _find(path: Path) -> tuple[Callable[[Path, Path], Ratings], Path, Path] | None:
    """The reader of what is there, and the files of ratings and of films."""
    for folder in (path, *(path / each.folder for each in _SOURCES.values())):
        for ratings, films, read in (("ratings.dat", "movies.dat", _read_1m), ("u.data", "u.item", _read_100k)):
            if (folder / ratings).is_file() and (folder / films).is_file():
                return read, folder / ratings, folder / films
        for ratings_file in sorted(folder.glob("*.inter")):
            if (films_file := ratings_file.with_suffix(".item")).is_file():
                return _read_atomic, ratings_file, films_file
    return None


def _fetch(path: Path, source: _Source, *, progress: bool) -> None:
    archive = path / source.archive
    url = f"https://files.grouplens.org/datasets/movielens/{source.archive}"
    log.info("fetching %s; %s", url, LICENCE)
    download(url, archive, source.digest, f"put the files of {url} into {path}", progress=progress)
    with zipfile.ZipFile(archive) as file:
        for member in file.namelist():
            place = path / source.folder / Path(member).name
            if not member.endswith("/"):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read(member))


def _read_1m(ratings: Path, films: Path) -> Ratings:
    genres = ((row[0], row[2].split("|")) for row in _rows(films, "::", 3))
    return _assembled(ratings, (row[:4] for row in _rows(ratings, "::", 4)), films, genres)


def _read_100k(ratings: Path, films: Path) -> Ratings:
    # Behind five columns there is one for "unknown" and one for each genre.
    rows = _rows(films, "|", 6 + len(GENRES))
    genres = ((row[0], [GENRES[i] for i, mark in enumerate(row[6:]) if mark == "1"]) for row in rows)
    return _assembled(ratings, (row[:4] for row in _rows(ratings, "\t", 4)), films, genres)


def _read_atomic(ratings: Path, films: Path) -> Ratings:
    genres = ((item, names.split(" ")) for item, names in _columns(films, ("item_id",), ("class", "genre")))
    rows = _columns(ratings, ("user_id",), ("item_id",), ("rating",), ("timestamp",))
    return _assembled(ratings, rows, films, genres)


def _assembled(
    path: Path, ratings: Iterable[Sequence[str]], films: Path, genres: Iterable[tuple[str, list[str]]]
) -> Ratings:
    try:
        users, movies, stars, times = (np.asarray(column, np.float64) for column in zip(*ratings, strict=True))
        known = {int(movie): _numbers(names) for movie, names in genres}
        if not np.isfinite([users, movies, stars, times]).all():
            raise ValueError("a number is nan or inf")
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} or {films.name} is damaged: {error}") from None
    if not known or movies.min() < 1 or max(int(movies.max()), *known) > MAX_MOVIE or min(known) < 1:
        raise DataError(f"{path}: films have numbers from 1 to {MAX_MOVIE}")
    table = np.zeros((int(max(int(movies.max()), *known)) + 1, SLOTS), np.int64)
    for movie, numbers in known.items():
        table[movie, : len(numbers)] = numbers
    return Ratings(users.astype(np.int64), movies.astype(np.int64), stars, times.astype(np.int64), table)


def _numbers(names: Iterable[str]) -> list[int]:
    """Of genres; names that are none ("unknown", "(no genres listed)") count as no genre."""
    return [GENRES.index(name) + 1 for name in names if name in GENRES][:SLOTS]


def _rows(path: Path, separator: str, width: int) -> Iterator[list[str]]:
    """The lines of a file, which must have ``width`` columns or more."""
    try:
        with path.open(encoding=_ENCODING) as file:  # str.splitlines would end lines within UTF-8's letters, such as Å
            lines = list(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        row = line.removesuffix("\n").split(separator)
        if len(row) < width:
            raise DataError(f"{path}, line {number}: {len(row)} columns where {width} are due")
        yield row


def _columns(path: Path, *wanted: tuple[str, ...]) -> Iterator[list[str]]:
    """Some columns of an atomic file."""
    rows = _rows(path, "\t", 1)
    header = [each.partition(":")[0] for each in next(rows, [])]
    places = []
    for names in wanted:
        found = [header.index(name) for name in names if name in header]
        if not found:
            raise DataError(f"{path} has no column {names[0]}; its first line names {', '.join(header)}")
        places.append(found[0])
    for row in rows:
        if len(row) <= max(places):
            raise DataError(f"{path}: a row has {len(row)} columns, the first line {len(header)}")
        yield [row[place] for place in places]
