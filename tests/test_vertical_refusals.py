"""Parties that do not fit each other: only their run ends, and in words."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import DataError, ProtocolError, TandemError, UsageError
from common.training import edge
from common.training.alignment import Announcement, agree, hashed
from common.training.head import Head
from common.training.meeting import align
from common.training.remote import Cloud, open_session
from DIN import remote
from DIN.options import BaseOptions, party_number
from DIN.samples import call_roll, positions
from DIN.train import plan_all
from tests.serving import serving
from tests.vertical import RECIPES, clicks, here, party, same, together, values

pytestmark = pytest.mark.timeout(120)


def announced(*names: int, held_out: int = 0) -> Announcement:
    ids = hashed([b"%d" % name for name in names], b"salt")
    return Announcement(ids, np.array([name < held_out for name in names], np.uint8))


def test_what_all_have_is_agreed() -> None:
    marks = agree([announced(5, 1, 2, 9), announced(7, 5, 2, 9, 3, held_out=3), announced(5, 2, 4, 9)], 1)
    assert [each.tolist() for each in marks] == [[1, 0, 2, 1], [0, 1, 2, 1, 0], [1, 2, 0, 1]]


@pytest.mark.parametrize(
    ("announcements", "words"),
    [
        ((announced(1, 2, 1), announced(1, 2)), "party A announced an id more than once"),
        ((announced(1, 2), announced(3)), "no sample in common"),
        ((announced(1, 2), announced(2, 1)), "party B announced its samples in another order"),
    ],
)
def test_what_cannot_be_agreed(announcements: tuple[Announcement, ...], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        agree(announcements, 0)


def test_samples_of_one_id_that_differ_are_refused() -> None:
    twice = clicks().taken(np.array([0, 1, 2, 0]))
    assert len(call_roll(twice, b"", b"salt").places) == 3
    twice.labels[3] = 1 - twice.labels[3]
    with pytest.raises(DataError, match="two samples are called user 1, film"):
        call_roll(twice, b"", b"salt")


def test_the_order_does_not_follow_from_a_salt_that_was_drawn() -> None:
    rolls = [call_roll(clicks(), b"", salt) for salt in (b"one", b"other")]
    assert np.array_equal(rolls[0].places, rolls[1].places)
    assert not np.array_equal(rolls[0].announcement.ids, rolls[1].announcement.ids)
    assert not np.array_equal(rolls[0].places, call_roll(clicks(), b"own", b"one").places)


def test_positions_are_shared_out() -> None:
    assert [positions(party, 2) for party in range(2)] == [slice(0, 4), slice(4, 10)]
    for parties in (3, 7, 10):
        places = [place for party in range(parties) for place in range(10)[positions(party, parties)]]
        assert places == list(range(10))


@pytest.mark.parametrize("name", ["", "C", "0", "3", "x"])
def test_parties_that_there_are_not(name: str) -> None:
    with pytest.raises(UsageError, match="of 2 they are A, B"):
        party_number(name, 2)


def test_owners_of_labels_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--label_owner: there is no party 'C'; of 2 they are A, B; or server"):
        BaseOptions(**values(tmp_path, label_owner="C")).check()


@pytest.mark.parametrize("cut", ["0", "movie", "genre"])
def test_cuts_that_show_what_users_have_seen(tmp_path: Path, cut: str) -> None:
    with pytest.raises(UsageError, match="behind the embeddings"):
        plan_all(BaseOptions(**values(tmp_path, cut=cut)), [clicks()] * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "started with seed 0, party B with 1"),
        ({"lr": 0.2}, "with learning_rate 0.0, party B with 0.2"),
        ({"label_owner": "A"}, "decider"),
        ({"parties": 3}, "has parties"),
        ({"salt": "x"}, "--salt"),
    ],
)
def test_parties_with_other_options(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with serving(tmp_path / "server", recipes=RECIPES, away_s=2) as server:
        both = [partial(party, server, tmp_path, "A"), partial(party, server, tmp_path, "B", **changes)]
        errors = together(*(partial(error_of, each) for each in both))
    assert any(words in each for each in errors), errors
    assert all(errors)


def error_of(run: Callable[[], object]) -> str:
    """What a run ended with; empty where it ended well."""
    try:
        run()
    except TandemError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_third_that_claims_to_be_a_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others train on, and notice nothing."""
    expected = here(tmp_path / "here")
    refused: list[str] = []
    real_train = edge.train_remotely
    with serving(tmp_path / "server", recipes=RECIPES, away_s=5) as server:
        cloud = Cloud("127.0.0.1", server.port, server.hyperport)

        def announce(_salt: bytes) -> Announcement:
            return announced(1, 2, 3)

        def training(trainer: Any, *args: Any, **more: Any) -> Any:
            if trainer.job.party == 0:
                open_again = partial(open_session, cloud.ip, cloud.port, cloud.hyperport, trainer.job, 1 << 20)
                forged = partial(align, cloud, "other", 5, 2, 0, b"", announce)
                real_run = trainer.run

                def run(carrier: Any, *rest: Any) -> Any:
                    refused.extend((error_of(open_again), error_of(forged)))
                    return real_run(carrier, *rest)

                trainer.run = run
            return real_train(trainer, *args, **more)

        monkeypatch.setattr(remote, "train_remotely", training)
        runs = together(*(partial(party, server, tmp_path, name) for name in "AB"))
    same(runs, expected)
    assert "party A of this run is here already" in refused[0]
    assert "party is 5 of 2 parties" in refused[1]


@pytest.mark.slow
def test_a_second_that_comes_as_the_same_party(tmp_path: Path) -> None:
    with serving(tmp_path / "server", recipes=RECIPES, away_s=1) as server:
        errors = together(*(partial(error_of, partial(party, server, tmp_path / str(i), "A")) for i in range(2)))
    assert sorted("is here already" in each for each in errors) == [False, True]
    assert any("party B did not come within 1 s" in each for each in errors)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["other samples", "another shape"])
def test_uploads_that_do_not_fit_end_their_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Another run on the same server goes on as if nothing were."""
    expected, real = here(tmp_path / "here"), Head.encode
    broken: list[int] = []

    def encode(self: Head, upload: Any) -> Any:
        if upload.step == 5 and upload.training and self in heads:
            broken.append(5)
            if what == "other samples":
                upload = replace(upload, ids=upload.ids.flip(0))
            else:
                upload = replace(upload, tensors=tuple(torch.cat([each, each], 1) for each in upload.tensors))
        return real(self, upload)

    heads: list[Head] = []
    real_train = edge.train_remotely

    def training(trainer: Any, *args: Any, **more: Any) -> Any:
        if "bad" in str(trainer.store.folder) and trainer.job.party == 0:
            heads.append(trainer.head)
        return real_train(trainer, *args, **more)

    monkeypatch.setattr(Head, "encode", encode)
    monkeypatch.setattr(remote, "train_remotely", training)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=5) as server:
        good = [partial(party, server, tmp_path / "good", name, run="good") for name in "AB"]
        bad = [partial(error_of, partial(party, server, tmp_path / "bad", name, run="bad")) for name in "AB"]
        first, second, *errors = together(*good, *bad)
    assert broken
    same([first, second], expected)  # type: ignore[list-item]
    words = {"other samples": "sent different samples", "another shape": "at this cut they have"}[what]
    assert all(words in str(error) for error in errors), errors
