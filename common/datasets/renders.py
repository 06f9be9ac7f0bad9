"""Rendered objects in files: the public rendered chairs as ``chairs:PATH``, any others as ``objects:PATH``.

``chairs``: PATH has ``train.csv`` and ``valid.csv``. Each has a header row; column 0 is an image's path, column 1 its
category. The view stands in the image's name, ``image_..._p020_t011_r096.png``: phi and theta in degrees.

``objects``: PATH has ``parameters.csv`` with the columns ``file`` and ``chair``, and ``theta`` and ``phi`` in degrees;
without these, ``frame`` on a camera's path around the object. With ``scene``, each chair of each scene counts as an
object of its own. A fifth of each object's images is held out.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from common.datasets.holdout import held_out
from common.datasets.image_files import decoded
from common.datasets.poses import Pixels, PoseSet, PoseSplit, Views
from common.datasets.utf8 import read_utf8
from common.errors import DataError

N = TypeVar("N", int, float)

CHAIRS_PREFIX, OBJECTS_PREFIX = "chairs:", "objects:"
_TABLES = ("train.csv", "valid.csv")
_VIEW = re.compile(r"_p(\d{1,3})_t(\d{1,3})_r\d+\.\w+$")
_RISE = 30.0
"""Degrees that a camera is taken to rise along its path, where only frames are told."""


class _Render(NamedTuple):
    path: Path
    object: str
    theta: float
    phi: float


def load_chairs(name: str, image_size: int, *, progress: bool) -> PoseSet:
    """The public rendered chairs.

    Args:
        name: of the data set, with its prefix.
        image_size: pixels of a side that the model makes.
        progress: whether to show a bar.

    Raises:
        DataError: files that are missing, names without a view, categories that were not trained, or broken images.
    """
    root = _folder(name, CHAIRS_PREFIX, " and ".join(_TABLES))
    parts = [[_chair(root, row, where) for row, where in _rows(root / file, name)[1:]] for file in _TABLES]
    if empty := [file for file, part in zip(_TABLES, parts, strict=True) if not part]:
        raise DataError(f"{name}: {empty[0]} has no rows: put one for each image below its header")
    numbers = _numbered([each.object for each in parts[0]])
    if unknown := sorted({each.object for each in parts[1]} - numbers.keys()):
        raise DataError(
            f"{name}: valid.csv has category {unknown[0]}, which train.csv has not: it would never be trained"
        )
    train, test = (PoseSplit(*_split(part, numbers, image_size, name, progress=progress)) for part in parts)
    return PoseSet(name, len(numbers), train, test)


def load_objects(name: str, image_size: int, *, progress: bool) -> PoseSet:
    """Any folder of rendered objects; see `load_chairs`.

    Raises:
        DataError: files or columns that are missing, values that are no numbers, or broken images.
    """
    root = _folder(name, OBJECTS_PREFIX, "parameters.csv")
    rows = _rows(root / "parameters.csv", name)
    columns = rows[0][0]
    for needed in ("file", "chair", *(() if {"theta", "phi"} <= set(columns) else ("frame",))):
        if needed not in columns:
            raise DataError(
                f"{name}: parameters.csv has no column {needed}; it has {', '.join(columns)}: its first line names "
                "file, chair, theta and phi, with commas between them"
            )
    if odd := [(row, where) for row, where in rows[1:] if len(row) != len(columns)]:
        raise DataError(f"{name}: {odd[0][1]} has {len(odd[0][0])} columns, the header {len(columns)}")
    table = [(dict(zip(columns, row, strict=True)), where) for row, where in rows[1:]]
    last = max((_number(row, "frame", where, int) for row, where in table if "frame" in row), default=0)
    renders = [_object(root, row, where, max(last, 1)) for row, where in table]
    if not renders:
        raise DataError(f"{name}: parameters.csv has no rows")
    numbers = _numbered([each.object for each in renders])
    views, pixels = _split(renders, numbers, image_size, name, progress=progress)
    in_test = held_out(views.numbers)
    if not in_test.any():
        raise DataError(f"{name}: no object has 3 images or more, so none can be held out")
    train, test = (
        PoseSplit(views[chosen], Pixels(pixels.images[chosen])) for chosen in map(np.flatnonzero, (~in_test, in_test))
    )
    return PoseSet(name, len(numbers), train, test)


def _split(
    renders: Sequence[_Render], numbers: dict[str, int], image_size: int, name: str, *, progress: bool
) -> tuple[Views, Pixels]:
    for each in renders:
        if not each.path.is_file():
            raise DataError(f"{name}: there is no file {each.path}: put it there, or take its row out of the table")
    images = decoded([each.path for each in renders], (3, image_size, image_size), name, progress=progress)
    number = np.array([numbers[each.object] for each in renders], np.int64)
    theta, phi = (np.array([getattr(each, angle) for each in renders]) for angle in ("theta", "phi"))
    return Views(number, theta, phi), Pixels(images)


def _folder(name: str, prefix: str, tables: str) -> Path:
    root = Path(name.removeprefix(prefix)).expanduser()
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root.absolute()}; name one with images and {tables}")
    return root


def _rows(path: Path, name: str) -> list[tuple[list[str], str]]:
    """Rows of a CSV file, its header first, each with where it stands."""
    try:
        lines = csv.reader(io.StringIO(read_utf8(path), newline=""), strict=True)
        rows = [(row, f"{path.name}, line {lines.line_num}") for row in lines if row]
    except OSError as error:
        raise DataError(f"{name}: {path} cannot be read: {error.strerror}; data/README.md says what it is") from None
    except csv.Error as error:
        raise DataError(f"{name}: {path} is no CSV file: line {lines.line_num}: {error}") from None
    if not rows:
        raise DataError(f"{name}: {path} is empty; its first line names the columns")
    return rows


def _chair(root: Path, row: list[str], where: str) -> _Render:
    if len(row) < 2:
        raise DataError(f"{where}: {row} is no image path and category")
    found = _VIEW.search(row[0])
    if found is None:
        raise DataError(f"{where}: the name {row[0]} tells no view; it ends in such as _p020_t011_r096.png")
    return _Render(root / row[0], row[1], float(found[2]), float(found[1]))


def _object(root: Path, row: dict[str, str], where: str, last_frame: int) -> _Render:
    if not row.get("file") or not row.get("chair"):
        raise DataError(f"{where}: file or chair is missing")
    path, which = root / row["file"], f"{row['chair']}/{row.get('scene', '')}"
    if "theta" in row and "phi" in row:
        return _Render(path, which, _number(row, "theta", where, float), _number(row, "phi", where, float))
    frame = _number(row, "frame", where, int)
    return _Render(path, which, 360.0 * frame / (last_frame + 1), _RISE * frame / last_frame)


def _number(row: dict[str, str], column: str, where: str, kind: Callable[[str], N]) -> N:
    try:
        value = kind(row.get(column, ""))
    except ValueError:
        raise DataError(f"{where}: {column} is {row.get(column)!r}, which is no number") from None
    if not np.isfinite(value):
        raise DataError(f"{where}: {column} is {value}")
    return value


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """Numbers by the order of the names; whole numbers among them by their value."""
    ordered = sorted(
        set(names), key=lambda each: [(part.zfill(12) if part.isdigit() else part) for part in each.split("/")]
    )
    return {name: number for number, name in enumerate(ordered)}
