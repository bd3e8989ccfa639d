from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.errors import InvalidFieldError
from tests.unit.training.synthetic import arrays_of
from training.reproduce import KNOWN, cells, read_split, reproduce, ties_to_targets, transitions_and_knn


def _quiet(_step: str, _share: float) -> None:
    pass


def _write(folder: Path) -> None:
    folder.mkdir()
    for place, part in enumerate(("train", "validation", "test")):
        rows = [f"u{user},i{(user + step) % 7},x,{step}" for user in range(20) for step in ((0, 1, 2) if place == 0 else (place + 2,))]
        (folder / f"{part}.csv").write_text("\n".join(["user_id,item_id,event_type,occurred_at", *rows]), encoding="utf-8")


def test_transitions_and_cosines_are_summed_over_the_history() -> None:
    """The score is 0.7 ** age times each item's directed counts, normalised like a cosine, plus half its cosines."""
    _, interactions = arrays_of({"u": ["a", "b", "c"], "v": ["a", "c"], "w": ["c", "b"]})
    (scores,) = transitions_and_knn(interactions, interactions)(np.array([1]))
    root = np.sqrt
    follows = {("a", "b"): 1 / root(2.5 * 2), ("a", "c"): 1.5 / root(2.5 * 3), ("c", "b"): 1 / root(1 * 2)}
    cosine = {("a", "b"): 1 / root(2 * 2), ("a", "c"): 2 / root(2 * 3), ("c", "b"): 2 / root(3 * 2), ("c", "a"): 2 / root(3 * 2)}
    expected = [
        sum(weight * (follows.get((item, wanted), 0) + 0.5 * cosine.get((item, wanted), 0)) for item, weight in (("c", 1.0), ("a", 0.7)))
        for wanted in "abc"
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_target_comes_before_its_equals_only() -> None:
    """Lifting a target changes its order among equal scores and no other."""
    _, asked = arrays_of({"u": ["b"], "v": ["a", "c"]})
    lifted = ties_to_targets(lambda users: np.array([[2.0, 2.0, 3.0]] * len(users), np.float32), asked)(np.array([0]))[0]
    assert lifted[0] < lifted[1] < lifted[2]


def test_histories_are_what_the_fit_did_not_see(tmp_path: Path) -> None:
    """Fitted on train; asked with train and validation."""
    _write(tmp_path / "lastfm")
    split = read_split(tmp_path / "lastfm", _quiet)
    assert (len(split.train.users), len(split.history.users), len(split.test.users)) == (60, 80, 20)


def test_every_known_row_is_measured(tmp_path: Path) -> None:
    """Each figure of a data set that is there has a row with both numbers and their difference."""
    _write(tmp_path / "lastfm")
    rows = list(reproduce(tmp_path, _quiet))
    assert [row.known for row in rows] == list(KNOWN["lastfm"])
    first = cells(rows[0])
    assert first[:3] == ("lastfm", "popularity", "0.0385 / 0.0180")
    assert first[4] == f"{rows[0].hr - 0.0385:+.4f} / {rows[0].ndcg - 0.0180:+.4f}"


def test_a_folder_without_the_data_is_refused(tmp_path: Path) -> None:
    """The error says which folders are looked for."""
    with pytest.raises(InvalidFieldError, match="beauty"):
        next(reproduce(tmp_path, _quiet))
