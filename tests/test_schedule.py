"""The head's schedule is the one drawn in its module, never runs further ahead than K, and drains."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.training import schedule as module
from common.training.schedule import Action, Schedule, next_action

TABLE = """
    K = 0           F0 B0 F1 B1 F2 B2 F3 B3
    K = 1, fixed    F0 F1 B0 F2 B1 F3 B2 B3
    K = 2, fixed    F0 F1 F2 B0 F3 B1 B2 B3
    K = 2, eager    F0 B0 F1 B1 F2 B2 F3 B3
""".strip("\n").splitlines()


def run(schedule: Schedule, stale_it: int, total: int, arrivals: list[int]) -> list[str]:
    """The steps of an epoch; ``arrivals[i]`` more answers are there (if they can be) at the i-th decision."""
    forwarded = applied = arrived = 0
    steps: list[str] = []
    for i in range(2 * total):
        arrived = min(forwarded, max(applied, arrived + (arrivals[i] if i < len(arrivals) else 0)))
        action = next_action(schedule, stale_it, total, forwarded, applied, arrived)
        assert action is not Action.DONE
        if action is Action.FORWARD:
            steps.append(f"F{forwarded}")
            forwarded += 1
        else:
            arrived = max(arrived, applied + 1)  # where it has not arrived, the head waits for it
            steps.append(f"B{applied}")
            applied += 1
    assert next_action(schedule, stale_it, total, forwarded, applied, arrived) is Action.DONE
    return steps


def schedules_of(row: str) -> list[Schedule]:
    return [each for each in Schedule if each.value in row.split()] or list(Schedule)


@pytest.mark.parametrize("row", TABLE)
def test_the_table_is_kept(row: str) -> None:
    assert row in (module.__doc__ or "")
    stale_it = int(row.split()[2].rstrip(","))
    expected = [word for word in row.split() if word[0] in "FB"]

    for schedule in schedules_of(row):
        assert run(schedule, stale_it, 4, arrivals=[4] * 8) == expected


def test_eager_without_answers_is_fixed() -> None:
    for stale_it in range(4):
        assert run(Schedule.EAGER, stale_it, 6, arrivals=[]) == run(Schedule.FIXED, stale_it, 6, arrivals=[])


def test_an_epoch_without_steps_is_done() -> None:
    assert next_action(Schedule.FIXED, 2, 0, 0, 0, 0) is Action.DONE


epochs = {
    "schedule": st.sampled_from(Schedule),
    "stale_it": st.integers(0, 6),
    "total": st.integers(0, 20),
    "arrivals": st.lists(st.integers(0, 3), max_size=40),
}


@settings(derandomize=True, deadline=None)
@given(**epochs)
def test_no_more_than_the_bound_is_under_way(
    schedule: Schedule, stale_it: int, total: int, arrivals: list[int]
) -> None:
    under_way, most = 0, 0
    for step in run(schedule, stale_it, total, arrivals):
        under_way += 1 if step[0] == "F" else -1
        most = max(most, under_way)

    assert under_way == 0
    assert most <= stale_it + 1
    if schedule is Schedule.FIXED:
        assert most == min(stale_it + 1, total)


@settings(derandomize=True, deadline=None)
@given(**epochs)
def test_each_step_is_forwarded_once_and_then_applied_once_in_order(
    schedule: Schedule, stale_it: int, total: int, arrivals: list[int]
) -> None:
    steps = run(schedule, stale_it, total, arrivals)

    for kind in "FB":
        assert [step for step in steps if step[0] == kind] == [f"{kind}{i}" for i in range(total)]
    assert all(steps.index(f"F{i}") < steps.index(f"B{i}") for i in range(total))


@settings(derandomize=True, deadline=None)
@given(**epochs)
def test_fixed_does_not_depend_on_what_has_arrived(
    schedule: Schedule, stale_it: int, total: int, arrivals: list[int]
) -> None:
    assert run(Schedule.FIXED, stale_it, total, arrivals) == run(Schedule.FIXED, stale_it, total, [])
    position = {step: i for i, step in enumerate(run(Schedule.FIXED, stale_it, total, arrivals))}
    for t in range(stale_it, total - 1):
        assert position[f"B{t - stale_it}"] + 1 == position[f"F{t + 1}"]


PURE = """
import importlib, pkgutil, sys
import common.wire
names = ["common.training.schedule", "common.training.session", "common.planning.cost"]
names += ["common.config", "common.command", "common.naming"]
names += [each.name for each in pkgutil.walk_packages(common.wire.__path__, "common.wire.")]
assert "common.wire.tcp" in names
for name in names:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""


@pytest.mark.slow
def test_what_is_pure_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PURE], capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
