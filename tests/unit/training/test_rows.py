from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from server.errors import InvalidFieldError
from training.data import RawEvents, read_events, read_items

_HEADER = "user_id,item_id,event_type,occurred_at\n"


def _written(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> RawEvents:
    path = folder / f"events.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_events(path)


def _refusal(path: Path) -> str:
    with pytest.raises(InvalidFieldError) as caught:
        read_events(path)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + _HEADER.encode() + b"u,a,click,1\n", id="byte order mark"),
        pytest.param(_HEADER.replace("\n", "\r\n").encode() + b"u,a,click,1\r\n", id="CRLF"),
        pytest.param(_HEADER.encode() + b"\nu,a,click,1\n\n", id="blank lines"),
        pytest.param(b" user_id, item_id ,event_type,occurred_at\nu,a,click,1", id="spaces in the header, no last line break"),
        pytest.param(b"occurred_at,extra,item_id,event_type,user_id\n1,x,a,click,u\n", id="other order, further columns"),
    ],
)
def test_csv_that_editors_write_is_read(tmp_path: Path, content: bytes) -> None:
    """Byte order mark, line ends, blank lines, spaces in the header and the order of columns make no difference."""
    path = tmp_path / "events.csv"
    path.write_bytes(content)
    events = read_events(path)
    assert (events.users, events.items, events.kinds, events.times.tolist()) == (("u",), ("a",), ("click",), [1.0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "has no column user_id, item_id, occurred_at; its columns are none", id="empty"),
        pytest.param("user_id,occurred_at\nu,1\n", "has no column item_id; its columns are user_id, occurred_at", id="no column"),
        pytest.param("user_id,item_id,item_id,occurred_at\nu,a,b,1\n", "has a column twice", id="column twice"),
        pytest.param("user_id;item_id;occurred_at\nu;a;1\n", "separate columns by commas", id="semicolons"),
        pytest.param("user_id\titem_id\toccurred_at\nu\ta\t1\n", "separate columns by commas", id="tabs"),
        pytest.param(f"{_HEADER}u,a,click,1\nu,b,c,click,1\n", "row 2 of .* has 5 fields, its header 4", id="too many fields"),
        pytest.param(f"{_HEADER}u,a,click,1\nu,b\n", "row 2 of .* has 2 fields, its header 4", id="cut short"),
        pytest.param(f'{_HEADER}u,"a,click,1\nu,b,click,2\n', "is a quote left open", id="open quote"),
        pytest.param(f"{_HEADER}u,a,click,\n", "occurred_at: is missing in row 1", id="no time"),
        pytest.param(f"{_HEADER}u,a,click,1714521600000\n", "occurred_at: .* divide milliseconds by 1000", id="milliseconds"),
        pytest.param(f"{_HEADER}u,a,click,1e999\n", "occurred_at: is not finite", id="infinite time"),
    ],
)
def test_csv_that_is_wrong_is_refused_with_the_mend(tmp_path: Path, content: str, says: str) -> None:
    """Nothing is passed over in silence: the message names the field and what to write instead."""
    path = tmp_path / "events.csv"
    path.write_text(content)
    with pytest.raises(InvalidFieldError, match=says):
        read_events(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param('{"user_id":"u","item_id":"a","occurred_at":1}\n{"user_id":"u","it', "row 2 of .* is not JSON", id="cut"),
        pytest.param("[1]\n", "row 1 of .* must be a JSON object, not list", id="list"),
        pytest.param("[" * 100_000 + "\n", "row 1 of .* is not JSON", id="deep"),
        pytest.param('{"user_id":1.5,"item_id":"a","occurred_at":1}\n', "user_id: is '1.5' .* whole number", id="fraction"),
        pytest.param('{"user_id":true,"item_id":"a","occurred_at":1}\n', "user_id: .*bool", id="true"),
        pytest.param('{"user_id":"u","item_id":{"id":1},"occurred_at":1}\n', "item_id: .*dict", id="object"),
        pytest.param('{"item_id":"a","occurred_at":1}\n', "user_id: is missing in row 1", id="no user"),
        pytest.param('{"user_id":"u","item_id":"a"}\n', "occurred_at: is missing in row 1", id="no time"),
        pytest.param('{"user_id":"u","item_id":"a","occurred_at":[1]}\n', "occurred_at: is '\\[1\\]'", id="time is a list"),
        pytest.param(f'{{"user_id":"u","item_id":"a","occurred_at":1{"0" * 400}}}\n', "occurred_at", id="huge time"),
    ],
)
def test_json_that_is_wrong_is_refused_with_the_row(tmp_path: Path, content: str, says: str) -> None:
    """A cut line, a value that is no object and a field of another type are named."""
    path = tmp_path / "events.jsonl"
    path.write_text(content)
    with pytest.raises(InvalidFieldError, match=says):
        read_events(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a file of another kind, a Parquet file that is none, and UTF-16 text each say so in one line."""
    folder, words, columns, wide = (tmp_path / name for name in ("folder.csv", "events.txt", "events.parquet", "wide.csv"))
    folder.mkdir()
    words.write_text(_HEADER)
    columns.write_bytes(b"PAR1 no")
    wide.write_text(_HEADER, encoding="utf-16")
    assert "is not a file" in _refusal(folder)
    assert "rename or convert" in _refusal(words)
    assert "is not Parquet, or damaged after row 0" in _refusal(columns)
    assert "is not UTF-8" in _refusal(wide)
    parquet.write_table(pa.table({"user_id": ["u"], "occurred_at": [1]}), columns)
    assert "has no column item_id" in _refusal(columns)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """An error of the file system is named with the path."""
    assert "cannot be read" in _refusal(tmp_path / f"{'x' * 300}.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_numbers_as_ids_are_the_ids_of_csv(tmp_path: Path, suffix: str) -> None:
    """Whole numbers, 0 among them, are the same ids as their digits in CSV."""
    events = _written(tmp_path, suffix, [{"user_id": 0, "item_id": 12, "occurred_at": 1}, {"user_id": 7, "item_id": 0, "occurred_at": 2}])
    assert (events.users, events.items) == (("0", "7"), ("12", "0"))
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": 0, "title": "Barn"}\n')
    assert read_items(path)[0].item_id == "0"


def test_ids_are_kept_to_the_character(tmp_path: Path) -> None:
    """Length, other scripts, commas, quotes, line breaks, case and spaces are part of an id."""
    ids = ["x" * 256, "结婚🎉", "a,b", 'say "I do"', "two\nlines", "a", "A", " a", "a "]
    path = tmp_path / "events.csv"
    quoted = [item.replace('"', '""') for item in ids]
    path.write_text(_HEADER + "".join(f'u,"{item}",click,1\n' for item in quoted), encoding="utf-8")
    assert list(read_events(path).items) == ids
    assert list(_written(tmp_path, "jsonl", [{"user_id": "u", "item_id": item, "occurred_at": 1} for item in ids]).items) == ids


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1970-01-01 00:00:10", 10.0),
        ("1970-01-02", 86400.0),
        ("10", 10.0),
        (10, 10.0),
        (-86400, -86400.0),
        ("9999-12-31T00:00:00Z", 253402214400.0),
    ],
)
def test_times_of_any_form_are_seconds(tmp_path: Path, value: str | int, seconds: float) -> None:
    """RFC 3339, dates and numbers may stand in one file, before 1970 or in the far future."""
    assert _written(tmp_path, "jsonl", [{"user_id": "u", "item_id": "a", "occurred_at": value}]).times.tolist() == [seconds]


@pytest.mark.parametrize("value", [date(1970, 1, 2), datetime(1970, 1, 2), datetime(1970, 1, 2, tzinfo=UTC)])  # noqa: DTZ001
def test_times_of_parquet_are_seconds(tmp_path: Path, value: date) -> None:
    """Dates and timestamps, with a zone or without, are read as UTC."""
    assert _written(tmp_path, "parquet", [{"user_id": 1, "item_id": 1, "occurred_at": value}]).times.tolist() == [86400.0]


@pytest.mark.parametrize(
    "row", ['{"item_id": "a", "title": "\\ud800"}', '{"item_id": "a", "price": "free"}', '{"item_id": "a", "attributes": 5}']
)
def test_an_item_that_is_wrong_is_refused(tmp_path: Path, row: str) -> None:
    """Text that is none, a price in words and attributes that are no object name the row."""
    path = tmp_path / "items.jsonl"
    path.write_text(row)
    with pytest.raises(InvalidFieldError, match="row 1 of"):
        read_items(path)
