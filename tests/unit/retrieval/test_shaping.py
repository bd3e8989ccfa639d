"""Lists made from an order of scores."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.shaping import ShapingPolicy
from server.retrieval.shaping import Facts, shape


def facts(count: int, *, vendors: str | None = None, new: set[int] | frozenset[int] = frozenset(), likeness: bool = False) -> Facts:
    """Returns facts of candidates whose scores fall by one; `vendors` names one letter each, `-` for none."""
    random = np.random.default_rng(count)
    vectors = np.abs(random.normal(size=(min(count, 30), 4)).astype(np.float32))
    return Facts(
        scores=-np.arange(count, dtype=np.float32),
        likeness=vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if likeness else None,
        vendors=None if vendors is None else [None if letter == "-" else letter for letter in vendors],
        new=np.isin(np.arange(count), list(new)) if new else None,
    )


policies = st.builds(
    ShapingPolicy,
    diversity=st.sampled_from([0.0, 0.2, 0.9]),
    new_item_share=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    vendor_cap=st.integers(0, 3),
    exploration=st.sampled_from([0.0, 0.2, 0.5]),
)


@st.composite
def situations(draw: st.DrawFn) -> Facts:
    """Returns any candidates with all facts."""
    count = draw(st.integers(0, 40))
    return facts(
        count,
        vendors=draw(st.text("abc-", min_size=count, max_size=count)),
        new=draw(st.frozensets(st.integers(0, 40), max_size=12)),
        likeness=count > 0 and draw(st.booleans()),
    )


@given(situations(), st.integers(1, 45))
def test_the_default_policy_leaves_the_order_of_scores(given_facts: Facts, limit: int) -> None:
    """By default a list is the first places of the order, whatever is known of the items: the list that an evaluation ranks."""
    found = shape(given_facts, limit, ShapingPolicy(), seed=1)
    assert found.places == tuple(range(min(limit, len(given_facts.scores))))
    assert found.propensities == ()
    assert (found.capped, found.lifted, found.drawn) == (0, 0, 0)


@given(situations(), st.integers(1, 45), policies, st.integers(0, 2**63 - 1))
def test_no_policy_makes_a_list_shorter_or_double(given_facts: Facts, limit: int, policy: ShapingPolicy, seed: int) -> None:
    """Whatever the policy, a list is as long as without one, holds no item twice, and comes out the same the second time."""
    found = shape(given_facts, limit, policy, seed=seed)
    assert len(set(found.places)) == len(found.places) == min(limit, len(given_facts.scores))
    assert found == shape(given_facts, limit, policy, seed=seed)
    assert len(found.propensities) == (len(found.places) if policy.exploration else 0)
    assert all(0 < propensity <= 1 for propensity in found.propensities)


@given(situations(), st.integers(1, 45), policies.filter(lambda policy: policy.vendor_cap > 0), st.integers(0, 2**63 - 1))
def test_a_cap_holds_while_others_are_left(given_facts: Facts, limit: int, policy: ShapingPolicy, seed: int) -> None:
    """Where the cap leaves enough items, no vendor has more than its share, whatever the floor and exploration bring in."""
    assert given_facts.vendors is not None
    offered = Counter(given_facts.vendors)
    without = offered.pop(None, 0)
    if without + sum(min(count, policy.vendor_cap) for count in offered.values()) >= limit:
        shown = Counter(given_facts.vendors[place] for place in shape(given_facts, limit, policy, seed=seed).places)
        assert all(count <= policy.vendor_cap for vendor, count in shown.items() if vendor is not None)


def test_a_cap_lets_the_next_vendor_in() -> None:
    """The third item of a vendor waits, those without a vendor never do, and what waited fills the list where nothing else is left."""
    offered = facts(7, vendors="aaab--a")
    found = shape(offered, 4, ShapingPolicy(vendor_cap=2))
    assert (found.places, found.capped) == ((0, 1, 3, 4), 1)
    assert shape(offered, 7, ShapingPolicy(vendor_cap=2)).places == (0, 1, 3, 4, 5, 2, 6)


@given(st.integers(1, 30), st.frozensets(st.integers(0, 39), max_size=20), st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_new_items_get_their_share(limit: int, new: frozenset[int], share: float) -> None:
    """A list holds the least number of new items that the share asks for, as far as there are any and the lower half has room."""
    found = shape(facts(40, new=new), limit, ShapingPolicy(new_item_share=share))
    shown = sum(place in new for place in found.places)
    assert shown >= min(math.ceil(share * limit - 1e-9), limit // 2, len(new))
    assert found.lifted == shown - sum(place in new for place in range(limit))


@given(st.integers(1, 30), st.frozensets(st.integers(0, 39), max_size=20), st.sampled_from([0.1, 0.5]))
def test_the_floor_leaves_the_upper_half_alone(limit: int, new: frozenset[int], share: float) -> None:
    """New items come in from the middle down; the others keep their order, and the best-scored new ones come."""
    found = shape(facts(40, new=new), limit, ShapingPolicy(new_item_share=share))
    middle = (limit + 1) // 2
    assert found.places[:middle] == tuple(range(middle))
    old = [place for place in found.places if place < limit]
    assert old == sorted(old)
    came = [place for place in found.places if place >= limit]
    assert came == sorted(new - set(range(limit)))[: len(came)]


def test_new_items_are_spread() -> None:
    """Two of ten places go to new items at even distances of the lower half; the last two others make room."""
    found = shape(facts(20, new={12, 15, 18}), 10, ShapingPolicy(new_item_share=0.2))
    assert found.places == (0, 1, 2, 3, 4, 12, 5, 15, 6, 7)


@pytest.mark.parametrize(
    ("policy", "offered"),
    [
        (ShapingPolicy(exploration=0.4), {}),
        (ShapingPolicy(exploration=0.5, vendor_cap=2), {"vendors": "aabbcc-ab-c-"}),
        (
            ShapingPolicy(exploration=0.3, new_item_share=0.2, vendor_cap=2, diversity=0.3),
            {"vendors": "aabbcc-ab-c-", "new": {8, 11}, "likeness": True},
        ),
    ],
)
def test_logged_propensities_are_the_frequencies_of_the_whole_policy(policy: ShapingPolicy, offered: dict[str, Any]) -> None:
    """Over many seeds each item is shown at each place as often as the list says, with every step switched on."""
    rounds = 3000
    counts: Counter[tuple[int, int]] = Counter()
    logged: dict[tuple[int, int], float] = {}
    for seed in range(rounds):
        found = shape(facts(12, **offered), 6, policy, seed=seed)
        for place, (item, propensity) in enumerate(zip(found.places, found.propensities, strict=True)):
            counts[place, item] += 1
            assert logged.setdefault((place, item), propensity) == propensity
    for seen, propensity in logged.items():
        assert counts[seen] / rounds == pytest.approx(propensity, abs=4.5 * (propensity * (1 - propensity) / rounds) ** 0.5 + 1e-12)
    for place in range(6):
        assert sum(propensity for (at, _), propensity in logged.items() if at == place) == pytest.approx(1.0)
    assert any(propensity < 1 for propensity in logged.values())


def test_exploration_leaves_the_upper_half_and_the_floor_alone() -> None:
    """What stands above the middle, and new items that have a floor, are shown with probability 1."""
    policy = ShapingPolicy(exploration=0.5, new_item_share=0.2)
    for seed in range(50):
        found = shape(facts(30, new={20}), 10, policy, seed=seed)
        assert found.propensities[:6] == (1.0,) * 6
        assert found.places[:6] == (0, 1, 2, 3, 4, 20)
