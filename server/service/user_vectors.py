"""Keeps each user's last vector beside the profile, where exports and other programs read it. Nothing here serves requests from it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from server.domain import TenantId, UserId
from server.errors import AisleError, UnavailableError
from server.service.recommendation import Recommendations
from server.store.database import Database
from server.store.profiles import save_embedding
from server.telemetry import logger

_WAITING = 2000
"""Users that may wait. Past it others are passed over: their next event brings them back."""

_ROUND = 100
"""Users written in a round: some 0.3 s of a core, so that what nobody waits for never takes more than a tenth of one."""

_WRITE_S = 5.0
_log = logger(__name__)


class UserVectors:
    """Writes the vectors of users whose events were applied, one after another, off every request's path.

    Rounds are at least `pause_s` seconds apart and hold a user once, so a user costs at most one write in that time; those beyond a round's
    size wait for the next. While the database is down a round is given up: the column may be a few events old, and the requests compute
    their own vectors.
    """

    def __init__(self, database: Database, recommendations: Recommendations, *, pause_s: float = 3.0) -> None:
        self._database = database
        self._recommendations = recommendations
        self._pause_s = pause_s
        self._due: dict[tuple[TenantId, UserId], None] = {}
        self._wake = asyncio.Event()

    def note(self, tenant_id: TenantId, users: Iterable[UserId]) -> None:
        """Hears that events of these users were applied. Never blocks."""
        for user_id in users:
            if len(self._due) < _WAITING:
                self._due[tenant_id, user_id] = None
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[UserVectors]:
        """Writes while the context is open. What waits at the end is dropped: it can be computed again."""
        writer = asyncio.create_task(self._write_forever(), name="user-vectors")
        try:
            yield self
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._pause_s)
            self._wake.clear()
            round_ = list(itertools.islice(self._due, _ROUND))
            for one in round_:
                del self._due[one]
            if self._due:
                self._wake.set()
            try:
                for tenant_id, user_id in round_:
                    await self._write(tenant_id, user_id)
            except UnavailableError as error:
                _log.warning("user vectors not kept", users=len(round_), reason=error.message)
            except Exception:  # noqa: BLE001  # one bad user must not end the writer
                _log.exception("user vectors not kept", users=len(round_))

    async def _write(self, tenant_id: TenantId, user_id: UserId) -> None:
        deadline = time.monotonic() + _WRITE_S
        try:
            moment = await self._recommendations.user_vector(tenant_id, user_id, token="", deadline=deadline)
            async with self._database.tenant(tenant_id, timeout_s=_WRITE_S) as connection:
                await save_embedding(connection, tenant_id, user_id, moment.user.query, moment.catalogue.bundle_id)
        except UnavailableError:
            raise
        except AisleError as error:
            _log.warning("user vector not kept", tenant=tenant_id, reason=error.message)
