"""What came of a run, in some lines for the user."""

from typing import Any

from DIN.metrics import measured, told
from DIN.samples import PartyData
from DIN.train import Finished


def report(run: Finished) -> str:
    """Of one party."""
    summary = run.summary
    stages = ", ".join(f"{stage} {1e3 * value:.1f}" for stage, value in summary["stages_s"].items())
    ratio = "" if summary["limit_ratio"] is None else f", {summary['limit_ratio']:.2f} x the slowest stage"
    return (
        f"party {summary['party']}: {_judged(summary)} after {summary['epochs']} epochs, {summary['steps']} steps\n"
        f"  step time {1e3 * summary['step_time_s']:.1f} ms{ratio} (stages, ms: {stages}); per step "
        f"{summary['bytes_up_per_step'] / 1e3:.2f} kB up, {summary['bytes_down_per_step'] / 1e3:.2f} kB down\n"
        f"  records: {run.folder}"
    )


def ceiling(data: PartyData) -> str:
    """What the true chances of made-up samples would reach; nothing of real ones, whose chances nobody knows."""
    if data.clicks.chances is None:
        return ""
    rows = data.test.places
    best = measured(data.clicks.chances[rows], data.clicks.labels[rows], data.users)
    return f"the most that is possible on {data.name}: {told(best)}"


def _judged(summary: dict[str, Any]) -> str:
    if "auc" in summary:
        return told(summary)
    return f"trained ({summary['label_owner']} has the labels, and the scores)"
