"""The draw of exploration and its probabilities."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.exploration import explored, seed_of


@pytest.mark.parametrize(
    ("pool", "slots", "epsilon"), [((5, 6, 7), (2, 3), 0.4), ((5, 6), (1, 2, 3, 4), 0.5), ((5,), (3, 4), 0.1), ((5, 6, 7, 8), (4,), 0.25)]
)
def test_frequencies_are_the_logged_propensities(pool: tuple[int, ...], slots: tuple[int, ...], epsilon: float) -> None:
    """Over many seeds every item is shown at every place as often as the record says of it there."""
    rounds = 4000
    counts: Counter[tuple[int, int]] = Counter()
    logged: dict[tuple[int, int], float] = {}
    for number in range(rounds):
        found = explored(range(5), pool, slots, epsilon=epsilon, seed=seed_of("user", str(number)))
        for place, (item, propensity) in enumerate(zip(found.places, found.propensities, strict=True)):
            counts[place, item] += 1
            assert logged.setdefault((place, item), propensity) == propensity
    for seen, propensity in logged.items():
        spread = (propensity * (1 - propensity) / rounds) ** 0.5
        assert counts[seen] / rounds == pytest.approx(propensity, abs=4.5 * spread + 1e-12), seen


@pytest.mark.parametrize(("pool", "slots"), [(3, (1, 2)), (2, (0, 1, 2)), (5, (2,))])
def test_propensities_of_a_place_add_up_to_one(pool: int, slots: tuple[int, ...]) -> None:
    """What a place may show, over all items that it ever showed, has probability 1 in all."""
    logged: dict[int, dict[int, float]] = {place: {} for place in range(3)}
    for seed in range(1000):
        found = explored(range(3), range(10, 10 + pool), slots, epsilon=0.3, seed=seed)
        for place, (item, propensity) in enumerate(zip(found.places, found.propensities, strict=True)):
            logged[place][item] = propensity
    for options in logged.values():
        assert sum(options.values()) == pytest.approx(1.0)


@given(st.integers(0, 12), st.integers(0, 8), st.floats(0, 0.5), st.integers(0, 2**63 - 1), st.data())
def test_a_list_keeps_its_length_and_shows_nothing_twice(size: int, pool: int, epsilon: float, seed: int, data: st.DataObject) -> None:
    """Whatever is drawn, the list has its length, no item twice, untouched places outside the slots, and propensities in (0, 1]."""
    slots = sorted(data.draw(st.sets(st.integers(0, size - 1)))) if size else []
    found = explored(range(size), range(100, 100 + pool), slots, epsilon=epsilon, seed=seed)
    assert len(found.places) == len(set(found.places)) == len(found.propensities) == size
    assert all(found.places[place] == place for place in range(size) if place not in slots)
    assert all(0 < propensity <= 1 for propensity in found.propensities)
    assert found.drawn == sum(place >= 100 for place in found.places)


def test_a_decision_can_be_replayed() -> None:
    """A seed gives one list, today and in any later version: this one is written down."""
    seed = seed_of("shop", "couple-1", "3@0")
    assert seed == 2_973_763_531_371_282_093
    assert explored(range(6), range(10, 16), [3, 4, 5], epsilon=0.5, seed=seed).places == (0, 1, 2, 15, 12, 11)


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_other_inputs_draw_other_seeds(left: list[str], right: list[str]) -> None:
    """Inputs that differ, or are cut differently, have different seeds."""
    nothing_hidden = not any("\0" in word for word in left + right)
    if nothing_hidden and left and right:
        assert (seed_of(*left) == seed_of(*right)) == (left == right)
