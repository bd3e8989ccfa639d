from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from server.errors import InvalidFieldError
from tests.unit.training.synthetic import arrays_of, events_of
from training.data import Vocabulary, read_events, read_items


def test_interactions_are_sorted_by_user_then_time_then_the_order_given() -> None:
    """Events in any order come back by user and time, and equal times keep the order of the file."""
    events = events_of({"b": ["x", "y"], "a": ["z"]}) + events_of({"b": ["w"]}, start_s=3600.0) + events_of({"b": ["v"]}, start_s=-1.0)
    vocabulary = Vocabulary.of([events])
    interactions = vocabulary.encode(events)
    assert [vocabulary.item_ids[item] for item in interactions.items] == ["z", "v", "x", "y", "w"]
    assert interactions.starts.tolist() == [0, 1, 5]


def test_last_of_each_marks_only_users_with_enough_history() -> None:
    """A user with too few interactions keeps them all."""
    _, interactions = arrays_of({"a": ["x", "y", "z"], "b": ["x", "y"]})
    assert interactions.last_of_each(least=3).tolist() == [False, False, True, False, False]


def test_history_is_the_last_two_hundred() -> None:
    """What is evaluated sees no more of a history than what serves."""
    _, interactions = arrays_of({"a": [f"i{place}" for place in range(250)]})
    rows, weights, _, _ = interactions.history(0)
    assert len(rows) == len(weights) == 200
    assert rows[-1] == interactions.items[-1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_formats_of_the_import_are_read_alike(tmp_path: Path, suffix: str) -> None:
    """CSV and JSONL give the same events; those without an item are left out; times are RFC 3339 or seconds."""
    rows = [
        {"user_id": "u", "item_id": "a", "event_type": "view", "occurred_at": "2024-05-01T00:00:00Z"},
        {"user_id": "u", "item_id": "", "event_type": "page_view", "occurred_at": "1714521700"},
        {"user_id": "u", "item_id": "b", "event_type": "book", "occurred_at": "1714521600"},
    ]
    path = tmp_path / f"events.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    events = read_events(path)
    assert (events.items, events.kinds) == (("a", "b"), ("view", "book"))
    assert events.times.tolist() == [1714521600.0, 1714521600.0]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("user_id,item_id,occurred_at\nu,a,yesterday\n", "occurred_at"),
        ("user_id,item_id,occurred_at\nu,a,nan\n", "occurred_at"),
        ("user_id,item_id,occurred_at\n,a,1\n", "user_id"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, content: str, field: str) -> None:
    """The error names the file, the row and the field."""
    path = tmp_path / "events.csv"
    path.write_text(content)
    with pytest.raises(InvalidFieldError, match=f"{field}.*row 1 of .*events.csv"):
        read_events(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """An unknown suffix, a missing file, bytes that are no UTF-8 and lines that are no JSON are errors of the file."""
    unknown, latin, broken = tmp_path / "events.xlsx", tmp_path / "latin.csv", tmp_path / "broken.jsonl"
    unknown.write_bytes(b"")
    latin.write_bytes(b"user_id,item_id,occurred_at\n\xff,a,1\n")
    broken.write_text("{")
    for path in (unknown, tmp_path / "absent.csv", latin, broken):
        with pytest.raises(InvalidFieldError, match="file"):
            read_events(path)


def test_items_are_read_with_categories_and_attributes(tmp_path: Path) -> None:
    """Categories are split at bars and attributes parsed."""
    path = tmp_path / "items.csv"
    path.write_text('item_id,title,categories,attributes,price\na,Barn,venue|rural,"{""city"": ""Porto""}",120\n')
    (item,) = read_items(path)
    assert (item.categories, item.attributes, item.price) == (("venue", "rural"), {"city": "Porto"}, 120.0)


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    """A Parquet file of the import format gives its events."""
    path = tmp_path / "events.parquet"
    parquet.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "event_type": ["view"], "occurred_at": [1.5]}), path)
    events = read_events(path)
    assert events.items == ("a",)
    assert np.array_equal(events.times, [1.5])
