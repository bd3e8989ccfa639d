"""What full collections visit, and that dead cycles do not stay."""

from __future__ import annotations

import asyncio
import gc
import weakref

from server.garbage import sparing_collections
from tests.eventually import eventually


class Node:
    """Refers to itself, so only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


async def test_what_survives_is_not_visited_again() -> None:
    """Objects that lived through a full collection are frozen, and thawed at the end."""
    async with sparing_collections():
        kept = [Node() for _ in range(1000)]
        gc.collect()
        assert not {id(one) for one in gc.get_objects()} & {id(one) for one in kept}
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


async def test_a_frozen_cycle_that_dies_is_found() -> None:
    """A cycle dropped after it was frozen is freed by a collection of everything."""
    async with sparing_collections(every_s=0.01):
        node = Node()
        gc.collect()
        gone = weakref.ref(node)
        del node

        async def freed() -> bool:
            return gone() is None

        await eventually(freed)


async def test_two_servers_in_a_process_end_in_any_order() -> None:
    """The callbacks of both are gone when both ended."""
    before = len(gc.callbacks)
    one, other = sparing_collections(), sparing_collections()
    await one.__aenter__()
    await other.__aenter__()
    await one.__aexit__(None, None, None)
    await asyncio.sleep(0)
    await other.__aexit__(None, None, None)
    assert len(gc.callbacks) == before
