"""Batches of values from an import file, and the list of its bad rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from server.cli.import_files import Row, Source
from server.errors import FailedPreconditionError, InvalidFieldError

Read = Callable[[Mapping[str, Any]], Any]
"""A row's fields -> a value."""

_BATCH_ROWS = 2000
_BATCH_BYTES = 8 * 1024 * 1024


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
            if len(batch) >= _BATCH_ROWS or (batch and self._source.position() - start > _BATCH_BYTES):
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


async def read_ahead(batches: Batches) -> AsyncGenerator[list[Any], None]:
    """Yields batches; the next one is read while the caller writes one. Close it before the file."""
    coming = asyncio.create_task(asyncio.to_thread(batches.next_batch))
    try:
        while batch := await asyncio.shield(coming):
            coming = asyncio.create_task(asyncio.to_thread(batches.next_batch))
            yield batch
    finally:
        # The file is the thread's until it is done, also when the caller gave up.
        await asyncio.gather(coming, return_exceptions=True)
