"""Rows of CSV, JSONL and Parquet files by column name, in the order of the file. The first thing that is wrong ends the reading."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from server.errors import InvalidFieldError

Row: TypeAlias = Mapping[str, Any]
Numbered: TypeAlias = tuple[int, Row]
"""A row and its number from 1: in CSV and Parquet without the header, in JSONL as an editor counts lines."""

_OTHER_DELIMITERS = ";\t|"


def read_rows(path: Path, required: Sequence[str]) -> Iterator[Numbered]:
    """Yields the rows of a file, whose format is told by the suffix. Blank lines are passed over.

    Args:
        path: May begin with a byte order mark and end its lines in any way.
        required: Columns that a CSV or Parquet file must have; in JSONL each line has its own.

    Raises:
        InvalidFieldError: The file cannot be opened, is not of its format, or lacks a column.
    """
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    try:
        if not path.exists():
            raise InvalidFieldError("file", f"{path} does not exist; give the path of a CSV, JSONL or Parquet file")
        if not path.is_file():
            raise InvalidFieldError("file", f"{path} is not a file; give the path of a CSV, JSONL or Parquet file")
        if reader is None:
            raise InvalidFieldError("file", f"{path} is none of .csv, .jsonl, .parquet; rename or convert it")
        yield from reader(path, required)
    except UnicodeDecodeError as error:
        raise InvalidFieldError("file", f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it in UTF-8") from error
    except OSError as error:
        raise InvalidFieldError("file", f"{path} cannot be read ({error}); check its permissions and the disk") from error


def _require(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in found]
    if not missing:
        return
    if len(found) == 1 and any(mark in found[0] for mark in _OTHER_DELIMITERS):
        raise InvalidFieldError("file", f"{path} has the one column {found[0][:200]!r}; separate columns by commas")
    columns = ", ".join(found)[:200] or "none"
    raise InvalidFieldError("file", f"{path} has no column {', '.join(missing)}; its columns are {columns}")


def _csv_rows(path: Path, required: Sequence[str]) -> Iterator[Numbered]:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _require(path, header, required)
            if len(set(header)) < len(header):
                raise InvalidFieldError("file", f"{path} has a column twice; its columns are {', '.join(header)[:200]}")
            for number, values in enumerate(reader, start=1):
                if len(values) == len(header):
                    yield number, dict(zip(header, values, strict=True))
                elif values:
                    message = f"row {number} of {path} has {len(values)} fields, its header {len(header)}; quote a field that holds a comma"
                    raise InvalidFieldError("file", message)
        except csv.Error as error:
            message = f"{path} is not CSV up to line {reader.line_num} ({error}); is a quote left open?"
            raise InvalidFieldError("file", message) from error


def _jsonl_rows(path: Path, required: Sequence[str]) -> Iterator[Numbered]:
    del required
    with path.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                message = f"row {number} of {path} is not JSON ({error}); write one object a line, and see that the file is whole"
                raise InvalidFieldError("file", message) from error
            if not isinstance(row, dict):
                raise InvalidFieldError("file", f"row {number} of {path} must be a JSON object, not {type(row).__name__}")
            yield number, row


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _require(path, file.schema_arrow.names, required)
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidFieldError("file", f"{path} is not Parquet, or damaged after row {number} ({reason}); write it anew") from error
