from __future__ import annotations

import numpy as np
import pytest

from training.data import Interactions
from training.growth.generate import generate


@pytest.mark.parametrize(("events", "items"), [(1, 1), (100, 3), (5000, 200)])
def test_data_is_of_the_size_asked_for_and_in_order(events: int, items: int) -> None:
    """There are exactly so many events, rows stay below the number of items, and each user's times rise."""
    found = generate(events, items)
    assert len(found.users) == len(found.items) == len(found.times) == events
    assert found.items.min() >= 0
    assert found.items.max() < items
    np.testing.assert_array_equal(found.select(np.ones(events, np.bool_)).items, found.items)
    np.testing.assert_array_equal(np.diff(found.starts), np.bincount(found.users, minlength=found.user_count))


def test_a_seed_decides_everything() -> None:
    """The same arguments give the same arrays, another seed others."""
    first, again, other = generate(2000, 80), generate(2000, 80), generate(2000, 80, seed=1)
    assert _same(first, again)
    assert not _same(first, other)


def test_the_next_item_can_be_told_from_the_last() -> None:
    """An item's most frequent follower comes far more often than the most popular item does."""
    found = generate(20_000, 200)
    pairs = np.zeros((200, 200))
    same = found.users[1:] == found.users[:-1]
    np.add.at(pairs, (found.items[:-1][same], found.items[1:][same]), 1)
    busy = pairs.sum(axis=1) >= 100
    followed = (pairs.max(axis=1) / np.maximum(pairs.sum(axis=1), 1))[busy].mean()
    popular = np.bincount(found.items).max() / len(found.items)
    assert followed > 1.5 * popular


def _same(one: Interactions, other: Interactions) -> bool:
    return len(one.starts) == len(other.starts) and np.array_equal(one.items, other.items) and np.array_equal(one.times, other.times)
