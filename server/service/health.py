"""Whether this process serves, and which parts are down meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from server.errors import UnavailableError
from server.telemetry import PART_UP

_ANSWER_S = 1.0

Check = Callable[[], Awaitable[object]]
"""Asks a part something small; raises when it does not answer."""


class Health:
    """Ready means: not stopping. Reads go on without any one part, so a part that is down takes no process out of service."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        """`checks`: By the part's name in `aisle_part_up`."""
        self._checks = checks
        self.stopping = False

    async def missing(self) -> Sequence[str]:
        """Returns what keeps this process from serving."""
        return ["stopping"] if self.stopping else []

    async def degraded(self) -> Sequence[str]:
        """Returns a line for each part that does not answer within a second, and sets `aisle_part_up` for all."""
        faults = await asyncio.gather(*(_fault_of(check) for check in self._checks.values()))
        for part, fault in zip(self._checks, faults, strict=True):
            PART_UP.labels(part).set(not fault)
        return [f"{part}: {fault}" for part, fault in zip(self._checks, faults, strict=True) if fault]


async def _fault_of(check: Check) -> str:
    """Returns what is wrong with a part; empty when it answers."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            await check()
    except TimeoutError:
        return f"does not answer within {_ANSWER_S:g} s"
    except UnavailableError as error:
        return error.message.removeprefix(f"{error.part}: ")
    except Exception as error:  # noqa: BLE001  # a part that fails a check, in whatever way, is down
        return str(error) or type(error).__name__
    return ""
