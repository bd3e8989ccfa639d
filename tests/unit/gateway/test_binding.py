"""Requests from path, query and body."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from server.gateway.binding import Binder
from server.gateway.codec import Codec
from server.gateway.rules import Match, build_table
from tests.fixtures_gateway import library, message

CODEC = Codec(library().pool)
TABLE = build_table(library().methods)


def bind(request: str, body: bytes = b"", content_type: str = "") -> Any:
    """Returns the message of a request such as `GET /v1/echo?int32Field=1`."""
    method, _, target = request.partition(" ")
    path, _, query = target.partition("?")
    match = TABLE.match(method, path)
    assert isinstance(match, Match)
    return Binder(match.route, CODEC).bind(match.values, query.encode(), body, content_type)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("int32Field=-5&uint64_field=18446744073709551615", {"int32_field": -5, "uint64_field": 18446744073709551615}),
        ("boolField=true&stringField=a%20b+c%26&doubleField=1e3", {"bool_field": True, "string_field": "a b c&", "double_field": 1000.0}),
        ("bytesField=-_8&kind=NOVEL", {"bytes_field": b"\xfb\xff", "kind": 1}),
        ("kind=2&manyKind=NOVEL&manyKind=2", {"kind": 2, "many_kind": [1, 2]}),
        ("manyInt32=1&manyInt32=2&manyString=", {"many_int32": [1, 2], "many_string": [""]}),
        ("child.child.stringField=x&child.int32Field=3", {"child": {"child": {"string_field": "x"}, "int32_field": 3}}),
        ("third.display_name=x", {"third": {"display_name": "x"}}),
        (
            "stringMap[a]=1&stringMap[b.c]=2&longMap[-7]=3&boolMap[true]=NOVEL",
            {"string_map": {"a": "1", "b.c": "2"}, "long_map": {-7: 3}, "bool_map": {True: 1}},
        ),
        (
            "time=2026-01-01T00:00:00.5Z&duration=1.5s",
            {"time": {"seconds": 1767225600, "nanos": 500_000_000}, "duration": {"seconds": 1, "nanos": 500_000_000}},
        ),
        ("times=1970-01-01T00:00:01Z&times=1970-01-01T00:00:02Z", {"times": [{"seconds": 1}, {"seconds": 2}]}),
        ("mask=a.fooBar,b_c", {"mask": {"paths": ["a.foo_bar", "b_c"]}}),
        ("stringWrapper=&longWrapper=5&boolWrapper=false", {"string_wrapper": {}, "long_wrapper": {"value": 5}, "bool_wrapper": {}}),
        ("optionalString=", {"optional_string": ""}),
        ("boolField=1&manyBool=True&manyBool=f&manyBool=0", {"bool_field": True, "many_bool": [True, False, False]}),
        ('struct={"a":[1]}&value=null&list=[true]', {"struct": {"a": [1]}, "value": {"null_value": 0}, "list": [True]}),
        ("kind=2&manyKind=NOVEL&manyKind=7", {"kind": 2, "many_kind": [1, 7]}),
        (
            "bytesField=-_8&bytesWrapper=YQ==&doubleWrapper=1.5",
            {"bytes_field": b"\xfb\xff", "bytes_wrapper": {"value": b"a"}, "double_wrapper": {"value": 1.5}},
        ),
        (
            "child.child.string_field=x&child.manyInt32=1&child.manyInt32=2",
            {"child": {"child": {"string_field": "x"}, "many_int32": [1, 2]}},
        ),
        ("strange-name=x&from=y", {"odd_name": "x", "from": "y"}),
        ("int32Field=1&$.xgafv=2&$prettyPrint=false", {"int32_field": 1}),
        ("", {}),
    ],
)
@pytest.mark.feature("query", "system-parameters")
def test_query_parameters_fill_fields(query: str, fields: dict[str, Any]) -> None:
    """Parameters reach scalars, lists, maps, enums, nested fields and well-known values; system parameters are ignored."""
    assert bind(f"GET /v1/echo?{query}") == message("Everything", **fields)


@pytest.mark.parametrize(
    ("query", "field", "mend"),
    [
        ("int32Feld=1", "int32Feld", "did you mean 'int32Field'?"),
        ("child.nope=1", "child.nope", "is not a field of library.v1.Everything"),
        ("int32Field=x", "int32Field", "must be a whole number, not 'x'"),
        ("int32Field=1&int32Field=2", "int32Field", "is given 2 times"),
        ("boolField=yes", "boolField", "must be true or false"),
        ("kind=POEM", "kind", "must be one of KIND_UNSPECIFIED, NOVEL, ESSAY"),
        ("child=x", "child", "a query sets its fields one by one"),
        ("children=x", "children", "a query sets its fields one by one"),
        ("children.int32Field=1", "children.int32Field", "has no fields that a query can set"),
        ("int32Field.x=1", "int32Field.x", "has no fields that a query can set"),
        ("stringMap=1", "stringMap", "write name[key]=value"),
        ("stringMap[a]=1&stringMap[a]=2", "stringMap[a]", "a key takes one value"),
        ("childMap[a]=1", "childMap[a]", "write name[key]=value"),
        ("int32Field[a]=1", "int32Field[a]", "is not a map"),
        ("time=soon", "time", "RFC 3339"),
        ("first=a&second=2", "second", "excludes 'first'"),
        ("stringField=%ff", "query", "not UTF-8"),
        ("struct=1", "struct", "must be an object, not 1"),
        ("struct={", "struct", "must be JSON: malformed JSON"),
        ("value=1&value=2", "value", "is given 2 times"),
        ("any={}", "any", "a query sets its fields one by one"),
        ("&".join(f"manyInt32={n}" for n in range(2001)), "query", "more than 2000 parameters"),
    ],
)
@pytest.mark.feature("query", "unknown-query")
def test_wrong_parameters_name_themselves(query: str, field: str, mend: str) -> None:
    """A parameter that does not fit is an error with its name and what to send."""
    with pytest.raises(InvalidFieldError) as caught:
        bind(f"GET /v1/echo?{query}")
    assert caught.value.field == field
    assert mend in caught.value.description


@pytest.mark.feature("body")
def test_a_whole_body_is_the_request_and_the_path_wins() -> None:
    """With `body: "*"` the body fills the request, and path variables overwrite it."""
    bound = bind("POST /v1/files/a/b:echo", b'{"stringField": "ignored", "int32Field": 1}')
    assert bound == message("Everything", string_field="files/a/b", int32_field=1)


@pytest.mark.feature("body")
def test_a_body_field_leaves_the_rest_to_the_query() -> None:
    """With `body: "field"` the body fills that field and the query the others."""
    bound = bind("POST /v1/shelves/1/books?bookId=b", b'{"title": "Emma", "pageCount": "5"}')
    assert bound == message("CreateBookRequest", parent="shelves/1", book={"title": "Emma", "page_count": 5}, book_id="b")


@pytest.mark.parametrize("body", [b"", b"  \n"])
@pytest.mark.feature("body")
def test_no_body_is_an_empty_request(body: bytes) -> None:
    """A missing body leaves its fields unset, for validation to judge."""
    assert bind("POST /v1/echo", body) == message("Everything")


@pytest.mark.parametrize(
    ("request_line", "body", "field", "mend"),
    [
        ("POST /v1/echo?int32Field=1", b"{}", "int32Field", "takes its fields from the body; move it there"),
        ("POST /v1/shelves/1/books?book.title=x", b"{}", "book.title", "belongs to the body"),
        ("GET /v1/shelves/1/books?parent=shelves/2", b"", "parent", "is part of the path already"),
        ("POST /v1/shelves/1/books", b'{"titel": 1}', "book.titel", "did you mean 'title'?"),
        ("POST /v1/shelves/1/books", b"[]", "book", "must be an object"),
        ("GET /v1/shelves/1/books", b'{"pageSize": 1}', "body", "use query parameters"),
    ],
)
@pytest.mark.feature("body")
def test_fields_in_the_wrong_place_are_refused(request_line: str, body: bytes, field: str, mend: str) -> None:
    """A field that came by the wrong way is an error that says where it belongs."""
    with pytest.raises(InvalidFieldError) as caught:
        bind(request_line, body)
    assert caught.value.field == field
    assert mend in caught.value.description


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        (b'{"title": "a", "tags": [], "pageCount": null}', ["title", "tags", "page_count"]),
        (b'{"author": {"displayName": "x"}, "attributes": {"a": 1}}', ["author.display_name", "attributes"]),
        (b'{"author": {}, "createTime": "2026-01-01T00:00:00Z"}', ["author", "create_time"]),
        (b'{"name": "shelves/1/books/9", "title": "a"}', ["title"]),  # the path names the book, it is not changed
        (b"{}", []),
    ],
)
@pytest.mark.feature("patch-mask")
def test_patch_without_a_mask_changes_what_was_sent(body: bytes, paths: list[str]) -> None:
    """PATCH fills an absent update_mask with the body's fields, down to values."""
    bound = bind("PATCH /v1/shelves/1/books/2", body)
    assert list(bound.update_mask.paths) == paths
    assert bound.book.name == "shelves/1/books/2"


@pytest.mark.feature("patch-mask")
def test_a_given_mask_is_kept() -> None:
    """PATCH with a mask leaves it alone, and PUT never fills one."""
    assert list(bind("PATCH /v1/shelves/1/books/2?updateMask=pageCount", b'{"title": "a"}').update_mask.paths) == ["page_count"]
    assert not bind("PUT /v1/shelves/1/books/2", b'{"title": "a"}').HasField("update_mask")


@pytest.mark.feature("http-body")
def test_a_raw_body_is_kept_as_it_came() -> None:
    """A `google.api.HttpBody` field takes bytes of any type."""
    bound = bind("POST /v1/shelves/1/books/2/cover", b"\xff\xd8", "image/jpeg")
    assert (bound.name, bound.cover.content_type, bound.cover.data) == ("shelves/1/books/2", "image/jpeg", b"\xff\xd8")


_NAMES = [field.json_name for field in library().pool.FindMessageTypeByName("library.v1.Everything").fields]
_PARTS = st.sampled_from([*_NAMES, "nope", "[a]", "[", "$x", "."])


@given(st.lists(st.tuples(st.lists(_PARTS, max_size=3).map(".".join), st.text(max_size=8)), max_size=5))
def test_any_query_binds_or_is_a_bad_request(pairs: list[tuple[str, str]]) -> None:
    """Whatever the query says, the result is a message or an InvalidFieldError."""
    with contextlib.suppress(InvalidFieldError):
        bind("GET /v1/echo?" + urlencode(pairs, errors="replace"))


@given(st.binary(max_size=40))
def test_any_query_bytes_bind_or_are_a_bad_request(query: bytes) -> None:
    """Raw bytes in the query end the same way."""
    match = TABLE.match("GET", "/v1/echo")
    assert isinstance(match, Match)
    with contextlib.suppress(InvalidFieldError):
        Binder(match.route, CODEC).bind({}, query, b"")


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=10), st.booleans())
@pytest.mark.feature("query")
def test_scalars_survive_the_query(integer: int, double: float, text: str, flag: bool) -> None:  # noqa: FBT001  # drawn
    """What is written into a query is what the field gets."""
    pairs = {"int32Field": str(integer), "doubleField": repr(double), "stringField": text, "boolField": str(flag).lower()}
    query = urlencode(pairs, errors="strict") if text.isprintable() or text.isascii() else None
    if query is not None:
        expected = message("Everything", int32_field=integer, double_field=double, string_field=text, bool_field=flag)
        assert bind(f"GET /v1/echo?{query}") == expected
