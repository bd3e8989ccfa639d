"""Candidates of a decision as they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import ItemId
from server.domain.decisions import PackedIds, pack_ids
from server.errors import CorruptDataError

ids = st.lists(st.text().map(ItemId), max_size=30).map(tuple)


@given(ids)
def test_packed_ids_are_those_that_were_packed(given_ids: tuple[ItemId, ...]) -> None:
    """Whatever the ids, they come back in their order, equal to the tuple, and are not packed a second time."""
    packed = PackedIds(pack_ids(given_ids))
    assert packed == given_ids
    assert given_ids == packed
    assert (len(packed), tuple(packed), packed[:2]) == (len(given_ids), given_ids, given_ids[:2])
    assert pack_ids(packed) is packed.packed


@given(ids, ids)
def test_packed_ids_differ_where_the_ids_do(one: tuple[ItemId, ...], other: tuple[ItemId, ...]) -> None:
    """Two lists are equal when their ids are."""
    assert (PackedIds(pack_ids(one)) == PackedIds(pack_ids(other))) == (one == other)


def test_damaged_ids_are_an_error_when_someone_looks() -> None:
    """Bytes that are no packed list can be passed on, but not read."""
    with pytest.raises(CorruptDataError, match="candidates"):
        len(PackedIds(b"\0"))
