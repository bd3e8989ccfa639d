from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.synthetic import events_of
from training.data import Interactions, RawEvents, Vocabulary, raw_events
from training.metrics import parse_metrics
from training.ranks import Ranking, rank_users
from training.report.slices import by_age, by_history, by_popularity, popularity_thirds, target_ages

_METRICS = parse_metrics("hr@1,ndcg@10")


def _ranking(fitted: Interactions, asked: Interactions) -> Ranking:
    scores = np.zeros((fitted.user_count, fitted.item_count), np.float32)
    return rank_users("x", lambda users: scores[users], np.unique(asked.users), fitted, asked, progress=lambda _step, _share: None)


def _encoded(*parts: RawEvents) -> list[Interactions]:
    vocabulary = Vocabulary.of(parts)
    return [vocabulary.encode(part) for part in parts]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_thirds_are_those_of_walking_down_the_popular_items(counts: list[int]) -> None:
    """An item's third is the one that the interactions of more popular items, ties by row, have reached before it."""
    expected, before = {}, 0
    for item in sorted(range(len(counts)), key=lambda item: (-counts[item], item)):
        expected[item] = 3 if counts[item] == 0 else min(3 * before // sum(counts), 2)
        before += counts[item]
    assert popularity_thirds(np.array(counts)).tolist() == [expected[item] for item in range(len(counts))]


def test_users_are_told_apart_by_what_was_fitted_of_them() -> None:
    """Buckets hold every user once; those nobody is in are left out."""
    fitted, asked = _encoded(
        events_of({"one": ["a"], "six": list("abcdef"), "many": [f"m{n}" for n in range(50)]}),
        events_of({"one": ["z"], "six": ["z"], "many": ["z"], "none": ["a"]}),
    )
    buckets = by_history({"x": _ranking(fitted, asked)}, fitted, _METRICS)
    assert [(bucket.label, bucket.users) for bucket in buckets] == [("none", 1), ("1-4", 1), ("5-9", 1), ("50 or more", 1)]
    assert buckets[0].results["x"]["hr@1"].value == 1.0


def test_targets_are_told_apart_by_popularity() -> None:
    """One user's targets fall into several buckets, each judged on its own, and items without fitted rows are never seen."""
    fitted, asked = _encoded(
        events_of({f"u{n}": ["hit", "also"] for n in range(4)} | {"v": ["rare"]}), events_of({"w": ["hit", "rare", "new"], "v": ["hit"]})
    )
    buckets = {bucket.label: bucket for bucket in by_popularity({"x": _ranking(fitted, asked)}, fitted, _METRICS)}
    assert {label: (bucket.users, bucket.targets) for label, bucket in buckets.items()} == {
        "torso": (2, 2),
        "tail": (1, 1),
        "never seen": (1, 1),
    }


def test_a_target_is_as_old_as_its_first_fitted_interaction() -> None:
    """Age counts from the first time anyone took the item to the first time this user is asked for it."""
    day = 86400.0
    fitted, asked = _encoded(
        raw_events([("u", "a", "x", 5 * day), ("v", "a", "x", 2 * day), ("v", "b", "x", 90 * day)]),
        raw_events([("w", "a", "x", 12 * day), ("w", "a", "x", 11 * day), ("w", "b", "x", 95 * day), ("w", "c", "x", 99 * day)]),
    )
    ranking = _ranking(fitted, asked)
    np.testing.assert_array_equal(target_ages(ranking, fitted, asked) / day, [9.0, 5.0, np.nan])
    buckets = by_age({"x": ranking}, fitted, asked, _METRICS)
    assert [(bucket.label, bucket.targets) for bucket in buckets] == [("under 7 days", 1), ("7-29 days", 1), ("never seen", 1)]


@pytest.mark.parametrize(("starts", "real"), [([0.0, 0.0, 0.0], False), ([0.0, 5.0, 9.0], True), ([], False)])
def test_made_up_times_start_all_users_at_once(starts: list[float], real: bool) -> None:  # noqa: FBT001
    """Times that say nothing across users are recognised, and so no age is computed from them."""
    events = raw_events((f"u{number}", "a", "x", start) for number, start in enumerate(starts))
    assert Vocabulary.of([events]).encode(events).has_real_times() is real
