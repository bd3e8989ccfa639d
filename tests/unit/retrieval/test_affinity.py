from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import Item, ItemId, Profile, UserId
from server.retrieval.affinity import NOTHING_STATED, Affinities, ItemFacts, Wishes, wishes


def _item(name: str, *, price: float | None = None, categories: tuple[str, ...] = (), **attributes: Any) -> Item:
    return Item(item_id=ItemId(name), title=name, price=price, categories=categories, attributes=attributes)


def _affinities(items: list[Item], history: list[int], stated: Wishes = NOTHING_STATED, weights: list[float] | None = None) -> Affinities:
    mass = np.array(weights or [1.0] * len(history), np.float32)
    return ItemFacts.of(items).affinities(np.arange(len(items)), np.array(history, np.int64), mass, stated)


def test_a_price_fits_by_its_ratio_to_the_budget() -> None:
    """Half and double fit alike, and a price that is missing or free of charge fits nothing."""
    items = [_item(str(price), price=price) for price in (100.0, 50.0, 200.0, None, 0.0)]
    assert _affinities(items, [], Wishes(budget=100.0)).price_fit.tolist() == [1.0, 0.5, 0.5, 0.0, 0.0]


def test_without_a_budget_the_median_of_the_history_is_wanted() -> None:
    """One dear item in the history does not move what is wanted."""
    items = [_item(str(price), price=price) for price in (100.0, 110.0, 9000.0)]
    assert _affinities(items, [0, 1, 2]).price_fit.tolist() == pytest.approx([100 / 110, 1.0, 110 / 9000])
    assert not _affinities([*items, _item("no price")], [3]).price_fit.any()


def test_a_stated_city_is_nearer_than_its_region_and_its_country() -> None:
    """Whatever their capitals; another country is nowhere near."""
    place = {"city": "Porto", "region": "Norte", "country": "PT"}
    items = [_item("a", **place), _item("b", **{**place, "city": "Braga"}), _item("c", country="pt"), _item("d", country="ES"), _item("e")]
    stated = wishes({"city": "porto", "region": "NORTE", "country": "Pt"})
    assert _affinities(items, [3], stated).distance_fit.tolist() == [1.0, 0.5, 0.25, 0.0, 0.0]


def test_without_a_stated_place_the_history_tells_it() -> None:
    """The share of the history's weight in the same city."""
    items = [_item("a", city="Porto"), _item("b", city="Faro"), _item("c")]
    assert _affinities(items, [0, 1], weights=[3.0, 1.0]).distance_fit.tolist() == [0.75, 0.25, 0.0]


def test_coordinates_fit_by_the_way_between_them() -> None:
    """1 at the place itself, one half 30 km away, next to nothing on the other side of the earth."""
    items = [
        _item("here", lat=41.15, lon=-8.61),
        _item("near", latitude=41.15 + 30 / 111.195, longitude=-8.61),
        _item("far", lat=-41, lng=171),
    ]
    fit = _affinities([*items, _item("nowhere", lat="north")], [], wishes({"lat": 41.15, "lon": -8.61})).distance_fit
    assert fit.tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-3)


def test_categories_fit_by_their_share_of_the_history() -> None:
    """An item's weight is split over its categories; a candidate gets the shares of all of its own."""
    items = [
        _item("a", categories=("venue", "barn")),
        _item("b", categories=("cake",)),
        _item("c", categories=("barn", "cake")),
        _item("d"),
    ]
    assert _affinities(items, [0, 1, -1], weights=[1.0, 3.0, 9.0]).category_affinity.tolist() == [0.25, 0.75, 0.875, 0.0]


@given(st.lists(st.tuples(st.integers(-1, 4), st.floats(0, 4, width=32)), max_size=12), st.permutations(range(5)))
def test_fits_are_shares_and_do_not_depend_on_the_other_candidates(history: list[tuple[int, float]], order: list[int]) -> None:
    """Every fit is in [0, 1], and a candidate's own whatever stands beside it."""
    items = [_item(str(n), price=10.0 * n or None, categories=("x", f"c{n % 2}"), city=f"t{n % 3}") for n in range(5)]
    facts = ItemFacts.of(items)
    touched, weights = np.array([row for row, _ in history], np.int64), np.array([weight for _, weight in history], np.float32)
    every = facts.affinities(np.arange(5), touched, weights)
    for column in every:
        assert (column >= 0).all()
        assert (column <= 1).all()
    for one, other in zip(facts.affinities(np.array(order), touched, weights), every, strict=True):
        np.testing.assert_allclose(one, other[order], rtol=1e-6)


def test_what_is_stated_is_completed_by_the_profile_and_may_be_unreadable() -> None:
    """The request comes before the traits, and nonsense is as good as nothing."""
    profile = Profile(user_id=UserId("u"), traits={"city": "Faro", "budget": 900})
    assert wishes({"city": "Porto"}, profile) == Wishes(900.0, {"city": ("porto",)})
    assert wishes({"budget": "much", "lat": "x", "lon": float("nan"), "city": 7}) == NOTHING_STATED


def test_nothing_is_known_of_an_empty_catalogue() -> None:
    """No candidates, no facts, no fault."""
    assert all(len(column) == 0 for column in _affinities([], []))
