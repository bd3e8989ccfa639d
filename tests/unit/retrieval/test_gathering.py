from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.retrieval.gathering import Gathering
from server.retrieval.index import ItemIndex
from server.retrieval.vector_rows import FloatArray
from server.retrieval.view import Ask

COUNT, DIMENSION = 300, 24


def filled() -> tuple[ItemIndex, FloatArray]:
    """Returns an index and queries."""
    rng = np.random.default_rng(1)
    index = ItemIndex(DIMENSION, background=False)
    items = [Item(item_id=ItemId(f"i{number}"), title="") for number in range(COUNT)]
    index.upsert(items, rng.standard_normal((COUNT, DIMENSION)).astype(np.float32))
    return index, rng.standard_normal((40, DIMENSION)).astype(np.float32)


async def test_waiting_searches_are_answered_together_and_each_as_alone() -> None:
    """Searches that come while the only thread is busy get the rows that each gets alone, under its own filter and k."""
    index, queries = filled()
    view, rng = index.view(), np.random.default_rng(2)
    asks = [Ask(query, 3 + place % 5, rng.random(COUNT) < 0.5 if place % 2 else None) for place, query in enumerate(queries)]
    with ThreadPoolExecutor(1) as executor:
        gate = threading.Event()
        executor.submit(gate.wait)
        gathering = Gathering(executor, threads=1)
        waiting = [asyncio.ensure_future(gathering.nearest(view, ask)) for ask in asks]
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*waiting)
    for ask, rows in zip(asks, found, strict=True):
        assert set(rows.tolist()) == set(view.search_now(ask.query, ask.k, where=ask.where).rows[0].tolist())


@pytest.mark.parametrize("short", [False, True])
async def test_each_search_sees_its_own_moment(*, short: bool) -> None:
    """A search asked of an older view does not see what was written since, even when it waits beside newer ones."""
    index, queries = filled()
    old = index.view()
    index.upsert([Item(item_id=ItemId("new"), title="")], 100 * queries[:1])
    with ThreadPoolExecutor(1) as executor:
        gathering = Gathering(executor, threads=1)
        found = await asyncio.gather(
            *(gathering.nearest(view, Ask(queries[0], 1), short=short) for view in (old, index.view(), old, index.view()))
        )
    assert [int(rows[0]) == COUNT for rows in found] == [False, True, False, True]


@pytest.mark.parametrize("short", [False, True])
async def test_a_bad_search_fails_alone(*, short: bool) -> None:
    """One bad query among searches that are answered together fails by name; the others are answered, and so are later ones."""
    index, queries = filled()
    view = index.view()
    with ThreadPoolExecutor(1) as executor:
        gathering = Gathering(executor, threads=1)
        bad = Ask(np.full(DIMENSION, np.nan, np.float32), 3)
        asks = [Ask(queries[0], 3), Ask(queries[1], 3), bad, Ask(queries[2], 3)]
        found = await asyncio.gather(*(gathering.nearest(view, ask, short=short) for ask in asks), return_exceptions=True)
        assert [isinstance(one, InvalidFieldError) for one in found] == [False, False, True, False]
        assert len(await gathering.nearest(view, asks[0], short=short)) == 3


async def test_more_short_searches_than_a_batch_are_all_answered() -> None:
    """Hundreds of searches in one turn of the loop are each answered as alone."""
    index, queries = filled()
    asks = [Ask(queries[place % 40], 1 + place % 3) for place in range(200)]
    found = await asyncio.gather(*(index.nearest(index.view(), ask.query, ask.k) for ask in asks))
    for ask, rows in zip(asks, found, strict=True):
        assert set(rows.tolist()) == set(index.search_now(ask.query, ask.k).rows[0].tolist())


@pytest.mark.parametrize("short", [False, True])
async def test_a_search_that_is_given_up_harms_no_other(*, short: bool) -> None:
    """When a request is cancelled while its search waits, the searches beside it are answered."""
    index, queries = filled()
    with ThreadPoolExecutor(1) as executor:
        gathering = Gathering(executor, threads=1)
        waiting = [asyncio.ensure_future(gathering.nearest(index.view(), Ask(query, 2), short=short)) for query in queries[:5]]
        await asyncio.sleep(0)
        waiting[2].cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in found] == [False, False, True, False, False]


@pytest.mark.parametrize("k", [1, 7, 400])
async def test_the_index_answers_the_same_without_order(k: int) -> None:
    """Rows asked for without order are those of the ordered search."""
    index, queries = filled()
    found = await index.nearest(index.view(), queries[0], k)
    assert sorted(found.tolist()) == sorted(index.search_now(queries[0], k).rows[0].tolist())
