"""Fetch a public file whose content is known: what is kept has the published digest, and nothing else is kept."""

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from common.errors import DataError

_TIMEOUT_S = 60.0
_CHUNK = 1 << 16


class Digest(NamedTuple):
    """Of a file, as published."""

    algorithm: str
    value: str


def download(url: str, path: Path, digest: Digest, way_out: str, *, progress: bool) -> None:
    """Fetch to beside the final place, compare the digest, then rename: a broken download leaves nothing behind.

    Args:
        url: of the file.
        path: where it is to be.
        digest: that it must have.
        way_out: what the user can do where this fails, for the error.
        progress: whether to show a bar; there is none where stderr is no terminal.

    Raises:
        DataError: the network or the disk failed, or another file came.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            found = _fetch(url, part, digest.algorithm, progress=progress)
            if found != digest.value:
                raise DataError(
                    f"{url} gave another file than was published (its {digest.algorithm} is {found}): {way_out}"
                )
            os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{path.name} is not in {path.parent} and could not be downloaded ({error}): {way_out}"
        ) from error


def _fetch(url: str, path: Path, algorithm: str, *, progress: bool) -> str:
    """Write the file and return its digest."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:  # noqa: S310  our own
        size = int(response.headers.get("Content-Length") or 0) or None
        quiet = not (progress and sys.stderr.isatty())
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=quiet) as bar:
            while chunk := response.read(_CHUNK):
                state.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
    return state.hexdigest()
