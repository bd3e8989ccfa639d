"""What every servicer converts: JSON objects, texts, times and masks."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from aisle.v1 import item_service_pb2 as items
from server.api.wellknown import check_json, masked_fields, to_datetime, to_dict, to_struct, to_timestamp
from server.errors import InvalidFieldError

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
JSON = st.dictionaries(_TEXT, st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)))


@given(JSON)
def test_json_objects_come_back_as_they_were(content: dict[str, Any]) -> None:
    """Any JSON object is the same after a way through protobuf; whole numbers are ints again."""
    assert to_dict(to_struct(content)) == content
    assert check_json(to_struct(content), "attributes") == content


@pytest.mark.parametrize("content", [{"a": math.nan}, {"a": [{"b": -math.inf}]}, {"a": "\0"}, {"a": ["b", {"\0": 1}]}])
def test_what_cannot_be_stored_is_refused(content: dict[str, Any]) -> None:
    """NaN, infinity and U+0000 are found however deep, in keys too, and the field is named."""
    with pytest.raises(InvalidFieldError) as caught:
        check_json(to_struct(content), "traits")
    assert caught.value.field == "traits"


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_come_back_as_they_were(moment: datetime) -> None:
    """Any time in UTC is the same after a way through protobuf."""
    assert to_datetime(to_timestamp(moment), "t") == moment


def test_a_time_beyond_the_calendar_is_refused() -> None:
    """Seconds outside the years 1 to 9999 name the field that has them."""
    with pytest.raises(InvalidFieldError, match="occur_time"):
        to_datetime(Timestamp(seconds=10**12), "occur_time")


def test_masks_follow_aip_134() -> None:
    """No mask means what is set, `*` all that callers write; fields of ours are passed over, unknown ones and parts of fields refused."""
    item = items.Item(title="A barn", price=0.0, etag="e")
    writable = ("title", "price", "description", "attributes")
    assert masked_fields(FieldMask(), item, writable) == {"title", "price"}
    assert masked_fields(FieldMask(paths=["*"]), item, writable) == set(writable)
    assert masked_fields(FieldMask(paths=["description", "create_time"]), item, writable) == {"description"}
    for path in ("colour", "attributes.city", "title,price"):
        with pytest.raises(InvalidFieldError, match="update_mask"):
            masked_fields(FieldMask(paths=[path]), item, writable)


def test_an_empty_object_is_empty() -> None:
    """A Struct without fields is the empty object."""
    assert to_dict(Struct()) == {}
