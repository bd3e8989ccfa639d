"""Takes a permit before any work, or refuses."""

from __future__ import annotations

from google.protobuf.message import Message

from server.errors import OverloadedError
from server.interceptors.call import Call
from server.interceptors.chain import Handler
from server.telemetry import IN_FLIGHT


class Admission:
    """At most `limit` calls at once, both doors together. Counts, so that a drain can wait for the last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls admitted and not yet answered."""
        return self._in_flight

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Answers the call if there is room.

        Raises:
            OverloadedError: There is none.
        """
        if self._in_flight >= self._limit:
            raise OverloadedError(f"{self._limit} calls are in flight; retry in half a second", retry_after_s=0.5)
        self._in_flight += 1
        IN_FLIGHT.inc()
        try:
            return await handler(call, request)
        finally:
            self._in_flight -= 1
            IN_FLIGHT.dec()
