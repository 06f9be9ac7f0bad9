"""Run folders, profiles and measurements as programs write them, made in a moment for tests of figures and reports."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.figures.comparison import Compared
from common.planning.log import Choice, Context, Decision, PlanLog
from common.profiling.profile_file import save_profile
from common.profiling.rows import About, BlockRow, CodecRow, Measured
from common.records import CsvTable, write_json
from common.training.journal import Span
from common.training.trace_file import write_trace

STEPS, EPOCHS, STEP_S = 40, 2, 0.1
STAGES_S = {"edge": 0.04, "uplink": 0.08, "cloud": 0.02, "downlink": 0.03}
SUMMARY: dict[str, Any] = {
    "steps": STEPS,
    "samples": 32 * STEPS,
    "epochs": EPOCHS,
    "accuracy": 0.75,
    "loss": 0.5,
    "step_time_s": STEP_S,
    "stages_s": STAGES_S,
    "limit_s": 0.08,
    "limit_ratio": 1.25,
    "bytes_up_per_step": 2000.0,
    "bytes_down_per_step": 1000.0,
    "stale_it": 2,
    "cut": 3,
    "cut_name": "features.3",
    "compress_up": "int8",
    "compress_down": "fp16",
    "faults": 0,
    "resumes": 0,
    "wall_s": STEPS * STEP_S,
    "training_s": STEPS * STEP_S,
    "edge_peak_memory_bytes": 300 * 2**20,
    "parameters_digest": "4c137d3e" * 4,
}

ENERGY = {
    "energy": {
        "total_j": 9.0,
        "rails": [
            {"name": "VDD_CPU", "in_total": True, "joules": 6.0},
            {"name": "VDD_GPU", "in_total": True, "joules": 3.0},
            {"name": "VDD_IN", "in_total": False, "joules": 11.0},
        ],
    }
}
MEMORY = {"peak_resident_bytes": 200 * 2**20, "peak_process_bytes": 150 * 2**20}
TABLE = [
    Compared(context, strategy, step_time_s=0.1 * i, bytes=1e6 * i)
    for context in ("4g", "wifi")
    for i, strategy in enumerate(("edge", "ours"), start=1)
]


def make_run(folder: Path, **summary: Any) -> Path:
    """A run of 40 steps of 0.1 s, 2000 bytes up and 1000 down; ``summary`` goes over that of the run."""
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", SUMMARY | summary)
    write_json(folder / "config.json", {"model": "resnet20", "stale_it": 2, "log_name": folder.name})
    write_json(folder / "environment.json", {"command": ["client.py", "--x"], "packages": {"torch": "2.13.0"}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(_step(step)) + "\n" for step in range(STEPS)))
    epochs = CsvTable(folder / "epochs.csv")
    for epoch in range(EPOCHS):
        epochs.add({"epoch": epoch, "wall_s": (epoch + 1) * 2.0, "train_loss": 1.0, "accuracy": 0.5 + epoch / 4})
    write_trace(folder / "trace.json", [span for step in range(STEPS) for span in _spans(step)])
    return folder


def _step(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step // 20,
        "loss": None if step == 7 else 2.0 / (1 + step),
        "correct": 20,
        "count": 32,
        "staleness": min(step, 2),
        "bytes_up": 2000,
        "bytes_down": 1000,
        "step_s": STEP_S,
        "wall_s": (step + 1) * STEP_S,
        **{f"{stage}_s": value for stage, value in STAGES_S.items()},
    }


def _spans(step: int) -> list[Span]:
    at = 100 + step * STEP_S
    tracks = {
        "edge load": (0.0, 0.001),
        "edge forward": (0.001, 0.015),
        "edge encode": (0.016, 0.002),
        "uplink": (0.02, 0.08),
        "cloud decode": (0.1, 0.001),
        "cloud compute": (0.102, 0.02),
        "cloud encode": (0.122, 0.001),
        "downlink": (0.124, 0.03),
        "edge decode": (0.154, 0.002),
        "edge backward": (0.157, 0.025),
    }
    return [Span(track, track.split()[-1], step, at + start, each) for track, (start, each) in tracks.items()]


def make_decisions(folder: Path) -> list[Decision]:
    """Five decisions, the third of another plan, in the run's ``plans.jsonl``."""
    decisions = [
        Decision(
            10 * i,
            float(i),
            Context(None if i == 0 else 20e6 / (1 + i), 40e6, 0.02),
            Choice(10 if i < 2 else 3, "int8" if i < 2 else "int4/c", "fp16", 3 if i < 2 else 2),
            0.1,
            None if i == 0 else 0.11,
            "the uplink is slower",
        )
        for i in range(5)
    ]
    with PlanLog(folder) as log:
        for each in decisions:
            log.add(each)
    return decisions


def make_weights(folder: Path) -> None:
    """Histograms of three slices behind two epochs."""
    rng, arrays = np.random.default_rng(0), {}
    for i in range(3):
        taken = [np.histogram(rng.normal(0, 0.1 * (i + 1), 500), 100) for _ in range(2)]
        arrays[f"{i}/counts"] = np.stack([counts for counts, _ in taken]).astype(np.float64)
        arrays[f"{i}/edges"] = np.stack([edges for _, edges in taken])
        arrays[f"{i}/moments"] = np.array([[epoch, 500.0, 0.0, 0.1] for epoch in range(2)])
    np.savez(folder / "weights.npz", **arrays)  # type: ignore[arg-type]


def make_profile(path: Path, model: str = "resnet20", blocks: int = 4, slower: float = 1.0) -> Path:
    """A profile of some blocks of 1, 2, 3, ... ms forward."""
    rows = []
    for i in range(blocks + 1):
        crossing = 4096.0 / (i + 1)
        codecs = {
            name: CodecRow(crossing / part, 1e-4, 1e-4, crossing / part if i else 0.0, 1e-4, 1e-4)
            for name, part in (("none", 1), ("int8", 4))
        }
        unit_s, unsafe = slower * i * 1e-3, "tied" if i == 2 else ""
        times_s = (unit_s, 1.2 * unit_s, 2 * unit_s, 0.1 * unit_s)
        rows.append(BlockRow(i, f"block.{i}", unsafe, *times_s, 100, 400, 900, float("nan"), codecs))
    about = About(model, "d1", 32, "cpu", f"board {slower:g}", 1, 5, "stage", "SGD", "", {})
    save_profile(path, Measured(about, tuple(rows)))
    return path


def heights(axis: Any) -> list[float]:
    """Of all bars."""
    return [bar.get_height() for bar in axis.patches]


def ys(axis: Any, place: int) -> list[float]:
    """Values of a line."""
    return list(axis.lines[place].get_ydata())
