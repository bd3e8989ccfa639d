"""Background work by name: never twice at once, tried until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from server.errors import AisleError
from server.telemetry import logger

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_log = logger(__name__)

Work = Callable[[], Awaitable[object]]


class Chores:
    """Runs work in the background. Asked again while a chore runs, it runs once more after, however often it was asked."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._again: set[Hashable] = set()

    def ask(self, name: Hashable, work: Work) -> None:
        """Sees to it that the work is done after this call."""
        if name in self._tasks:
            self._again.add(name)
        else:
            self._tasks[name] = asyncio.create_task(self._do(name, work), name=str(name))

    async def close(self) -> None:
        """Cancels what is left."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, name: Hashable, work: Work) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                self._again.discard(name)
                try:
                    await work()
                except AisleError as error:
                    _log.warning("chore failed", chore=name, reason=error.message, retry_s=pause_s)
                except Exception:  # noqa: BLE001  # one bad chore must not end the process
                    _log.exception("chore failed", chore=name, retry_s=pause_s)
                else:
                    if name not in self._again:
                        return
                    continue
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            del self._tasks[name]
