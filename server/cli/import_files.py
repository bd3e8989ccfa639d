"""Rows of JSONL, CSV and Parquet files, one at a time, in memory that does not grow with the file."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from server.errors import FailedPreconditionError, InvalidFieldError

_MAX_ROW_BYTES = 1024 * 1024
"""A longer row is refused; it is most often a quote that was never closed."""
_PARQUET_ROWS = 2000


class Row(NamedTuple):
    """A row, or why there is none."""

    line: int
    """From 1, as an editor counts; in Parquet the row's number."""
    fields: dict[str, Any] | None
    problem: str


class Source(NamedTuple):
    """An open file."""

    rows: Generator[Row, None, None]
    """To be closed when it is not used up: it holds the file open."""
    size: int
    """What `position` is at the end: bytes, or rows in Parquet."""
    position: Callable[[], int]


def open_source(path: Path, columns: Sequence[str], required: Sequence[str]) -> Source:
    """Opens a file by its suffix: .jsonl or .ndjson, .csv, .parquet.

    Raises:
        FailedPreconditionError: Parquet cannot be read on this installation.
        InvalidFieldError: The suffix is another, the file is empty or not of its format, or a required column is missing.
    """
    opener = {".jsonl": _open_jsonl, ".ndjson": _open_jsonl, ".csv": _open_csv, ".parquet": _open_parquet}.get(path.suffix.lower())
    if opener is None:
        raise InvalidFieldError("file", f"{path.name} does not end in .jsonl, .ndjson, .csv or .parquet; convert or rename it")
    return opener(path, columns, required)


def _require(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        columns = ", ".join(found)[:200] or "none"
        raise InvalidFieldError("file", f"{path.name} has no column {', '.join(missing)}; its columns are {columns}")


def _open_jsonl(path: Path, columns: Sequence[str], required: Sequence[str]) -> Source:
    del columns, required  # each line has its own
    stream = path.open("rb")
    size = path.stat().st_size
    return Source(_jsonl_rows(stream), size, lambda: size if stream.closed else stream.tell())


def _jsonl_rows(stream: io.BufferedReader) -> Generator[Row, None, None]:
    with stream:
        number = 0
        while line := stream.readline(_MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > _MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_MAX_ROW_BYTES)
                yield Row(number, None, f"the line is longer than {_MAX_ROW_BYTES} bytes")
                continue
            content = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not content:
                continue
            try:
                fields = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                yield Row(number, None, f"the line is not JSON ({error})")
                continue
            if isinstance(fields, dict):
                yield Row(number, fields, "")
            else:
                yield Row(number, None, f"the line must be a JSON object, not {type(fields).__name__}")


def _open_csv(path: Path, columns: Sequence[str], required: Sequence[str]) -> Source:
    del columns
    stream = path.open("rb")
    # Bytes that are not UTF-8 become lone surrogates, which the fields' checks refuse row by row.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(_MAX_ROW_BYTES)
    lines = _Lines(text)
    try:
        header = _header(path, lines)
        _require(path, header, required)
    except InvalidFieldError:
        text.close()
        raise
    size = path.stat().st_size
    return Source(_csv_rows(text, lines, header), size, lambda: size if stream.closed else stream.tell())


def _header(path: Path, lines: _Lines) -> list[str]:
    try:
        header = [name.strip() for name in next(csv.reader(lines, strict=True), [])]
    except csv.Error as error:
        raise InvalidFieldError("file", f"the first line of {path.name} is not a CSV header ({error})") from None
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise InvalidFieldError("file", f"{path.name} has column {min(repeated)!r} twice")
    return header


class _Lines:
    """The lines of a CSV file, which can be taken back: a quote left open must not swallow the good rows after it."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._returned: deque[str] = deque()
        self.taken: list[str] = []
        """Lines of the current record."""
        self.number = 0
        """Of the last line taken, from 1."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._text.readline(_MAX_ROW_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        if len(line) == _MAX_ROW_BYTES:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(_MAX_ROW_BYTES)
            raise csv.Error(f"longer than {_MAX_ROW_BYTES} characters")
        return line

    def begin(self) -> None:
        """Starts a record."""
        self.taken = []

    def take_back(self) -> None:
        """Gives back all lines of the current record but its first."""
        self._returned.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def _csv_rows(text: io.TextIOWrapper, lines: _Lines, header: Sequence[str]) -> Generator[Row, None, None]:
    with text:
        reader = csv.reader(lines, strict=True)
        while True:
            lines.begin()
            first = lines.number + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                lines.take_back()
                reader = csv.reader(lines, strict=True)  # the old one is inside the quote
                yield Row(first, None, f"the row is not CSV ({error}); is a quote left open?")
                continue
            if len(values) == len(header):
                yield Row(first, dict(zip(header, values, strict=True)), "")
            elif values:
                lines.take_back()
                yield Row(first, None, f"the row has {len(values)} fields, the header {len(header)}")


def _open_parquet(path: Path, columns: Sequence[str], required: Sequence[str]) -> Source:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise FailedPreconditionError(f"Parquet needs a pyarrow that runs here ({error}); install aisle anew, or convert to CSV") from error
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidFieldError("file", f"{path.name} is not a whole Parquet file ({str(error).splitlines()[0]})") from None
    names = file.schema_arrow.names
    try:
        _require(path, names, required)
    except InvalidFieldError:
        file.close()
        raise
    done = [0]
    rows = _parquet_rows(path, file, [name for name in columns if name in names], done, pa.ArrowException)
    return Source(rows, file.metadata.num_rows, lambda: done[0])


def _parquet_rows(path: Path, file: Any, columns: list[str], done: list[int], file_error: type[Exception]) -> Generator[Row, None, None]:
    try:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            for fields in batch.to_pylist():
                done[0] += 1
                yield Row(done[0], fields, "")
    except (file_error, OSError) as error:
        message = f"{path.name} is damaged after row {done[0]} ({str(error).splitlines()[0]}); rows before it were imported"
        raise InvalidFieldError("file", message) from None
    finally:
        file.close()
