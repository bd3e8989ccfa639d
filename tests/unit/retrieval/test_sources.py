from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.ids import ItemId
from server.domain.profiles import HISTORY_LIMIT, Interaction
from server.retrieval.sources import CsrCounts, SparseSource, Trending, freshness
from training.counting import count
from training.data import Vocabulary, raw_events

_NOW = datetime(2024, 6, 1, tzinfo=UTC)
_EVENTS = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdef")), max_size=40)


def _history(*items: str, kind: str = "click") -> list[Interaction]:
    return [Interaction(ItemId(item), kind, _NOW) for item in items]


def _found(source: SparseSource, history: list[Interaction]) -> dict[str, tuple[float, float]]:
    shares = source.fold_in(history).of_all(len(source.item_ids))
    rows = zip(source.item_ids, shares.transitions.tolist(), shares.cosine.tolist(), strict=True)
    return {item: (transition, cosine) for item, transition, cosine in rows if transition or cosine}


def _best(source: SparseSource, history: list[Interaction], k: int) -> tuple[str, ...]:
    found = _found(source, history)
    return tuple(sorted(found, key=lambda item: (-found[item][0] - 0.5 * found[item][1], item))[:k])


def _counted(pairs: list[tuple[str, str]], *, among: list[tuple[str, str]] | None = None) -> SparseSource:
    events = raw_events([(user, item, "click", float(step)) for step, (user, item) in enumerate(pairs)])
    vocabulary = Vocabulary.of([events], [ItemId(item) for _, item in among or pairs])
    counts = count(vocabulary.encode(events))
    arrays = (counts.transitions, counts.together, counts.mass, counts.users)
    return SparseSource(vocabulary.item_ids, *arrays, regression=CsrCounts.empty(len(vocabulary.item_ids)), decays=(0.7, 0.9, 0.9))


def _observe(source: SparseSource, histories: dict[str, list[str]], batch: list[tuple[str, str]]) -> None:
    """Tells the source of events as a worker does that applied them at once: user by user, with what came before."""
    for user in dict.fromkeys(user for user, _ in batch):
        new = [item for who, item in batch if who == user]
        known = histories.setdefault(user, [])
        kept = known[-HISTORY_LIMIT:]
        source.observe([ItemId(item) for item in kept + new], list(range(len(kept), len(kept) + len(new))))
        known += new


def _assert_same_counts(live: SparseSource, again: SparseSource) -> None:
    """Compares mass, users, transitions and users in common of all pairs by item, whatever the rows."""
    for item in again.item_ids:
        mine, theirs = live._row.get(item), again._row[item]
        assert (live._users[mine] if mine is not None else 0.0) == again._users[theirs]
        assert (live._mass[mine] if mine is not None else 0.0) == pytest.approx(again._mass[theirs], rel=1e-6)
        for score in ("transitions", "cosine"):
            here, there = (
                source.scores(np.array([row]), np.ones(1, np.float32), score) if row is not None else np.zeros(len(source.item_ids))
                for source, row in ((live, mine), (again, theirs))
            )
            found = dict(zip(live.item_ids, here.tolist(), strict=True))
            for other, expected in zip(again.item_ids, there.tolist(), strict=True):
                assert found.get(other, 0.0) == pytest.approx(expected, abs=1e-6), (item, other, score)


@given(_EVENTS, st.integers(0, 40), st.lists(st.integers(1, 6)), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6))
def test_observing_equals_counting_again(pairs: list[tuple[str, str]], split: int, batches: list[int], asked: list[str]) -> None:
    """Events told in batches of any size after a bundle was counted give every count and score of counting everything at once."""
    split = min(split, len(pairs))
    live, histories = _counted(pairs[:split]), dict[str, list[str]]()
    for user, item in pairs[:split]:
        histories.setdefault(user, []).append(item)
    while split < len(pairs):
        size = batches.pop() if batches else 1
        _observe(live, histories, pairs[split : split + size])
        split += size
    again = _counted(pairs)
    _assert_same_counts(live, again)
    mine, theirs = (_found(source, _history(*asked)) for source in (live, again))
    assert mine.keys() == theirs.keys()
    for item, values in theirs.items():
        assert mine[item] == pytest.approx(values, abs=1e-6)


@given(st.permutations(range(7)), st.lists(st.sampled_from("abcd"), min_size=7, max_size=7))
def test_events_may_come_in_any_order_of_time(arrivals: list[int], items: list[str]) -> None:
    """A user's events that arrive late and out of order end up as if they had come in order."""
    live = SparseSource.empty()
    for count_known in range(1, len(arrivals) + 1):
        known = sorted(arrivals[:count_known])
        live.observe([ItemId(items[time]) for time in known], [known.index(arrivals[count_known - 1])])
    _assert_same_counts(live, _counted([("u", item) for item in items]))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(150, 260), st.sampled_from([5, 230, 400]))
def test_long_histories_are_counted_by_the_same_window(seed: int, split: int, items: int) -> None:
    """Beyond HISTORY_LIMIT interactions training and observing forget alike: an item meets the 200 before it only."""
    drawn = np.random.default_rng(seed).integers(0, items, 300).tolist()
    pairs = [("u" if step % 11 else "v", f"i{item:03}") for step, item in enumerate(drawn)]
    live, histories = _counted(pairs[:split]), dict[str, list[str]]()
    for user, item in pairs[:split]:
        histories.setdefault(user, []).append(item)
    for start in range(split, len(pairs), 7):
        _observe(live, histories, pairs[start : start + 7])
    _assert_same_counts(live, _counted(pairs))


def test_what_followed_is_found_and_the_newest_weighs_most() -> None:
    """After a comes b, after c comes d: a history that ends with c leads to d first, one that ends with a to b."""
    source = _counted([("u", "a"), ("u", "b"), ("v", "c"), ("v", "d")])
    assert _best(source, _history("a", "c"), 2) == ("d", "b")
    assert _best(source, _history("c", "a"), 2) == ("b", "d")


def test_shares_are_between_zero_and_one() -> None:
    """Transitions are a chance and cosine a cosine, whatever the actions weigh."""
    source = _counted([(user, item) for user in "uvw" for item in "abc"])
    scores = source.fold_in(_history("a", "b", kind="book"))
    assert float(scores.transitions.max()) <= 1.0
    assert float(scores.cosine.max()) <= 1.0 + 1e-6


def test_an_empty_or_unknown_history_leads_nowhere() -> None:
    """No candidates, and no error."""
    source = _counted([("u", "a"), ("u", "b")])
    assert not _found(source, [])
    assert not _found(source, _history("stranger"))
    assert not _found(SparseSource.empty(), _history("a"))


def test_hidden_items_lead_nowhere() -> None:
    """An action that speaks against an item brings no neighbours of it."""
    assert not _found(_counted([("u", "a"), ("u", "b")]), _history("a", kind="hide"))


def test_best_breaks_ties_by_id() -> None:
    """Equal scores come in the order of ids, also at the cut."""
    source = _counted([(f"u{item}", "a") for item in "zyxw"] + [(f"u{item}", item) for item in "zyxw"])
    assert _best(source, _history("a"), 2) == ("w", "x")


def test_trending_halves_in_a_half_life() -> None:
    """Two events a half-life ago weigh as much as one now, in whatever order they arrive."""
    trending = Trending(half_life_s=3600, origin=_NOW - timedelta(days=1))
    trending.observe(ItemId("now"), _NOW)
    for _ in range(2):
        trending.observe(ItemId("old"), _NOW - timedelta(hours=1))
    assert trending.shares([ItemId("now"), ItemId("old"), ItemId("none")]).tolist() == [1.0, 1.0, 0.0]
    trending.observe(ItemId("now"), _NOW)
    assert trending.top(5) == ("now", "old")


@given(st.lists(st.tuples(st.integers(0, 250), st.sampled_from([0.0, 1.0, 2.5])), max_size=400))
def test_leaders_are_those_of_a_full_sort(events: list[tuple[int, float]]) -> None:
    """Whatever arrives, the kept order equals sorting all counts."""
    trending = Trending(half_life_s=3600, origin=_NOW)
    for item, weight in events:
        trending.observe(ItemId(f"i{item:03}"), _NOW, weight)
    assert trending.top(200) == trending.top(201)[:200]


def test_trending_survives_years() -> None:
    """Counts neither overflow nor lose their order a thousand half-lives later, nor by an event from the distant past."""
    trending = Trending(half_life_s=60, origin=_NOW)
    trending.observe(ItemId("a"), _NOW)
    trending.observe(ItemId("b"), _NOW + timedelta(days=400))
    trending.observe(ItemId("a"), _NOW - timedelta(days=4000))
    shares = trending.shares([ItemId("a"), ItemId("b")])
    assert np.isfinite(shares).all()
    assert trending.top(1) == ("b",)


def test_the_newest_are_freshest() -> None:
    """Freshness is 1 now, a half after a half-life, 1 for a time to come, and 0 without a time."""
    now_s = _NOW.timestamp()
    created = np.array([now_s, now_s - 86400, now_s + 3600, -np.inf])
    assert freshness(created, now_s, half_life_s=86400).tolist() == [1.0, 0.5, 1.0, 0.0]
