"""The profile tables published with the paper, as profiles.

``runtime_MODEL.csv`` has a column for each device and a row for each cut, behind slice 0, 1, ...: seconds of one batch
of 32 (chair: 8). The edge's value is replay, forward and backward pass of the slices before the cut, in the last row
without the replay; the cloud's is that of the slices behind. ``featuresize.csv`` has MiB of float32 activations, and
``compresstimeDEVICE.csv`` seconds to quantise these to 8 bits, which makes them a fourth; both by the same cuts.

The chair model is turned round: the cloud has the head, and row i has i slices before the cut.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.naming import nearest
from common.profiling.profile import CodecCost, Floats, Profile

MIB = float(1 << 20)
_BATCH_SIZES = {"chair": 8}
_DEFAULT_BATCH_SIZE = 32
_OTHER_NAMES = {"rnn": "bilstm", "resnet50imgnet": "resnet50imagenet"}
_FILE = re.compile(r"runtime(?:type\d)?_(.+)\.csv")


def read_published(path: Path, device: str, parameter_bytes: Sequence[float] = ()) -> Profile:
    """The profile of one device.

    Head or tail times that the table does not have are NaN, as are memory and energy. Decoding and the optimizer are
    not in the tables; decoding counts as nothing.

    Args:
        path: ``runtime_MODEL.csv``, with ``featuresize.csv`` beside it.
        device: its column, such as TX2, Pi or Cloud.
        parameter_bytes: of each slice, which the tables do not have either; NaN without.

    Raises:
        UsageError: no such table or column, or a number of slices that is not the table's.
    """
    found = _FILE.fullmatch(path.name)
    if found is None:
        raise UsageError(f"{path.name} is no published table: these are called runtime_MODEL.csv")
    columns = _columns(path)
    if device not in columns:
        raise UsageError(f"{path.name} has no device {device!r}; {nearest(device, columns)}")
    times = columns[device]
    slices = len(times)
    if parameter_bytes and len(parameter_bytes) != slices:
        raise UsageError(f"{path.name} is of {slices} slices; {len(parameter_bytes)} sizes of parameters were given")
    model = _key(found[1])
    turned = columns["Cloud"][0] == 0 if "Cloud" in columns else False
    head, tail = _stages(times, at_cloud=device == "Cloud", turned=turned)
    beside = path.with_name("featuresize.csv")
    sizes = _models(beside)
    if model not in sizes:
        raise UsageError(f"{beside.name} has no column for {model}; {nearest(model, sizes)}")
    features = _by_cut(sizes[model], slices) * MIB
    nothing = np.zeros(slices + 1)
    unknown = np.full(slices + 1, np.nan)
    activations = {"none": CodecCost(features, nothing, nothing)}
    seconds = _compression(path, device, model)
    if not turned and (device == "Cloud" or seconds is not None):
        encode_s = unknown if seconds is None else _by_cut(seconds, slices)
        activations["int8"] = CodecCost(features / 4, encode_s, nothing)
    parameters = np.concatenate([[0.0], np.cumsum(parameter_bytes)]) if parameter_bytes else unknown
    return Profile(
        source=f"{path.name}:{device}",
        model=found[1],
        device=device,
        digest="",
        batch_size=_BATCH_SIZES.get(model, _DEFAULT_BATCH_SIZE),
        cuts=tuple(range(slices + 1)),
        names=("input", *(f"slice {i}" for i in range(slices))),
        safe=np.ones(slices + 1, dtype=np.bool_),
        head_s=head,
        head_kept_s=head,  # the published system replays at K = 0 too
        tail_s=tail,
        head_forward_s=unknown,
        tail_forward_s=unknown,
        parameter_bytes=parameters,
        optimizer_bytes=unknown,
        saved_bytes=unknown,
        head_mj=unknown,
        tail_mj=unknown,
        input_bytes=float("nan"),
        activations=activations,
        gradients={"none": CodecCost(features, nothing, nothing)},
    )


def _stages(times: Floats, *, at_cloud: bool, turned: bool) -> tuple[Floats, Floats]:
    """Times of the device's head and of its tail, by cut; the table has one of them."""
    slices = len(times)
    unknown = np.full(slices + 1, np.nan)
    if turned:  # row i is cut i; nobody measured all slices in the head
        own = np.append(times, np.nan)
        return (own, unknown) if at_cloud else (unknown, own)
    if at_cloud:  # nobody measured all slices in the tail
        return unknown, np.concatenate([[np.nan], times])
    return np.concatenate([[0.0], times]), unknown


def _by_cut(values: Floats, slices: int) -> Floats:
    """Values of the cuts behind slices 0, 1, ...; none for the two ends of the model."""
    found = np.full(slices + 1, np.nan)
    found[1 : 1 + min(len(values), slices - 1)] = values[: slices - 1]
    return found


def _compression(path: Path, device: str, model: str) -> Floats | None:
    beside = path.with_name(f"compresstime{device.lower()}.csv")
    return _models(beside).get(model) if beside.exists() else None


def _models(path: Path) -> Mapping[str, Floats]:
    return {_key(name): values for name, values in _columns(path).items()}


def _columns(path: Path) -> Mapping[str, Floats]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the published table {path} cannot be read: {reason}") from None
    except ValueError:
        raise UsageError(f"the published table {path} is empty") from None
    found = {}
    for i, name in enumerate(header):
        cells = [row[i].strip() for row in rows if len(row) > i and row[i].strip()]  # short models leave blanks
        try:
            found[name.strip()] = np.array([float(cell) for cell in cells])
        except ValueError:
            raise UsageError(f"the published table {path} has cells in column {name!r} that are no numbers") from None
    if not all(len(values) for values in found.values()):
        raise UsageError(f"the published table {path} has a column without numbers")
    return found


def _key(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _OTHER_NAMES.get(plain, plain)
