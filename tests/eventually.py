"""Waiting for what another process or task does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(holds: Callable[[], Awaitable[object]], *, within_s: float = 60.0) -> None:
    """Returns once `holds` is true. The limit is for a broken product, not a measure of it.

    Raises:
        TimeoutError: It did not become true.
    """
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110  # what is waited for happens elsewhere and sets no event of ours
            await asyncio.sleep(0.01)
