"""Profiles as files: this program's own, the tables published with the paper, and those that are kept."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import UsageError
from common.planning.problem import Problem
from common.planning.strategies import Edge, Ours
from common.profiling import cache
from common.profiling.load import load
from common.profiling.profile_file import dumps, load_profile, loads, save_profile
from common.profiling.published import MIB, read_published
from common.profiling.rows import Measured
from tests.test_planning import measured
from tests.test_planning_published import link, write_tables

PUBLISHED = (
    Path(os.environ.get("TANDEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "published_profiles"
)


def equal(one: Measured, other: Measured) -> bool:
    """To the nine digits that are written; NaN equals NaN here."""
    return dumps(one) == dumps(other)


# Our own format


def test_a_profile_comes_back_from_its_files(tmp_path: Path) -> None:
    profile = measured(1.0, unsafe=2)

    save_profile(tmp_path / "p.csv", profile)

    assert equal(load_profile(tmp_path / "p.csv"), profile)
    assert equal(loads(*dumps(profile)), profile)
    assert equal(loads(*dumps(measured(1.0, energy_mj=3.5))), measured(1.0, energy_mj=3.5))


def test_the_table_has_units_in_its_header_and_a_column_for_its_readers() -> None:
    table, about = dumps(measured(1.0))

    header, first, *rest = list(csv.reader(table.splitlines()))
    assert header[:13] == [
        "cut",
        "name",
        "unsafe",
        "forward_s",
        "replay_s",
        "backward_s",
        "optimizer_s",
        "parameter_bytes",
        "optimizer_bytes",
        "saved_bytes",
        "energy_mj",
        "head_peak_bytes",
        "activation_bytes[none]",
    ]
    assert first[:4] == ["0", "input", "", "0"]
    peaks = [float(row[header.index("head_peak_bytes")]) for row in [first, *rest]]
    assert peaks == measured(1.0).profile().head_peak_bytes.tolist()
    # Behind block 1: twice 10,000 of parameters, as much of the optimizer, 800,000 kept, and 800,000 each way.
    assert peaks[1] == 3 * 10_000 + 800_000 + 2 * 800_000
    assert json.loads(about)["format"] == "tandem-profile-1"


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("forward_s", "fast", "line 3: forward_s is 'fast', no number"),
        ("forward_s", "", "line 3: forward_s is '', no number"),
        ("replay_s", "-1", "line 3: replay_s is -1; it must be finite and at least 0"),
        ("parameter_bytes", "nan", "at least 0"),
        ("cut", "0", "do not go up"),
        ("activation_bytes[none]", "inf", "finite"),
    ],
)
def test_cells_that_are_wrong_are_named(tmp_path: Path, column: str, value: str, complaint: str) -> None:
    table, about = dumps(measured(1.0))
    rows = list(csv.DictReader(table.splitlines()))
    rows[1][column] = value
    path = tmp_path / "p.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".json").write_text(about)

    with pytest.raises(UsageError, match=complaint):
        load_profile(path)


@pytest.mark.parametrize(
    ("table", "about", "complaint"),
    [
        ("", None, "a table of 0 rows"),
        ("cut,name\n0,a\n1,b\n", None, "no column unsafe"),
        (None, "{}", "not of the format tandem-profile-1"),
        (None, "[1]", "not of the format"),
        (None, "{", "Expecting"),
        (None, '{"format": "tandem-profile-1", "model": 3}', "no model"),
    ],
)
def test_files_that_are_no_profile_are_refused(
    tmp_path: Path, table: str | None, about: str | None, complaint: str
) -> None:
    good_table, good_about = dumps(measured(1.0))
    (tmp_path / "p.csv").write_text(good_table if table is None else table)
    (tmp_path / "p.json").write_text(good_about if about is None else about)

    with pytest.raises(UsageError, match=complaint):
        load_profile(tmp_path / "p.csv")


def test_rows_of_another_length_and_missing_files_are_refused(tmp_path: Path) -> None:
    table, about = dumps(measured(1.0))
    for wrong in (table.replace("block1,,", "block1,,1,"), table.rsplit(",", 1)[0]):
        with pytest.raises(ValueError, match="as many cells"):
            loads(wrong, about)
    with pytest.raises(ValueError, match=r"activation_bytes\[none\]"):
        loads(table.replace("[none]", "[int9]"), about)
    (tmp_path / "p.csv").write_text(table)
    with pytest.raises(UsageError, match=r"p\.json beside it cannot be read"):
        load_profile(tmp_path / "p.csv")
    with pytest.raises(UsageError, match="cannot be written"):
        save_profile(tmp_path / "none" / "p.csv", measured(1.0))


# Profiles that are kept


def test_a_kept_profile_is_found_by_model_batch_and_device(tmp_path: Path) -> None:
    key = cache.Key("d", 32, "cpu")
    assert cache.find(tmp_path / "kept", key) is None

    path = cache.keep(tmp_path / "kept", key, measured(1.0))

    found = cache.find(tmp_path / "kept", key, ("none", "int8"))
    assert found is not None
    assert equal(found, measured(1.0))
    others = [replace(key, digest="e"), replace(key, batch_size=8), replace(key, level="module")]
    assert [cache.find(tmp_path / "kept", other) for other in others] == [None] * 3
    assert cache.find(tmp_path / "kept", key, ("int8", "topk:0.1")) is None
    path.write_text("half a")
    assert cache.find(tmp_path / "kept", key) is None


def test_a_kept_profile_of_another_model_under_the_same_name_is_not_taken(tmp_path: Path) -> None:
    key = cache.Key("d" * 20, 32, "cpu")
    other = measured(1.0)
    cache.keep(tmp_path, key, replace(other, about=replace(other.about, digest="d" * 16 + "other")))

    assert cache.find(tmp_path, key) is None


# The published tables


def test_a_published_table_as_profiles(tmp_path: Path) -> None:
    path = write_tables(tmp_path)
    (tmp_path / "compresstimetx2.csv").write_text("resnet50,VGG19\n0.5,0.003\n0.5,0.002\n")

    edge, cloud = load(f"{path}:TX2"), read_published(path, "Cloud", [1, 2, 4])

    assert (edge.cuts, edge.batch_size, edge.model, edge.device) == ((0, 1, 2, 3), 32, "VGG19", "TX2")
    assert edge.head_s.tolist() == [0.0, 0.010, 0.030, 0.080]
    assert edge.local_s == 0.080
    assert np.isnan(edge.tail_s).all()
    assert np.isnan(cloud.tail_s[0])
    assert cloud.tail_s[1:].tolist() == [0.040, 0.020, 0.0]
    features = edge.activations["none"].nbytes
    assert features[1:3].tolist() == [4 * MIB, 1 * MIB]
    assert np.isnan(features[[0, 3]]).all()
    assert edge.activations["int8"].nbytes[1:3].tolist() == [MIB, MIB / 4]
    assert edge.activations["int8"].encode_s[1:3].tolist() == [0.003, 0.002]
    assert list(edge.gradients) == ["none"]
    assert np.isnan(edge.parameter_bytes).all()
    assert cloud.parameter_bytes.tolist() == [0, 1, 3, 7]


def test_the_turned_table_has_the_tail_on_the_edge(tmp_path: Path) -> None:
    path = tmp_path / "runtime_chair.csv"
    path.write_text("TX2,Cloud\n0.5,0\n0.4,0.01\n0.1,0.03\n")  # row i: slices 0 ... i - 1 on the cloud
    (tmp_path / "featuresize.csv").write_text("Chair\n2.00 \n6.00 \n3.00 \n")

    edge, cloud = read_published(path, "TX2"), read_published(path, "Cloud")

    assert edge.batch_size == 8
    assert edge.tail_s[:3].tolist() == [0.5, 0.4, 0.1]
    assert cloud.head_s[:3].tolist() == [0.0, 0.01, 0.03]
    assert edge.activations["none"].nbytes[1:3].tolist() == [2 * MIB, 6 * MIB]
    problem = Problem(edge, cloud, link(100, 200), edge_holds="tail", message_bytes=0)
    assert Edge().decide(problem).prediction.step_s == 0.5
    # Behind slice 1: 6 MiB down in 0.03 s, 0.1 s on the edge, 6 MiB up in 0.06 s, 0.03 s on the cloud.
    plan = Ours().decide(problem)
    assert (plan.cut, plan.stale_it) == (2, 2)
    assert plan.prediction.step_s == pytest.approx(0.1)
    assert plan.prediction.stages_s.uplink == pytest.approx(0.06)


def test_published_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_tables(tmp_path)
    (tmp_path / "runtime_other.csv").write_text("TX2,Cloud\n1,0\n")
    (tmp_path / "runtime_bad.csv").write_text("TX2,Cloud\n1,x\n")
    (tmp_path / "runtime_empty.csv").write_text("")
    (tmp_path / "runtime_short.csv").write_text("TX2,Cloud\n1,\n")
    for name, device, complaint in (
        ("runtime_VGG19.csv", "Nano", "no device 'Nano'"),
        ("runtime_other.csv", "TX2", r"featuresize\.csv has no column for other"),
        ("runtime_bad.csv", "TX2", "no numbers"),
        ("runtime_empty.csv", "TX2", "is empty"),
        ("runtime_short.csv", "TX2", "a column without numbers"),
        ("runtime_none.csv", "TX2", "cannot be read"),
        ("times.csv", "TX2", "no published table"),
    ):
        with pytest.raises(UsageError, match=complaint):
            load(f"{tmp_path / name}:{device}")
    with pytest.raises(UsageError, match="is of 3 slices; 2 sizes"):
        read_published(path, "TX2", [1, 2])


@pytest.mark.parametrize(
    ("name", "slices", "first_mib"),
    [
        ("runtime_VGG19", 19, 8.0),
        ("runtime_Mobilenetv3_large", 18, 2.0),
        ("runtime_resnet50", 19, 8.0),
        ("runtime_rnn", 5, 3.13),
        ("runtime_chair", 11, 0.05),
        ("runtimetype1_resnet50_imgnet", 19, 24.5),
        ("runtimetype2_resnet50_imgnet", 19, 24.5),
    ],
)
def test_all_published_tables_can_be_read(name: str, slices: int, first_mib: float) -> None:
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is missing: set TANDEM_TEST_DATA to a folder with published_profiles/ in it")
    for device in ("TX2", "Cloud"):
        profile = read_published(path, device)
        assert len(profile.cuts) == slices + 1
        assert profile.activations["none"].nbytes[1] == first_mib * MIB
        known = profile.tail_s if (device == "Cloud") != (name == "runtime_chair") else profile.head_s
        assert np.isfinite(known).sum() >= slices
