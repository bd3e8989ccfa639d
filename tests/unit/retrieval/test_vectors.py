from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ids import ItemId, UserId
from server.domain.items import Item
from server.domain.profiles import Interaction, Profile
from server.errors import InvalidFieldError
from server.retrieval.context import item_features, request_features
from server.retrieval.sequence import SequenceSpace
from server.retrieval.vectors import VectorSpace, action_weight, hash_features, recency_weights

_NOW = datetime(2024, 6, 1, tzinfo=UTC)


def _unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(384).astype(np.float32)
    return vector / np.linalg.norm(vector)


def _space() -> VectorSpace:
    generator = np.random.default_rng(0)
    factors = generator.standard_normal((2, 2, 384)).astype(np.float32)
    weights = np.array([1.0, 0.5, 0.0, 0.25], np.float32)
    return VectorSpace((ItemId("a"), ItemId("b")), factors[0], factors[1], sequence=SequenceSpace.empty(), decay=0.5, weights=weights)


def test_the_search_score_is_the_weighted_sum_of_the_contributions() -> None:
    """Weights folded into the user side give the sum of weight times contribution of each view."""
    space = _space()
    items = [Item(item_id=ItemId("a"), title="a", categories=("venue",)), Item(item_id=ItemId("new"), title="new")]
    vectors = space.item_vectors(items, np.stack([_unit(1), _unit(2)]))
    history = [Interaction(ItemId("b"), "click", _NOW)]
    user = space.user_vector(history, _unit(3)[None], request_features({"category": "venue"}))
    contributions = user.contributions(vectors)
    np.testing.assert_allclose(vectors @ user.query, contributions @ user.weights, rtol=1e-4, atol=1e-5)
    assert contributions[1, 1] == 0.0
    assert contributions[0, 3] == pytest.approx(1.0)


def test_a_user_without_anything_is_zero() -> None:
    """No history and no context give a zero vector, not NaN."""
    query = VectorSpace.untrained().user_vector([], np.zeros((0, 384), np.float32)).query
    assert not query.any()


def test_the_newest_and_the_strongest_actions_weigh_most() -> None:
    """Weight falls by the decay each step and grows from click to booking; unknown types count as one click."""
    assert recency_weights(["click", "click", "book"], 0.5).tolist() == [0.25, 0.5, 4.0]
    assert action_weight("view") < action_weight("click") < action_weight("save") < action_weight("enquire") < action_weight("BOOK")
    assert action_weight("anything else") == 1.0


def test_text_vectors_of_a_wrong_shape_are_refused() -> None:
    """The error names the field and the shape wanted; NaN is refused too."""
    space = _space()
    with pytest.raises(InvalidFieldError, match=r"text_vectors.*\(1, 384\)"):
        space.item_vectors([Item(item_id=ItemId("a"), title="a")], np.zeros((1, 383), np.float32))
    with pytest.raises(InvalidFieldError, match="text_vectors"):
        space.item_vectors([Item(item_id=ItemId("a"), title="a")], np.full((1, 384), np.nan, np.float32))
    with pytest.raises(InvalidFieldError, match="semantic_views"):
        space.user_vector([], np.zeros((1, 384), np.float32))


@given(st.dictionaries(st.text(max_size=20), st.floats(0.1, 10), max_size=20))
def test_hashed_features_are_of_unit_length_and_repeatable(features: dict[str, float]) -> None:
    """Any names give the same finite vector each time, of length 1 unless they cancel."""
    vector = hash_features(features)
    assert np.array_equal(vector, hash_features(dict(reversed(features.items()))))
    length = float(np.linalg.norm(vector))
    assert length == pytest.approx(1.0, abs=1e-5) or length == 0.0


def test_close_prices_are_close() -> None:
    """A budget meets an item of about its price more than a far one, on either side of any border."""
    budget = hash_features(request_features({"budget": 1000}))
    near, far = (hash_features(item_features(Item(item_id=ItemId("a"), title="a", price=price))) for price in (1040.0, 9000.0))
    assert float(budget @ near) > 0.7 > float(budget @ far)


def test_request_features_come_from_context_profile_and_date() -> None:
    """What the caller sends wins over traits; the date gives season and stage; stated preferences are categories."""
    profile = Profile(
        user_id=UserId("u"),
        traits={"city": "Lisbon", "style": ["Rustic", "Boho"]},
        event_date=datetime(2024, 8, 3, tzinfo=UTC),
        preference_scores={"Venue": 0.4},
        locale="pt-PT",
    )
    features = request_features({"city": "Porto", "party_size": "120"}, profile, now=_NOW)
    assert {"place=porto", "style=rustic", "style=boho", "season=summer", "stage=soon", "category=venue", "language=pt"} <= features.keys()
    assert "place=lisbon" not in features
    assert any(name.startswith("party=") for name in features)


@pytest.mark.parametrize(
    ("context", "item"),
    [
        pytest.param({"season": "summer"}, {"attributes": {"season": ["summer", "autumn"]}}, id="season"),
        pytest.param({"event_date": "2024-07-20T14:00:00+00:00"}, {"attributes": {"season": "summer"}}, id="season of the date"),
        pytest.param({"event_date": "2024-06-20T14:00:00+00:00"}, {"attributes": {"stage": "last_month"}}, id="time to the date"),
        pytest.param({"region": "Algarve"}, {"attributes": {"region": "algarve"}}, id="region"),
        pytest.param({"city": "Porto"}, {"attributes": {"city": "Porto"}}, id="city"),
        pytest.param({"budget": "2000"}, {"price": 2100.0}, id="budget"),
        pytest.param({"party_size": 90}, {"attributes": {"capacity": 100}}, id="party size"),
        pytest.param({"brand": "Maison"}, {"attributes": {"brand": "maison"}}, id="brand"),
        pytest.param({"device": "mobile"}, {"attributes": {"device": ["Mobile", "tablet"]}}, id="device"),
        pytest.param({"page": "Photographers"}, {"categories": ("photographers",)}, id="page"),
    ],
)
def test_what_a_request_says_meets_items_that_fit(context: dict[str, object], item: dict[str, object]) -> None:
    """Every feature named in the documentation is read on both sides: an item that fits has a higher product than one that says nothing."""
    request = hash_features(request_features(context, now=_NOW))
    fits, plain = (hash_features(item_features(Item(item_id=ItemId("a"), title="a", **facts))) for facts in (item, {}))
    assert float(request @ fits) > 0.4
    assert float(request @ plain) == 0.0


@pytest.mark.parametrize("value", ["many", "", None, float("nan"), -5, {"a": 1}, [1, 2]])
def test_context_that_cannot_be_read_is_ignored(value: object) -> None:
    """A hint that makes no sense is no reason to refuse a request."""
    assert request_features({"budget": value, "event_date": value}, now=_NOW) == {}
