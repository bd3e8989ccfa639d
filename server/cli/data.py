"""`aisle import`: items, users and events from files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from server.cli.command_database import command_parts, run
from server.cli.import_files import Row, Source, open_source
from server.cli.import_rows import COLUMNS, REQUIRED, EventReader, item_of, user_of
from server.domain import Event, TenantId
from server.errors import AbortedError, AisleError, FailedPreconditionError, InvalidFieldError, UnavailableError
from server.store import Connection, Database, open_database
from server.store.events import apply_events
from server.store.items import upsert_items
from server.store.tenants import ensure_tenant, parse_tenant_id
from server.store.users import upsert_users

_BATCH_ROWS = 2000
_BATCH_BYTES = 8 * 1024 * 1024
_RETRIES_S = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Pauses before a batch is tried again: an embedded database that died is back within a second or two."""

Read = Callable[[Mapping[str, Any]], Any]
Write = Callable[[Connection, TenantId, Sequence[Any]], Awaitable[Mapping[str, int]]]


async def _write_items(connection: Connection, _tenant_id: TenantId, batch: Sequence[Any]) -> Mapping[str, int]:
    return asdict(await upsert_items(connection, batch))


async def _write_users(connection: Connection, _tenant_id: TenantId, batch: Sequence[Any]) -> Mapping[str, int]:
    return asdict(await upsert_users(connection, batch))


async def _write_events(connection: Connection, tenant_id: TenantId, batch: Sequence[Event]) -> Mapping[str, int]:
    counted = len(await apply_events(connection, tenant_id, batch))
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
    counts: Counter[str] = field(default_factory=Counter)


class Rejects:
    """The list of bad rows: `FILE.rejected.jsonl` beside the file, or in the current folder where that cannot be written."""

    def __init__(self, path: Path) -> None:
        self._name = f"{path.name}.rejected.jsonl"
        self._places = (path.parent / self._name, Path(self._name))
        self._stream: IO[bytes] | None = None
        self.path: Path | None = None

    def __enter__(self) -> Self:
        """Removes the lists of earlier runs."""
        for place in self._places:
            with contextlib.suppress(OSError):
                place.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the list."""
        if self._stream is not None:
            self._stream.close()

    def add(self, line: int, reason: str) -> None:
        """Lists a row.

        Raises:
            FailedPreconditionError: Neither folder can be written.
        """
        try:
            if self._stream is None:
                self._stream = self._open()
            self._stream.write(orjson.dumps({"line": line, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE))
            self._stream.flush()
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot list bad rows in {self._name} ({error.strerror}); free space or change folder"
            ) from error

    def _open(self) -> IO[bytes]:
        beside, here = self._places
        try:
            # Root may write into folders that are marked read-only; the mark is meant all the same.
            self.path = beside if beside.parent.stat().st_mode & 0o222 else here
            return self.path.open("wb")
        except OSError:
            self.path = here
            return self.path.open("wb")


class Batches:
    """Batches of values from a file; bad rows go to the rejects on the way."""

    def __init__(self, source: Source, read: Read, known: Sequence[str], rejects: Rejects) -> None:
        self._source = source
        self._read = read
        self._known = frozenset(known)
        self._rejects = rejects
        self.rejected = 0
        self.unread: dict[str, None] = {}
        self.position = 0

    def next_batch(self) -> list[Any]:
        """Returns up to 2000 values, or some 8 MiB of file; none at the end. Blocks on the file."""
        batch: list[Any] = []
        start = self._source.position()
        for row in self._source.rows:
            value = self._value(row)
            if value is not None:
                batch.append(value)
            if len(batch) >= _BATCH_ROWS or self._source.position() - start > _BATCH_BYTES:
                break
        self.position = self._source.position()
        return batch

    def _value(self, row: Row) -> Any:
        problem = row.problem
        if row.fields is not None:
            if not row.fields.keys() <= self._known:
                self.unread.update(dict.fromkeys(str(name)[:64] for name in row.fields.keys() - self._known))
            try:
                return self._read(row.fields)
            except InvalidFieldError as error:
                problem = error.message
        self._rejects.add(row.line, problem)
        self.rejected += 1
        return None


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


async def _batches(batches: Batches) -> AsyncIterator[list[Any]]:
    """Yields batches; the next one is read while the caller writes one."""
    coming = asyncio.create_task(asyncio.to_thread(batches.next_batch))
    try:
        while batch := await coming:
            coming = asyncio.create_task(asyncio.to_thread(batches.next_batch))
            yield batch
    finally:
        await asyncio.wait([coming])


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


async def import_file(database: Database, kind: str, path: Path, tenant: str) -> Report:
    """Imports a file of items, users or events into a tenant, which is made if missing.

    Batches commit one by one, and rows that are there already are left alone, so an import that stopped is continued by running it again.

    Raises:
        InvalidFieldError: The file as a whole cannot be read, or the tenant's name is wrong.
        UnavailableError: The database went away and did not come back within seconds; the message says how far the import came.
    """
    tenant_id = parse_tenant_id(tenant)
    source = open_source(path, COLUMNS[kind], REQUIRED[kind])
    read, write = _ways(tenant_id)[kind]
    started = time.monotonic()
    with Rejects(path) as rejects, _progress(f"{kind} {path.name}", source) as show:
        async with database.system() as connection:
            report = Report(tenant=tenant, tenant_created=await ensure_tenant(connection, tenant_id))
        batches = Batches(source, read, COLUMNS[kind], rejects)
        try:
            async for batch in _batches(batches):
                report.counts.update(await _write_batch(database, tenant_id, write, batch))
                report.rows += len(batch)
                show(batches.position, report.rows)
        except AisleError as error:
            error.message += f"; {report.rows} rows are in, run the same command again to continue"
            raise
    report.rejected, report.rejected_file = batches.rejected, str(rejects.path or "")
    report.unread_columns = list(batches.unread)
    report.seconds = time.monotonic() - started
    return report


@click.group("import")
def import_() -> None:
    """Import items, users or events from a JSONL, CSV or Parquet file.

    An import that was interrupted is continued by running it again.
    """


def _command(kind: str, summary: str) -> None:
    @import_.command(kind, help=summary)
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
    @click.option("--tenant", required=True, help="Name of the tenant; made if missing.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    def command(file: Path, tenant: str, as_json: bool) -> None:
        async def work() -> Report:
            async with command_parts() as parts, open_database(parts.database_url, max_connections=4) as database:
                return await import_file(database, kind, file, tenant)

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
