"""The ladder and the lists that are kept."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from server.domain import BundleId, ItemId, Profile, Reason, Rung, ScoredItem, UserId
from server.domain.decisions import PackedIds, Ranking, pack_ids
from server.domain.shaping import ShapingPolicy
from server.service.lists import Ladder, RankedList, _decode, _encode, kept_key
from server.service.query import RecommendQuery


@given(st.lists(st.tuples(st.sampled_from(list(Rung)), st.text(max_size=5))))
def test_a_ladder_only_goes_down_and_keeps_the_lowest_reason(drops: list[tuple[Rung, str]]) -> None:
    """Whatever fails in whatever order, the rung is the lowest that was dropped to, with the reason of the first drop to it."""
    ladder = Ladder()
    for rung, reason in drops:
        ladder.drop(rung, reason)
    below = [(rung, reason) for rung, reason in drops if rung < Rung.FULL]
    lowest = min((rung for rung, _ in below), default=Rung.FULL)
    assert ladder.rung == lowest
    assert ladder.reason == next((reason for rung, reason in below if rung == lowest), "")


def test_a_list_comes_back_from_a_cache_as_it_was() -> None:
    """Items, scores, reasons, probabilities, candidates, runtime and rung survive the way through bytes."""
    items = (ScoredItem(ItemId("a"), 0.25, (Reason("semantic", 0.2, "Reads like b"),), 0.125), ScoredItem(ItemId("b"), -1.0))
    ranked = RankedList(items, "triton", PackedIds(pack_ids([ItemId("b"), ItemId("a")])), Ladder(Rung.NO_RANKER, "no ranker"))
    assert _decode(_encode(ranked)) == ranked
    assert ranked.recorded == Ranking.of((ItemId("a"), ItemId("b")), (0.25, -1.0), (1.0, 1.0), (0.125,))


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=9))
def test_a_kept_list_keeps_its_propensities(propensities: list[float]) -> None:
    """What a cached list logs is what the computed one logged, to the last bit, with the seed of its draw."""
    items = tuple(ScoredItem(ItemId(f"i{place}"), 0.0) for place in range(len(propensities)))
    ranked = RankedList(items, "local", PackedIds(pack_ids(())), propensities=tuple(propensities), seed="1f")
    assert _decode(_encode(ranked)) == ranked


def test_a_key_tells_apart_whatever_changes_a_list() -> None:
    """User, version of the profile, bundle, policy and each part of what is asked make another key; the order of names does not."""
    query = RecommendQuery(user_id=UserId("u"), max_results=10, context={"page": "x", "device": "y"})
    profile, policy, bundle = Profile(user_id=UserId("u"), version=1), ShapingPolicy(), BundleId("b")
    keys = {
        kept_key(query, profile, bundle, policy),
        kept_key(replace(query, user_id=UserId("v")), profile, bundle, policy),
        kept_key(query, replace(profile, version=2), bundle, policy),
        kept_key(query, profile, BundleId("c"), policy),
        kept_key(query, profile, bundle, replace(policy, diversity=0.1)),
        kept_key(replace(query, max_results=11), profile, bundle, policy),
        kept_key(replace(query, context={"page": "x"}), profile, bundle, policy),
        kept_key(replace(query, filter="price < 9"), profile, bundle, policy),
        kept_key(replace(query, include_seen=True), profile, bundle, policy),
        kept_key(replace(query, explain=True), profile, bundle, policy),
        kept_key(replace(query, use_history=False), profile, bundle, policy),
    }
    assert len(keys) == 11
    assert kept_key(replace(query, context={"device": "y", "page": "x"}), profile, bundle, policy) in keys
    assert kept_key(replace(query, token="t"), profile, bundle, policy) == ""
