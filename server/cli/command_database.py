"""The database (and Redis) of one command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from server.domain import TenantId
from server.embedded import Parts, parts_for_command
from server.errors import NotFoundError
from server.settings import Settings
from server.store import Connection, Database, open_database
from server.store.migrate import migrate
from server.store.tenants import tenant_exists

_Result = TypeVar("_Result")


def run(work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Returns what the work returns; Ctrl-C cancels it, so that transactions roll back and own parts stop."""
    return asyncio.run(work())


def show_progress(line: str) -> None:
    """Writes a line on stderr, so that stdout holds results only."""
    click.echo(line, err=True)


@asynccontextmanager
async def command_parts(*, redis: bool = False, migrated: bool = True) -> AsyncIterator[Parts]:
    """Yields the configured parts, the running instance's, or own ones for the duration.

    Args:
        redis: Whether the command needs Redis.
        migrated: Whether to migrate an embedded database. A configured one never is: changing the schema of a shared database is
            `aisle migrate`'s, asked for by name.
    """
    settings = Settings()
    async with parts_for_command(
        data_dir=settings.data_dir,
        configured_database_url=settings.database_url,
        configured_redis_url=settings.redis_url,
        redis=redis,
        progress=show_progress,
    ) as parts:
        if migrated and not settings.database_url:
            await migrate(parts.database_url)
        yield parts


@asynccontextmanager
async def command_database() -> AsyncIterator[Database]:
    """Yields the database that `command_parts` finds, without Redis."""
    async with command_parts() as parts, open_database(parts.database_url, max_connections=4) as database:
        yield database


async def require_tenant(connection: Connection, tenant_id: TenantId) -> None:
    """Refuses a tenant that does not exist.

    Raises:
        NotFoundError: It does not.
    """
    if not await tenant_exists(connection, tenant_id):
        raise NotFoundError(f"tenants/{tenant_id}", f"tenant {tenant_id} does not exist; run `aisle tenants create {tenant_id}`")
