from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ids import ItemId
from server.domain.profiles import Interaction
from tests.unit.training.synthetic import arrays_of
from training.counting import Part, blocks, count
from training.data import Vocabulary, raw_events
from training.growth.generate import generate
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
    scores = model.sparse_source().fold_in([_click("a")]).of_all(3)
    assert (scores.cosine > 0).tolist() == [False, False, True]
    assert model.popularity.tolist() == [1.0, 0.0, 0.5]


def test_cosine_is_that_of_the_user_columns() -> None:
    """The cosine score of one interaction is the cosine of the two items' columns."""
    _, interactions = arrays_of({"u": ["a", "b"], "v": ["a"], "w": ["b", "a"]})
    model = fit(interactions, (ItemId("a"), ItemId("b")))
    scores = model.sparse_source().fold_in([_click("a")]).of_all(2)
    assert scores.cosine[1] == pytest.approx(2 / np.sqrt(3 * 2))


def _click(item: str) -> Interaction:
    return Interaction(ItemId(item), "click", datetime(2024, 1, 1, tzinfo=UTC))


@given(st.integers(0, 1000), st.integers(1, 4))
def test_parts_add_up_to_the_whole(seed: int, parts: int) -> None:
    """Counts of users in parts, added, are exactly those of counting everything at once, long histories included."""
    interactions = generate(900, 12, seed=seed)
    whole = Part(interactions)
    shares = [Part(interactions.select(interactions.users % parts == number)) for number in range(parts)]
    users = sum(share.users() for share in shares)
    np.testing.assert_array_equal(users, whole.users())
    np.testing.assert_array_equal(sum(share.costs() for share in shares), whole.costs())
    assert (sum(share.transitions() for share in shares) != whole.transitions()).nnz == 0
    assert (sum(share.together(3, 9) for share in shares) != whole.together(3, 9)).nnz == 0


@given(st.lists(st.integers(0, 40_000_000), max_size=20))
def test_blocks_cover_all_rows_once(costs: list[int]) -> None:
    """Blocks follow each other from the first row to the last, none empty."""
    found = blocks(np.array(costs, np.int64))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(len(costs)))
    assert all(stop > start for start, stop in found)
