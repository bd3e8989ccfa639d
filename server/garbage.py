"""Python's cycle collector, kept from visiting again and again what lives long.

A full collection visits every object there is, on whatever thread allocates at the moment: 150 ms with one tenant of 2,400 items, each
second or two under load, while no call goes on. Here what survived one is frozen (`gc.freeze`), so that the next visits only what came
since. A frozen cycle that dies is found when everything is thawed and collected: once a minute, or seldomer where that takes so long
that it would be more than a four-hundredth of the time.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_EVERY_S = 60.0
_SHARE = 0.0025
"""Of the time, at most, for collections of everything."""


@asynccontextmanager
async def sparing_collections(*, every_s: float = _EVERY_S) -> AsyncIterator[None]:
    """Freezes what survives full collections until the block ends.

    Args:
        every_s: Seconds between collections of everything, at least.
    """
    gc.callbacks.append(_freeze)
    gc.collect()
    thawing = asyncio.create_task(_thaw(every_s))
    try:
        yield
    finally:
        thawing.cancel()
        gc.callbacks.remove(_freeze)
        gc.unfreeze()


def _freeze(phase: str, info: dict[str, int]) -> None:
    """Called by the collector before and after each collection, wherever that comes, so it must take no lock."""
    if phase == "stop" and info["generation"] == 2:  # the oldest
        gc.freeze()


async def _thaw(every_s: float) -> None:
    pause_s = every_s
    while True:
        await asyncio.sleep(pause_s)
        started = time.perf_counter()
        gc.unfreeze()
        gc.collect()
        pause_s = max(every_s, (time.perf_counter() - started) / _SHARE)
