from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data import Interactions, Vocabulary, raw_events
from training.model import fit
from training.popularity import HALF_LIVES, NEVER, popularities
from training.splits import held_out
from training.tuning import Fold, choose

_DAY_S = 86400.0


def _interactions(rows: list[tuple[str, str, float]]) -> Interactions:
    events = raw_events([(user, item, "click", time) for user, item, time in rows])
    return Vocabulary.of([events]).encode(events)


@given(st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcde"), st.integers(0, 5).map(float)), min_size=1, max_size=40))
def test_ages_weigh_users_and_never_means_that_all_count_alike(rows: list[tuple[str, str, float]]) -> None:
    """Without ages an item has its distinct users; with one, each counts by the share of interactions newer than its newest."""
    interactions = _interactions(rows)
    found = popularities(interactions)
    names = sorted({item for _, item, _ in rows})
    for half_life in HALF_LIVES:
        expected = np.zeros(len(names))
        for user, item in {(user, item) for user, item, _ in rows}:
            newest = max(time for one, other, time in rows if (one, other) == (user, item))
            newer = sum(time > newest for _, _, time in rows) / len(rows)
            expected[names.index(item)] += 1.0 if half_life == NEVER else 0.5 ** (newer / half_life)
        np.testing.assert_allclose(found[half_life], expected / expected.max(), rtol=1e-5)


def test_no_interactions_make_no_item_popular() -> None:
    """All zeros, and no warning of a division."""
    interactions = _interactions([("u", "a", 1.0)])
    nothing = popularities(interactions.select(np.zeros(1, np.bool_)))
    assert all((column == 0).all() for column in nothing.values())


def _fashions(users: int, *, seed: int) -> list[tuple[str, str, str, float]]:
    """Everybody takes what is in fashion; every ten days something else is."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        start = generator.uniform(0, 100)
        for step in range(8):
            day = start + step * generator.uniform(0, 4)
            item = int(day // 10) * 20 + int(generator.integers(20))
            rows.append((f"u{user:04d}", f"i{item:04d}", "click", day * _DAY_S))
    return rows


def _chosen(rows: list[tuple[str, str, str, float]]) -> float:
    """Returns the half-life that is chosen for the interactions."""
    events = raw_events(rows)
    vocabulary = Vocabulary.of([events])
    interactions = vocabulary.encode(events)
    after, before = (interactions.select(part) for part in held_out(interactions))
    fold = Fold(fit(before, vocabulary.item_ids), before, after)
    return choose([fold], progress=lambda _step, _share: None).decays.popularity_half_life


def test_where_fashions_change_what_is_new_counts_more() -> None:
    """On data whose favourites change, a half-life is chosen."""
    assert _chosen(_fashions(400, seed=0)) != NEVER


def test_made_up_times_choose_no_age() -> None:
    """Where every user begins at the same second, ages mean nothing, and none is chosen."""
    generator = np.random.default_rng(1)
    rows = [(f"u{user:03d}", f"i{int(generator.zipf(1.5)) % 60:03d}", "click", float(step)) for user in range(200) for step in range(8)]
    assert _chosen(rows) == NEVER
