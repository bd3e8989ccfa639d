"""Keeps each user's last vector beside the profile, where exports and other programs read it. Nothing here serves requests from it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from server.domain import BundleId, TenantId, UserId
from server.errors import AisleError, UnavailableError
from server.service.recommendation import Recommendations
from server.store.database import Database
from server.store.profiles import save_embeddings
from server.telemetry import logger

_WAITING = 2000
"""Users that may wait. Past it others are passed over: their next event brings them back."""

_ROUND = 100
"""Users written in a round: some 0.3 s of a core, so that what nobody waits for never takes more than a tenth of one."""

_TOGETHER = 20
"""Users written in a transaction. While it lasts, events of these users wait to be applied."""

_WRITE_S = 5.0
_log = logger(__name__)


class UserVectors:
    """Writes the vectors of users whose events were applied, off every request's path.

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
                for start in range(0, len(round_), _TOGETHER):
                    await self._write(round_[start : start + _TOGETHER])
            except UnavailableError as error:
                _log.warning("user vectors not kept", users=len(round_), reason=error.message)
            except Exception:  # noqa: BLE001  # one bad round must not end the writer
                _log.exception("user vectors not kept", users=len(round_))

    async def _write(self, users: list[tuple[TenantId, UserId]]) -> None:
        """Writes those of one tenant and bundle in one transaction."""
        made: dict[tuple[TenantId, BundleId], dict[UserId, NDArray[np.float32]]] = {}
        for tenant_id, user_id in users:
            try:
                moment = await self._recommendations.user_vector(tenant_id, user_id, token="", deadline=time.monotonic() + _WRITE_S)
            except UnavailableError:
                raise
            except AisleError as error:
                _log.warning("user vector not kept", tenant=tenant_id, reason=error.message)
            else:
                made.setdefault((tenant_id, moment.catalogue.bundle_id), {})[user_id] = moment.user.query
        for (tenant_id, bundle_id), vectors in made.items():
            async with self._database.tenant(tenant_id, timeout_s=_WRITE_S) as connection:
                await save_embeddings(connection, tenant_id, vectors, bundle_id)
