"""Late and compressed gradients cost several parties next to nothing in AUC."""

from pathlib import Path

import pytest

from common.datasets.clicks import Clicks, make_synthetic_clicks
from DIN.metrics import auc
from DIN.options import BaseOptions
from DIN.samples import load_clicks
from DIN.train import plan_all, train_in_process
from tests.test_real_images import REAL_DATA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MOVIELENS = REAL_DATA / "movielens100k"
STALE_IT = 3
"""Keeps edge, uplink, cloud and downlink busy at once."""


def reached(clicks: Clicks, run_dir: Path, **more: object) -> float:
    # The published rate is over behind two epochs, of which both are needed.
    options = BaseOptions(threads=1, epochs=2, run_dir=run_dir, checkpoint_every=-1, **more)  # type: ignore[arg-type]
    found = train_in_process(plan_all(options, [clicks] * 2), options)[1].summary["auc"]
    assert isinstance(found, float)
    return found


def compare(clicks: Clicks, tmp_path: Path) -> float:
    """The AUC at the least K that fills the pipeline, with the default codecs; near that of the joint model."""
    joint = reached(clicks, tmp_path, stale_it=0, compress="none")
    vertical = reached(clicks, tmp_path, stale_it=STALE_IT)
    assert abs(vertical - joint) < 0.002, (vertical, joint)
    return vertical


def test_on_made_up_users(tmp_path: Path) -> None:
    clicks = make_synthetic_clicks(0)
    assert clicks.chances is not None
    best = auc(clicks.chances[clicks.held_out], clicks.labels[clicks.held_out])
    assert best is not None
    assert 0.6 < compare(clicks, tmp_path) < best


@pytest.mark.skipif(
    not MOVIELENS.is_dir(), reason=f"{MOVIELENS} is missing: set TANDEM_TEST_DATA to a folder that has it"
)
def test_on_movielens(tmp_path: Path) -> None:
    assert compare(load_clicks("", MOVIELENS, 0), tmp_path) > 0.6
