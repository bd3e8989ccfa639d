from __future__ import annotations

import numpy as np

from tests.unit.training.synthetic import arrays_of
from training.baselines import EASE_RIDGE, cosines, ease, item_knn, popularity, recency
from training.counting import user_items


def _random_histories() -> dict[str, list[str]]:
    generator = np.random.default_rng(5)
    return {f"u{user}": [f"i{item:02}" for item in generator.permutation(30)[:6]] for user in range(80)}


def test_ease_is_the_closed_form() -> None:
    """The in-place inverse gives the textbook solution."""
    _, interactions = arrays_of(_random_histories())
    held = user_items(interactions).toarray().astype(np.float64)
    inverse = np.linalg.inv(held.T @ held + EASE_RIDGE * np.eye(held.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(ease(interactions)(np.arange(80)), held @ weights, atol=1e-5)


def test_item_knn_weighs_cosines_by_recency() -> None:
    """A score is the sum over the history of 0.7 ** age times the cosine of the columns."""
    _, interactions = arrays_of(_random_histories())
    held = user_items(interactions).toarray().astype(np.float64)
    normed = held / np.linalg.norm(held, axis=0)
    similar = normed.T @ normed
    np.fill_diagonal(similar, 0)
    rows = interactions.history(7).rows
    expected = sum(0.7**age * similar[row] for age, row in enumerate(reversed(rows.tolist())))
    np.testing.assert_allclose(item_knn(interactions)(np.array([7]))[0], expected, atol=1e-5)


def test_histories_may_be_other_than_what_was_fitted() -> None:
    """Cosines come from the fitted interactions, and are asked for with the histories given."""
    _, everything = arrays_of(_random_histories())
    last = everything.last_of_each(least=3)
    fitted = everything.select(~last)
    users = np.arange(80)
    similar = cosines(fitted).toarray()
    np.testing.assert_allclose(item_knn(fitted, everything)(users), recency(everything).toarray() @ similar, atol=1e-5)


def test_popularity_counts_users_not_events() -> None:
    """A user who comes back does not make an item more popular."""
    _, interactions = arrays_of({"u": ["a", "a", "b"], "v": ["b"]})
    assert popularity(interactions)(np.array([0, 1])).tolist() == [[1.0, 2.0], [1.0, 2.0]]
