"""The way to Postgres: a connection pool, a tenant's transaction, notifications."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import asyncpg
import numpy as np
import orjson
from asyncpg.pool import PoolConnectionProxy
from numpy.typing import NDArray

from server.domain import TenantId
from server.store.failures import CONNECTION_LOST, translated_errors
from server.telemetry import logger

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
"""A connection inside a transaction; what every function of the store takes."""

CHANGES = "aisle_changes"
"""Channel on which `TENANT:KIND` arrives when a commit changed the tenant's items, bundles, collections, aws_filters or shaping."""

_ENTER_TENANT = (
    "SELECT set_config('role', 'aisle_app', true), set_config('aisle.tenant_id', $1, true), set_config('statement_timeout', $2, true)"
)
_ENTER_SYSTEM = "SELECT set_config('statement_timeout', $1, true)"
_ACQUIRE_S = 10.0
Isolation: TypeAlias = Literal["repeatable_read"]
_log = logger(__name__)


class Database:
    """A pool of connections. All work runs in transactions; roles, tenants and timeouts end with them."""

    def __init__(self, url: str, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._url = url
        self._pool = pool

    @asynccontextmanager
    async def tenant(
        self, tenant_id: TenantId, *, timeout_s: float | None = None, isolation: Isolation | None = None
    ) -> AsyncIterator[Connection]:
        """Enters a transaction that sees and writes this tenant's rows only. Commits at the end, rolls back on an exception.

        Args:
            tenant_id: From a checked credential or the command line; rows written need not name it again.
            timeout_s: Seconds the caller still has, for getting a connection and for each statement. None: 10 s to get a connection.
            isolation: "repeatable_read": all statements see one moment.

        Raises:
            UnavailableError, DeadlineExceededError, AbortedError, InvalidArgumentError: As `translated_errors` says.
        """
        async with self._transaction(_ENTER_TENANT, tenant_id, timeout_s=timeout_s, isolation=isolation) as connection:
            yield connection

    @asynccontextmanager
    async def system(self, *, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """Enters a transaction of the owning role, which sees every tenant: sign-in, tenants, maintenance. Otherwise as `tenant`."""
        async with self._transaction(_ENTER_SYSTEM, timeout_s=timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def listen(self, channel: str, callback: Callable[[str], None]) -> AsyncIterator[None]:
        """Calls back with each notification's payload while the context is open, on a connection of its own.

        After a lost connection it listens anew, and calls back once with an empty payload: notifications may have been missed, look for
        yourself. The callback runs on the event loop and must not block.

        Raises:
            UnavailableError: The first connection fails.
        """
        with translated_errors():
            connection = await self._listener(channel, callback)
        keeper = asyncio.create_task(self._keep_listening(connection, channel, callback), name=f"listen-{channel}")
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _listener(self, channel: str, callback: Callable[[str], None]) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(self._url, timeout=_ACQUIRE_S)
        await connection.add_listener(channel, lambda _connection, _pid, _channel, payload: callback(str(payload)))
        return connection

    async def _keep_listening(self, connection: asyncpg.Connection[asyncpg.Record], channel: str, callback: Callable[[str], None]) -> None:
        delay_s = 0.05
        try:
            while True:
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _connection, lost=lost: lost.set())
                if not connection.is_closed():
                    await lost.wait()
                _log.warning("listener_lost", channel=channel, retry_s=delay_s)
                await asyncio.sleep(delay_s)
                try:
                    connection = await self._listener(channel, callback)
                except (TimeoutError, *CONNECTION_LOST):
                    delay_s = min(2 * delay_s, 1.0)
                    continue
                delay_s = 0.05
                callback("")
        finally:
            with contextlib.suppress(TimeoutError, *CONNECTION_LOST):
                await connection.close(timeout=2)

    @asynccontextmanager
    async def _transaction(
        self, enter: str, *arguments: str, timeout_s: float | None, isolation: Isolation | None = None
    ) -> AsyncIterator[Connection]:
        statement_timeout = "0" if timeout_s is None else str(max(1, int(timeout_s * 1000)))
        acquire_s = _ACQUIRE_S if timeout_s is None else timeout_s
        begun = partial(self._begun, enter, *arguments, statement_timeout, acquire_s=acquire_s, isolation=isolation)
        with translated_errors():
            async with AsyncExitStack() as stack:
                try:
                    connection = await stack.enter_async_context(begun())
                except TimeoutError:
                    raise
                except CONNECTION_LOST:  # pooled ones die unnoticed when their server restarts; nothing was asked of this one yet
                    await self._pool.expire_connections()
                    connection = await stack.enter_async_context(begun())
                yield connection

    @asynccontextmanager
    async def _begun(self, enter: str, *arguments: str, acquire_s: float, isolation: Isolation | None) -> AsyncIterator[Connection]:
        connection = await self._pool.acquire(timeout=acquire_s)
        try:
            async with connection.transaction(isolation=isolation):
                await connection.fetchrow(enter, *arguments)
                yield connection
        except CONNECTION_LOST:
            # Cut off in the middle of a COPY, a connection does not notice that it is closed, and would be handed out again.
            with contextlib.suppress(asyncpg.InterfaceError):  # or it did notice, and is back already
                connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


@asynccontextmanager
async def open_database(url: str, *, max_connections: int = 16) -> AsyncIterator[Database]:
    """Connects a pool and closes it at the end.

    The database must have been migrated. Connections that die, also all of them at once in a restart, are replaced when next used.

    Raises:
        UnavailableError: Nothing answers at the URL.
    """
    with translated_errors():
        pool = await asyncpg.create_pool(
            url,
            # A floor would make the pool reconnect on its own while the server is down, with a traceback in the log each time.
            min_size=0,
            max_size=max_connections,
            max_inactive_connection_lifetime=300,
            init=_prepare,
            # Roles, settings and staged rows end with the transaction: nothing is left to reset, and a round trip is saved.
            reset=_keep,
            timeout=_ACQUIRE_S,
            server_settings={"application_name": "aisle", "timezone": "UTC"},
        )
    try:
        with translated_errors():
            await pool.release(await pool.acquire(timeout=_ACQUIRE_S))
        yield Database(url, pool)
    finally:
        try:
            await asyncio.wait_for(pool.close(), timeout=5)
        except TimeoutError:
            pool.terminate()


async def _keep(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Leaves a released connection as it is."""


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Teaches a new connection jsonb as Python values and vector as float32 arrays."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", format="binary", encoder=_encode_jsonb, decoder=_decode_jsonb)
    schema = await connection.fetchval(
        "SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typname = 'vector'"
    )
    if schema is not None:
        await connection.set_type_codec("vector", schema=schema, format="binary", encoder=_encode_vector, decoder=_decode_vector)


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)  # the leading byte is the format's version


def _decode_jsonb(content: bytes) -> Any:
    return orjson.loads(content[1:])


def _encode_vector(vector: NDArray[np.float32]) -> bytes:
    # pgvector's wire format: uint16 dimensions, uint16 zero, then big-endian float32.
    return struct.pack(">HH", vector.shape[0], 0) + vector.astype(">f4").tobytes()


def _decode_vector(content: bytes) -> NDArray[np.float32]:
    return np.frombuffer(content, dtype=">f4", offset=4).astype(np.float32)
