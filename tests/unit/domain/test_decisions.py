"""Lists and candidates of a decision as they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import ItemId
from server.domain.decisions import PackedIds, Ranking, pack_ids
from server.errors import CorruptDataError

ids = st.lists(st.text().map(ItemId), max_size=30).map(tuple)
figures = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=9).map(tuple)
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])).map(ItemId), max_size=9).map(tuple)


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


@given(texts, figures, figures, figures)
def test_a_ranking_is_what_was_put_into_it(
    items: tuple[ItemId, ...], scores: tuple[float, ...], propensities: tuple[float, ...], probabilities: tuple[float, ...]
) -> None:
    """Whatever the ids and figures, they come back from the text to the last bit, and texts of the same are equal."""
    made = Ranking.of(items, scores, propensities, probabilities)
    read = Ranking(made.text)
    assert (read.items, read.scores, read.propensities, read.probabilities) == (items, scores, propensities, probabilities)
    assert read == Ranking(f" {made.text}")
    assert read != Ranking.of((*items, ItemId("another")), scores, propensities, probabilities)


@pytest.mark.parametrize("text", ["", "[]", "1", '{"items": 1}'])
def test_a_damaged_ranking_is_an_error_when_someone_looks(text: str) -> None:
    """A text that is no ranking can be passed on, but not read."""
    with pytest.raises(CorruptDataError, match="items"):
        _ = Ranking(text).items
