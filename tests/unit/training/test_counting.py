from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from server.domain.ids import ItemId
from server.domain.profiles import Interaction
from tests.unit.training.synthetic import arrays_of
from training.counting import count
from training.data import Vocabulary, raw_events
from training.model import fit


def test_transitions_count_directed_pairs_by_distance() -> None:
    """If a comes, then b, then c, that counts a->b and b->c once, a->c half, nothing backwards."""
    _, interactions = arrays_of({"u": ["a", "b", "c"]})
    transitions = count(interactions).transitions
    owners, columns, values = transitions.gather(np.arange(3))
    assert list(zip(owners.tolist(), columns.tolist(), values.tolist(), strict=True)) == [(0, 1, 1.0), (0, 2, 0.5), (1, 2, 1.0)]


def test_duplicates_and_users_borders_count_nothing() -> None:
    """An item repeated does not follow itself, is had once, and one user's last item does not lead to the next user's first."""
    _, interactions = arrays_of({"u": ["a", "a"], "v": ["b"]})
    counts = count(interactions)
    assert counts.transitions.indices.tolist() == []
    assert counts.together.indices.tolist() == []
    assert counts.users.tolist() == [1.0, 1.0]


def test_rows_are_pruned_to_their_best() -> None:
    """Memory is bounded: each row keeps its largest counts."""
    _, interactions = arrays_of({f"u{n}": ["hub", f"x{n % 5}"] for n in range(12)})
    counts = count(interactions, neighbours=2)
    assert np.diff(counts.together.indptr).max() == 2
    _, _, values = counts.transitions.gather(np.array([0]))
    assert values.tolist() == [3.0, 3.0]
    assert counts.mass[0] == 12.0


def test_an_unwanted_item_says_nothing_of_taste() -> None:
    """Hidden items are in no count and no factor."""
    events = raw_events([("u", "a", "click", 0.0), ("u", "b", "hide", 1.0), ("v", "a", "click", 0.0), ("v", "c", "click", 1.0)])
    vocabulary = Vocabulary.of([events])
    model = fit(vocabulary.encode(events), vocabulary.item_ids)
    scores = model.sparse_source().fold_in([_click("a")])
    assert (scores.cosine > 0).tolist() == [False, False, True]
    assert model.popularity.tolist() == [1.0, 0.0, 0.5]


def test_cosine_is_that_of_the_user_columns() -> None:
    """The cosine score of one interaction is the cosine of the two items' columns."""
    _, interactions = arrays_of({"u": ["a", "b"], "v": ["a"], "w": ["b", "a"]})
    model = fit(interactions, (ItemId("a"), ItemId("b")))
    scores = model.sparse_source().fold_in([_click("a")])
    assert scores.cosine[1] == pytest.approx(2 / np.sqrt(3 * 2))


def _click(item: str) -> Interaction:
    return Interaction(ItemId(item), "click", datetime(2024, 1, 1, tzinfo=UTC))
