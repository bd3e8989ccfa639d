"""`aisle import`: items, users and events from files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from server.cli.aws_filters import aws_filters
from server.cli.command_database import command_parts, run
from server.cli.import_batches import Batches, Read, Rejects, read_ahead
from server.cli.import_files import Source, open_source
from server.cli.import_rows import COLUMNS, REQUIRED, EventReader, item_of, user_of
from server.domain import Event, TenantId, UserId
from server.domain.history import subject_of
from server.errors import AbortedError, AisleError, FailedPreconditionError, UnavailableError
from server.store import Connection, Database, open_database
from server.store.events import apply_events
from server.store.identities import identify
from server.store.items import upsert_items
from server.store.tenants import ensure_tenant, parse_tenant_id
from server.store.users import User, upsert_users

_RETRIES_S = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Pauses before a batch is tried again: an embedded database that died is back within a second or two."""

Write = Callable[[Connection, TenantId, Sequence[Any]], Awaitable[Mapping[str, int]]]


async def _write_items(connection: Connection, _tenant_id: TenantId, batch: Sequence[Any]) -> Mapping[str, int]:
    return asdict(await upsert_items(connection, batch))


async def _write_users(connection: Connection, _tenant_id: TenantId, batch: Sequence[User]) -> Mapping[str, int]:
    return asdict(await upsert_users(connection, batch))


async def _write_events(connection: Connection, tenant_id: TenantId, batch: Sequence[Event]) -> Mapping[str, int]:
    counted = len(await apply_events(connection, tenant_id, await identify(connection, tenant_id, batch)))
    return {"counted": counted, "known": len(batch) - counted}


@dataclass(slots=True)
class Report:
    """What an import did so far."""

    tenant: str
    tenant_created: bool
    rows: int = 0
    rejected: int = 0
    rejected_file: str = ""
    unread_columns: list[str] = field(default_factory=list)
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, batch: Sequence[Any], counts: Mapping[str, int]) -> None:
        """Adds a batch that was written."""
        self.rows += len(batch)
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


@contextlib.contextmanager
def _progress(label: str, source: Source) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on stderr when that is a terminal; yields what to call with the position and the rows done."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=max(1, source.size), rows=0)
        yield lambda position, rows: progress.update(task, completed=position, rows=rows)


async def _write_batch(database: Database, tenant_id: TenantId, write: Write, batch: Sequence[Any]) -> Mapping[str, int]:
    """Writes a batch whole or not at all, again after a conflict or a lost connection; what was committed unnoticed counts as known."""
    for pause_s in _RETRIES_S:
        try:
            async with database.tenant(tenant_id) as connection:
                return await write(connection, tenant_id, batch)
        except (UnavailableError, AbortedError):
            await asyncio.sleep(pause_s)
    async with database.tenant(tenant_id) as connection:
        return await write(connection, tenant_id, batch)


def _ways(tenant_id: TenantId) -> dict[str, tuple[Read, Write]]:
    return {"items": (item_of, _write_items), "users": (user_of, _write_users), "events": (EventReader(tenant_id), _write_events)}


def _touched(batch: Sequence[Any]) -> list[UserId]:
    """Returns the users whose profiles a batch changes; none for items."""
    return sorted({subject_of(value) if isinstance(value, Event) else value.user_id for value in batch if isinstance(value, Event | User)})


Forget = Callable[[TenantId, Sequence[UserId]], Awaitable[None]]


@asynccontextmanager
async def _forgetting(redis_url: str) -> AsyncIterator[Forget]:
    """Yields what makes servers forget users' profiles; while Redis is down they forget them when the entries expire."""
    from server.cache import Cache, MemoryCache
    from server.cache.shared import SharedCache
    from server.service.users import PROFILES
    from server.stream import Invalidations, connect

    client = connect(redis_url, timeout_s=1.0)
    cache = Cache(MemoryCache(0), SharedCache(client), Invalidations(client).publish)
    try:
        yield lambda tenant_id, users: cache.invalidate(tenant_id, PROFILES, users)
    finally:
        await client.aclose()


async def _keep(_tenant_id: TenantId, _users: Sequence[UserId]) -> None:
    """Forgets nothing: of items, servers hear from the database."""


async def import_file(database: Database, forget: Forget, kind: str, path: Path, tenant: str) -> Report:
    """Imports a file of items, users or events into a tenant, which is made if missing.

    `forget` is called after each batch with the users whose profiles changed.
    Batches commit one by one, and rows that are there already are left alone, so an import that stopped is continued by running it again.

    Raises:
        InvalidFieldError: The file as a whole cannot be read, or the tenant's name is wrong.
        UnavailableError: The database went away and did not come back within seconds; the message says how far the import came.
    """
    tenant_id = parse_tenant_id(tenant)
    source = open_source(path, COLUMNS[kind], REQUIRED[kind])
    read, write = _ways(tenant_id)[kind]
    started = time.monotonic()
    with contextlib.closing(source.rows), Rejects(path) as rejects, _progress(f"{kind} {path.name}", source) as show:
        async with database.system() as connection:
            report = Report(tenant=tenant, tenant_created=await ensure_tenant(connection, tenant_id))
        batches = Batches(source, read, COLUMNS[kind], rejects)
        try:
            async with aclosing(read_ahead(batches)) as coming:
                async for batch in coming:
                    report.add(batch, await _write_batch(database, tenant_id, write, batch))
                    await forget(tenant_id, _touched(batch))
                    show(batches.position, report.rows)
        except AisleError as error:
            error.message += f"; {report.rows} rows are in, run the same command again to continue"
            error.args = (error.message,)
            raise
    report.rejected, report.rejected_file = batches.rejected, str(rejects.path.resolve()) if rejects.path else ""
    report.unread_columns = list(batches.unread)
    report.seconds = time.monotonic() - started
    return report


@click.group("import")
def import_() -> None:
    """Import items, users or events from a JSONL, CSV or Parquet file, or filters of AWS Personalize.

    An import that was interrupted is continued by running it again.
    """


def _command(kind: str, summary: str) -> None:
    @import_.command(kind, help=summary)
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
    @click.option("--tenant", required=True, help="Name of the tenant; made if missing.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    def command(file: Path, tenant: str, as_json: bool) -> None:
        async def work() -> Report:
            async with AsyncExitStack() as stack:
                parts = await stack.enter_async_context(command_parts(redis=kind != "items"))
                database = await stack.enter_async_context(open_database(parts.database_url, max_connections=4))
                forget = _keep if kind == "items" else await stack.enter_async_context(_forgetting(parts.redis_url))
                return await import_file(database, forget, kind, file, tenant)

        try:
            report = run(work)
        except KeyboardInterrupt:
            click.echo("aisle: interrupted; whole batches are in, run the same command again to continue", err=True)
            raise SystemExit(1) from None
        _print(report, as_json=as_json)


_command("items", f"Import items. Columns: {', '.join(COLUMNS['items'])}; item_id and title are needed.")
_command("users", f"Import users. Columns: {', '.join(COLUMNS['users'])}; user_id is needed.")
_command(
    "events", f"Import events. Columns: {', '.join(COLUMNS['events'])}; user_id (or anonymous_id), event_type and occurred_at are needed."
)


import_.add_command(aws_filters)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2).decode())
    else:
        if report.tenant_created:
            click.echo(f"created tenant {report.tenant}, which did not exist")
        counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items()) or "no rows"
        rate = report.rows / report.seconds if report.seconds else 0.0
        click.echo(f"{counts}, {report.rejected:,} rejected in {report.seconds:.1f} s ({rate:,.0f} rows/s)")
    if report.unread_columns:
        click.echo(f"not read: {', '.join(report.unread_columns[:20])}", err=True)
    if report.rejected:
        click.echo(f"bad rows: {report.rejected_file}", err=True)
    if report.rejected and not report.rows:
        raise FailedPreconditionError("no row could be imported")
