"""A short wait before a call is refused, by priority.

Calls that come together are not overload: they wait their turn, first come first served, for at most a tenth of a second. If somebody
has been waiting for half of that without a break, more comes than can be done, and a queue would only make everyone late. From then on,
until nobody has been refused for a second, a call waits 5 ms, the newest goes first, since its caller is the likeliest to be still there,
and batch calls are refused at once.

Calls can only be compared, or refused, once they are here. gRPC hands one over in a turn or two of the event loop, and steps of running
calls make a turn last milliseconds; what comes meanwhile waits inside gRPC, and under lasting overload for ever longer. So, unless the
server is at rest, a place is given away when no call has been handed over for a millisecond.

Source: B. Maurer, "Fail at Scale", ACM Queue 13 (2015), for controlled delay and adaptive LIFO in front of a server.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from server.errors import OverloadedError
from server.limits.concurrency import ConcurrencyLimit, Permit

PATIENCE_S = 0.1
"""The longest wait."""
STANDING_S = 0.05
"""For how long there may be a queue before it counts as overload."""
HURRY_S = 0.005
"""The longest wait under overload."""
LASTS_S = 1.0
"""How long a refusal counts as overload."""

_REST_S = 0.002
"""A server that ran nothing for so long is at rest."""
_HANDED_OVER_S = 0.001
_HAND_OVERS = 10
"""The longest wait for calls to be handed over, in spans of `_HANDED_OVER_S`."""
_RETRY_S = 0.5
_SPREAD = 16


class Priority(IntEnum):
    """Who goes first. Under overload batch calls are refused at once."""

    INTERACTIVE = 0
    DEFAULT = 1
    BATCH = 2


class WaitingRoom:
    """Lets calls in as the limit allows. One event loop."""

    def __init__(self, limit: ConcurrencyLimit, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Stores its arguments."""
        self._limit = limit
        self._clock = clock
        self._queues: tuple[deque[asyncio.Future[Permit]], ...] = tuple(deque() for _ in Priority)
        self._empty_s = clock()
        self._left_s = self._refused_s = float("-inf")
        self._arrived = self._refused = 0
        self._calling: asyncio.Task[None] | None = None

    @property
    def overloaded(self) -> bool:
        """Whether somebody has been waiting without a break for too long, or was refused a moment ago."""
        now = self._clock()
        return now - self._refused_s < LASTS_S or (any(self._queues) and now - self._empty_s > STANDING_S)

    async def enter(self, priority: Priority) -> Permit:
        """Waits for a turn. Whoever entered must leave.

        Raises:
            OverloadedError: There was none in time.
        """
        self._arrived += 1
        if not any(self._queues):
            self._empty_s = self._clock()
            if not self._limit.running and self._empty_s - self._left_s > _REST_S:
                return self._limit.start()
        overloaded = self.overloaded
        if overloaded and priority is Priority.BATCH:
            raise self._refusal()
        turn: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        queue = self._queues[priority]
        queue.append(turn)
        self._call_soon()
        try:
            async with asyncio.timeout(HURRY_S if overloaded else PATIENCE_S):
                return await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                return turn.result()
            raise self._refusal() from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._limit.withdraw()
                self._call_soon()
            raise
        finally:
            if turn in queue:
                queue.remove(turn)

    def leave(self, method: str, permit: Permit, *, answered: bool) -> None:
        """Ends a call, as `ConcurrencyLimit.end` has it, and lets the next in."""
        self._limit.end(method, permit, answered=answered)
        self._left_s = self._clock()
        if any(self._queues):
            self._call_soon()

    def _call_soon(self) -> None:
        if self._calling is None:
            self._calling = asyncio.create_task(self._call())

    async def _call(self) -> None:
        """Waits until those that came are here, and lets in whom the limit allows."""
        for _ in range(_HAND_OVERS):
            seen = self._arrived
            await asyncio.sleep(_HANDED_OVER_S)
            if seen == self._arrived:
                break
        self._calling = None
        for queue in self._queues:
            while queue:
                if not self._limit.free:
                    return
                turn = queue.pop() if self.overloaded else queue.popleft()
                if not turn.done():
                    turn.set_result(self._limit.start())
        self._empty_s = self._clock()

    def _refusal(self) -> OverloadedError:
        self._refused += 1
        self._refused_s = self._clock()
        # Spread, so that those who were refused together do not come back together.
        wait_s = _RETRY_S * (1 + self._refused % _SPREAD / _SPREAD)
        return OverloadedError("more calls come than can be answered in time; retry after the delay", retry_after_s=wait_s)
