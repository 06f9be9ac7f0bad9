"""Do the paper's five workloads learn split as they do unsplit? ``python -m benchmarks.results --images FILE ...``.

Each is trained in full size on a small part of real data: unsplit (all of the model in one part), and split with
several K; several seeds, in one process, by the code of the distributed run. A CSV takes a row for each run as it ends;
what stands there is not run again.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, cast

import numpy as np
from tqdm import tqdm

from baseline import sweep
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import DataError, UsageError
from common.naming import nearest

Kind = Literal["images", "tiny_imagenet", "texts"]


@dataclass(frozen=True)
class Workload:
    """One of the paper's, short enough for one core."""

    kind: Kind
    num_classes: int
    train: int
    """Samples of each class; of `tiny_imagenet` all that there are."""
    test: int
    epochs: int
    splits: int
    split_index: int
    flags: tuple[str, ...]


_OF_SIX, _OF_FIVE = ("--milestones", "4", "5"), ("--milestones", "3", "4")
"""The last two of so many epochs are at a tenth and a hundredth of the rate."""
WORKLOADS: Mapping[str, Workload] = {
    "VGG19": Workload("images", 4, 480, 200, 6, 19, 4, ("--optim", "resnet", "--lr", "0.004", *_OF_SIX)),
    "resnet50": Workload("images", 2, 160, 100, 5, 19, 4, ("--optim", "resnet", "--lr", "0.004", *_OF_FIVE)),
    "Mobilenetv3_large": Workload(
        "images", 4, 480, 200, 6, 18, 4, ("--optim", "mobilenet", "--lr", "0.02", "--dropout", "0.2", *_OF_SIX)
    ),
    "resnet50_imgnet": Workload(
        "tiny_imagenet", 4, 150, 50, 5, 19, 4, ("--optim", "resnet", "--lr", "0.004", *_OF_FIVE)
    ),
    "BILSTM": Workload("texts", 2, 1600, 600, 5, 5, 2, ("--optim", "imdb", *_OF_FIVE)),
}
_DEFAULT = "default"
AXES = ("workload", "setting", "compress", "train", "epochs", "batch_size", "seed")


@dataclass(frozen=True)
class Options:
    """Final accuracy of the paper's five workloads, unsplit and split."""

    images: Path | None = None
    """CIFAR-10 as an npz file; without it the workloads of images are left out."""
    tiny_imagenet: Path | None = None
    """Folder that tiny-imagenet-200 is in; without it that workload is left out."""
    texts: str = ""
    """TRAIN.csv,TEST.csv of reviews; without it that workload is left out."""
    workloads: tuple[str, ...] = ()
    """Some of them; default all whose data is given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, the same for each setting."""
    stale_it: tuple[int, ...] = (1, 3)
    """Staleness bounds. Where links are fast, 1 keeps edge and cloud busy; 3 does so for four stages of any length, as
    their sum is at most (K + 1) times the longest."""
    compress: str = ""
    """Codec of both directions, where the model is split; default those of a client."""
    scale: float = 1.0
    """Factor of the training samples (of tiny_imagenet: of nothing), where there are so many."""
    epochs: int = 0
    """Epochs of each run; 0 takes the workload's own."""
    batch_size: int = 32
    """Samples of a step."""
    limit_h: float = 12.0
    """Start no run after so many hours."""
    out: Path = Path("runs/results.csv")
    """A row for each run; runs whose row is there are not run again. The parts of the data stand beside it."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run what is missing, and print the table."""
    options = parse(Options)
    chosen = chosen_workloads(options)
    done = sweep.read(options.out, AXES)
    wanted = [(name, values) for values, name in grid(options, chosen)]
    missing = [(name, values) for name, values in wanted if tuple(values.values()) not in done]
    for name, values in tqdm(sweep.in_time(missing, options.limit_h), total=len(missing), unit="run", disable=None):
        row = run(name, values, options)
        sweep.append(options.out, row)
        done[tuple(values.values())] = row
    print(f"{machine()}\n")
    print_table(rows_of([done[key] for _, values in wanted if (key := tuple(values.values())) in done]))


def chosen_workloads(options: Options) -> dict[str, Workload]:
    """Those that were asked for, or whose data is given.

    Raises:
        UsageError: there is no such workload, or its data is not given.
    """
    given = {"images": options.images, "tiny_imagenet": options.tiny_imagenet, "texts": options.texts}
    for name in options.workloads:
        if name not in WORKLOADS:
            raise UsageError(f"--workloads has no {name}; {nearest(name, WORKLOADS)}")
        if not given[WORKLOADS[name].kind]:
            raise UsageError(f"--workloads {name} needs --{WORKLOADS[name].kind}")
    chosen = {
        name: each
        for name, each in WORKLOADS.items()
        if (name in options.workloads if options.workloads else given[each.kind])
    }
    if not chosen:
        raise UsageError("no data is given: --images FILE.npz, --tiny_imagenet FOLDER, --texts TRAIN.csv,TEST.csv")
    return chosen


def grid(options: Options, chosen: Mapping[str, Workload]) -> Iterator[tuple[dict[str, str], str]]:
    """What is to be run, seed by seed, so that a stopped grid is complete for its first seeds."""
    for seed in options.seeds:
        for name, workload in chosen.items():
            for setting in ("unsplit", *(f"K={bound}" for bound in options.stale_it)):
                values = (
                    name,
                    setting,
                    "none" if setting == "unsplit" else options.compress or _DEFAULT,
                    str(_count(workload, options)),
                    str(options.epochs or workload.epochs),
                    str(options.batch_size),
                    str(seed),
                )
                yield dict(zip(AXES, values, strict=True)), name


def run(name: str, values: Mapping[str, str], options: Options) -> dict[str, str]:
    """Train one; its row."""
    workload = WORKLOADS[name]
    setting = values["setting"]
    unsplit = setting == "unsplit"
    flags = [
        *("--model", name, "--num_classes", str(workload.num_classes), "--batch_size", str(options.batch_size)),
        *("--splits", str(workload.splits), "--threads", "1", "--run_dir", str(options.out.parent / "results")),
        *("--split_index", str(workload.splits if unsplit else workload.split_index), "--checkpoint_every", "-1"),
        *data_flags(workload, options),
        *workload.flags,
    ]
    varied = {
        "stale_it": "0" if unsplit else setting.removeprefix("K="),
        "compress": "" if values["compress"] == _DEFAULT else values["compress"],
        "epochs": values["epochs"],
        "seed": values["seed"],
    }
    row = sweep.run(flags, varied)
    return {**values, **{result: row[result] for result in sweep.RESULTS}}


def data_flags(workload: Workload, options: Options) -> list[str]:
    """The data of a workload as flags of a run; a part of it is written beside the table where there is none yet."""
    folder = options.out.parent
    count = _count(workload, options)
    if workload.kind == "tiny_imagenet":
        return ["--dataset", "tiny_imagenet", "--data_path", str(options.tiny_imagenet)]
    if workload.kind == "images":
        path = folder / f"images-{workload.num_classes}x{count}.npz"
        if not path.exists():
            write_images(path, cast(Path, options.images), workload.num_classes, count, workload.test)
        return ["--dataset", f"npz:{path}"]
    parts = [Path(each).expanduser() for each in options.texts.split(",")]
    if len(parts) != 2:
        raise UsageError(f"--texts is {options.texts}; it is TRAIN.csv,TEST.csv")
    counts = (workload.num_classes * count, workload.num_classes * workload.test)
    written = [folder / f"texts-{part}-{n}.csv" for part, n in zip(("train", "test"), counts, strict=True)]
    for source, target, n in zip(parts, written, counts, strict=True):
        if not target.exists():
            write_texts(target, source, n)
    return ["--dataset", f"csv:{written[0]},{written[1]}"]


def write_images(path: Path, source: Path, num_classes: int, train: int, test: int) -> None:
    """The first images of each of the first classes, as an npz file.

    Raises:
        DataError: the source cannot be read, or has fewer.
    """
    arrays: dict[str, Any] = {}
    try:
        with np.load(source.expanduser(), allow_pickle=False) as found:
            for part, count in (("train", train), ("test", test)):
                images, labels = found[f"{part}_images"], found[f"{part}_labels"]
                places = [np.flatnonzero(labels == each)[:count] for each in range(num_classes)]
                chosen = np.sort(np.concatenate(places))
                if len(chosen) < num_classes * count:
                    raise DataError(f"{source} has fewer than {count} {part} images of a class; give a smaller --scale")
                arrays |= {f"{part}_images": images[chosen], f"{part}_labels": labels[chosen]}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"--images {source} cannot be read: {error}; data/README.md has its format") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_texts(path: Path, source: Path, count: int) -> None:
    """The first texts of a CSV file.

    Raises:
        DataError: the source cannot be read.
    """
    try:
        with source.open(newline="", encoding="utf-8") as file:
            rows = [row for row, _ in zip(csv.reader(file), range(count + 1), strict=False)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--texts {source} cannot be read: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def rows_of(rows: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    """The table: means over seeds, and points below the unsplit runs of the same seeds."""
    found: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault((row["workload"], row["setting"]), {})[row["seed"]] = row
    table: list[dict[str, object]] = []
    for (name, setting), by_seed in found.items():
        accuracies = [100 * float(row["accuracy"]) for row in by_seed.values()]
        unsplit = found.get((name, "unsplit"), {})
        below = [
            100 * (float(unsplit[seed]["accuracy"]) - float(row["accuracy"]))
            for seed, row in by_seed.items()
            if seed in unsplit
        ]
        first = next(iter(by_seed.values()))
        table.append(
            {
                "workload": name,
                "setting": setting,
                "accuracy %": mean(accuracies),
                "+-": stdev(accuracies) if len(accuracies) > 1 else 0.0,
                "chance %": 100 / WORKLOADS[name].num_classes,
                "points below unsplit": mean(below) if below else math.nan,
                "KB up/step": float(first["bytes_up_per_step"]) / 1e3,
                "KB down/step": float(first["bytes_down_per_step"]) / 1e3,
                "steps": first["steps"],
                "seeds": len(by_seed),
            }
        )
    return table


def _count(workload: Workload, options: Options) -> int:
    """Training samples of each class."""
    return workload.train if workload.kind == "tiny_imagenet" else max(1, round(workload.train * options.scale))


if __name__ == "__main__":
    run_command(main)
