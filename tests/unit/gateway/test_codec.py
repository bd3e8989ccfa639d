"""The JSON codec against `google.protobuf.json_format`, and its errors."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from server.gateway.codec import Codec, parse_json
from server.gateway.encoder import EncodeError, is_map
from tests.fixtures_gateway import library, message

CODEC = Codec(library().pool)

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type in _RANGES:
        return st.integers(*_RANGES[field.cpp_type])
    if field.enum_type is not None:
        return st.integers(0, 5) if field.enum_type.name == "Kind" else st.just(0)  # 3 to 5 have no name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=6)
    width = 32 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else 64
    return {
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(width=width),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=width, allow_subnormal=False),
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_STRING: _TEXT,
    }[field.cpp_type]


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


def _fill(target: Any, draw: Any, depth: int) -> None:
    """Fills a message of any type with drawn values."""
    name = target.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        target.seconds = draw(st.integers(-62135596800, 253402300799))
        target.nanos = draw(st.sampled_from([0, 1, 120, 5_000, 123_456_000, 10_000_000, 999_999_999]))
    elif name == "google.protobuf.Duration":
        sign = draw(st.sampled_from([-1, 1]))
        target.seconds, target.nanos = (
            sign * draw(st.integers(0, 315576000000)),
            sign * draw(st.sampled_from([0, 1, 5_000_000, 999_999_999])),
        )
    elif name == "google.protobuf.FieldMask":
        target.paths.extend(draw(st.lists(st.sampled_from(["a", "a.b_c", "foo_bar.baz"]), max_size=2)))
    elif name in {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}:
        values = {"Struct": st.dictionaries(_TEXT, _JSON, max_size=3), "Value": _JSON, "ListValue": st.lists(_JSON, max_size=3)}
        json_format.ParseDict(draw(values[name.rpartition(".")[2]]), target)
    elif name == "google.protobuf.Any":
        if draw(st.booleans()):
            inner = draw(st.sampled_from([message("Author", display_name="x"), message("Everything", int64_field=5)]))
            target.type_url, target.value = f"type.googleapis.com/{inner.DESCRIPTOR.full_name}", inner.SerializeToString()
    else:
        _fill_fields(target, draw, depth)


def _fill_fields(target: Any, draw: Any, depth: int) -> None:
    fields = draw(st.lists(st.sampled_from(list(target.DESCRIPTOR.fields)), max_size=6)) if len(target.DESCRIPTOR.fields) else []
    for field in fields:
        if field.message_type is not None and depth == 0 and field.message_type.full_name.startswith("library"):
            continue
        holder = getattr(target, field.name)
        if is_map(field):
            value = field.message_type.fields_by_name["value"]
            for key in draw(st.lists(_scalars(field.message_type.fields_by_name["key"]), max_size=2)):
                if value.message_type is None:
                    holder[key] = draw(_scalars(value))
                else:
                    _fill(holder[key], draw, depth - 1)
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 3))):
                if field.message_type is None:
                    holder.append(draw(_scalars(field)))
                else:
                    _fill(holder.add(), draw, depth - 1)
        elif field.message_type is not None:
            holder.SetInParent()
            _fill(holder, draw, depth - 1)
        else:
            setattr(target, field.name, draw(_scalars(field)))


@st.composite
def messages(draw: Any) -> Any:
    """Draws an `Everything` with a few fields of any kind set, two levels deep."""
    target = message("Everything")
    _fill(target, draw, 2)
    return target


def decode(text: bytes | str) -> Any:
    """Returns the `Everything` of a JSON text."""
    target = message("Everything")
    CODEC.decode(parse_json(text.encode() if isinstance(text, str) else text), target)
    return target


@settings(max_examples=150)
@given(messages())
@pytest.mark.feature("json", "well-known")
def test_encoding_equals_json_format(original: Any) -> None:
    """Any message is written as json_format writes it, and read back as json_format reads it."""
    try:
        expected = json_format.MessageToDict(original, descriptor_pool=library().pool)
    except json_format.SerializeToJsonError:
        with pytest.raises(EncodeError):
            CODEC.encode(original)
        return
    written = CODEC.encode(original)
    assert json.loads(written) == expected
    try:
        read = json_format.Parse(written, message("Everything"), descriptor_pool=library().pool)
    except json_format.ParseError as error:
        assert "Float value too large" in str(error)  # noqa: PT017  # it refuses the largest float as it writes it itself
        read = original
    assert decode(written).SerializeToString(deterministic=True) == read.SerializeToString(deterministic=True)


@given(st.floats(width=32, allow_nan=False))
@example(3.4028234663852886e38)
@pytest.mark.feature("json")
def test_floats_keep_their_value(value: float) -> None:
    """A `float` is written in float32's own digits, subnormals and -0 too, and reads back as itself."""
    original = message("Everything", float_field=value, many_float=[value], float_map={"a": value})
    original.float_wrapper.value = value
    written = CODEC.encode(original)
    assert decode(written).SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


_NAMES = [field.json_name for field in library().pool.FindMessageTypeByName("library.v1.Everything").fields] + ["int32_field", "nope"]
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "1", "-1", "1.0", "1e3", "1.5", "NaN", "Infinity", "NOVEL", "2", "9", "true", "YQ==", "YQ", "-_-_", "a.bC"])
    | st.sampled_from(["2020-02-29T23:59:59Z", "2020-01-01T00:00:00.123456789+01:00", "2020-13-01T00:00:00Z", "1.5s", "-0.000000001s", "1"])
)
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*_NAMES, "1", "true", "@type", "value"]), inner, max_size=4)
    ),
    max_leaves=10,
)

_STRICTER = (
    "must be one of",  # json_format takes true and 1.5 for an enum
    "whole number",
    "base64",  # it skips foreign characters
    "must be a number",  # it takes "inf"
    "32-bit",  # it rounds a large integer to infinity
    "given twice",  # it takes both spellings of a name
    "'value' only",
    "must be an object",  # it takes "" and [] for an empty message
    "nested deeper",
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(_NAMES), _DOCUMENTS, max_size=4))
@pytest.mark.feature("json")
def test_decoding_equals_json_format(document: dict[str, Any]) -> None:
    """Any JSON is read as json_format reads it, or refused where json_format refuses it or is known to be lax."""
    text = json.dumps(document)
    try:
        expected = json_format.Parse(text, message("Everything"), descriptor_pool=library().pool)
    except json_format.ParseError as error:
        if "AttributeError" in str(error):  # its own fault: null for a repeated google.protobuf.Value
            return
        with pytest.raises(InvalidFieldError):
            decode(text)
        return
    try:
        read = decode(text)
    except InvalidFieldError as error:
        assert any(reason in error.message for reason in _STRICTER), error.message  # noqa: PT017  # most documents decode
        return
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_decode_or_name_a_field(body: bytes) -> None:
    """Bytes that are no JSON, or no message, end in InvalidFieldError and nothing else."""
    with contextlib.suppress(InvalidFieldError):
        decode(body)


@pytest.mark.parametrize(
    ("text", "field", "mend"),
    [
        ('{"int32Feld": 1}', "int32Feld", "did you mean 'int32Field'?"),
        ('{"child": {"children": [{}, {"nope": 1}]}}', "child.children[1].nope", "is not a field of library.v1.Everything"),
        ('{"int32Field": 2147483648}', "int32Field", "must be between -2147483648 and 2147483647"),
        ('{"int32Field": 1.5}', "int32Field", "must be a whole number, not 1.5"),
        ('{"int32Field": true}', "int32Field", "must be a whole number, not true"),
        ('{"uint64Field": "-1"}', "uint64Field", "must be between 0 and 18446744073709551615"),
        ('{"boolField": "true"}', "boolField", "without quotes"),
        ('{"stringField": 5}', "stringField", "must be a string, not 5"),
        ('{"doubleField": "inf"}', "doubleField", '"Infinity"'),
        ('{"floatField": 1e39}', "floatField", "must fit a 32-bit float"),
        ('{"bytesField": "*"}', "bytesField", "must be a base64 string"),
        ('{"kind": "POEM"}', "kind", "must be one of KIND_UNSPECIFIED, NOVEL, ESSAY, not 'POEM'"),
        ('{"manyInt32": [1, "x"]}', "manyInt32[1]", "must be a whole number"),
        ('{"manyInt32": 1}', "manyInt32", "must be a list, not 1"),
        ('{"children": [null]}', "children[0]", "must not be null inside a list"),
        ('{"stringMap": []}', "stringMap", "must be an object, not a list"),
        ('{"stringMap": {"a": null}}', "stringMap.a", "must be a string, not null"),
        ('{"longMap": {"x": 1}}', "longMap.x", "must be a whole number"),
        ('{"boolMap": {"yes": 1}}', "boolMap.yes", "a key must be true or false"),
        ('{"childMap": {"a": {"child": 3}}}', "childMap.a.child", "must be an object, not 3"),
        ('{"first": "a", "second": 2}', "second", "excludes 'first': send one of them"),
        ('{"int32Field": 1, "int32_field": 2}', "int32_field", "is given twice, also as 'int32Field'"),
        ('{"time": "yesterday"}', "time", "RFC 3339"),
        ('{"time": 5}', "time", "RFC 3339"),
        ('{"times": ["2020-01-01T00:00:00Z", "x"]}', "times[1]", "RFC 3339"),
        ('{"duration": "5"}', "duration", "such as '1.5s'"),
        ('{"struct": 1}', "struct", "must be an object"),
        ('{"any": {"a": 1}}', "any", "@type"),
        ('{"any": {"@type": "x/no.Such"}}', "any.@type", "is not a type that this server knows"),
        ('{"any": {"@type": "x/library.v1.Author", "displayName": 1}}', "any.displayName", "must be a string"),
        ("[]", "body", "must be an object, not a list"),
        ("3", "body", "must be an object, not 3"),
        ("null", "body", "must be an object, not null"),
    ],
)
@pytest.mark.feature("field-errors")
def test_wrong_values_name_the_path_and_the_mend(text: str, field: str, mend: str) -> None:
    """An error names the field as the caller wrote it and says what to send."""
    with pytest.raises(InvalidFieldError) as caught:
        decode(text)
    assert caught.value.field == field
    assert mend in caught.value.description


@pytest.mark.parametrize(
    ("body", "mend"),
    [
        (b'{"a": 1,\n  "b": }', "malformed JSON at line 2, column 8"),
        (b"", "malformed JSON at line 1, column 1"),
        (b'{"a": NaN}', "malformed JSON at line 1, column 7"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 7"),
        (b'{"a": "\\ud800"}', "malformed JSON at line 1"),
        (b"\xef\xbb\xbf{}", "malformed JSON at line 1"),
        (b"[" * 5000, "malformed JSON"),
    ],
)
def test_malformed_json_shows_the_position(body: bytes, mend: str) -> None:
    """Text that is not JSON, or not UTF-8, is refused with the place of the fault."""
    with pytest.raises(InvalidFieldError) as caught:
        parse_json(body)
    assert caught.value.field == "body"
    assert mend in caught.value.description


@pytest.mark.parametrize(
    "deep",
    [
        '{"child":' * 120 + "{}" + "}" * 120,
        '{"struct":' + '{"a":' * 120 + "1" + "}" * 121,
        '{"list":' + "[" * 120 + "]" * 120 + "}",
        '{"childMap":{"a":' * 120 + "{}" + "}}" * 120,
    ],
)
def test_deep_documents_are_refused(deep: str) -> None:
    """Nesting past a hundred messages is an error, since no protobuf parser would take it."""
    with pytest.raises(InvalidFieldError, match="nested deeper than 100 messages"):
        decode(deep)


def test_what_decodes_can_be_sent_on() -> None:
    """The deepest document that is accepted still parses as protobuf."""
    accepted = decode('{"child":' * 99 + "{}" + "}" * 99)
    assert message("Everything").FromString(accepted.SerializeToString()) == accepted


@pytest.mark.feature("well-known")
def test_null_leaves_a_field_unset_except_where_it_is_a_value() -> None:
    """Null clears; in `Value` and `NullValue` it is the value."""
    read = decode('{"int32Field": null, "child": null, "manyInt32": null, "value": null, "fourth": null, "stringWrapper": null}')
    assert read == message("Everything", fourth=0, value={"null_value": 0})


def test_both_alphabets_of_base64_are_read_with_and_without_padding() -> None:
    """Standard and URL-safe base64 give the same bytes."""
    texts = ["-_8=", "-_8", "+/8=", "+/8"]
    assert [decode(json.dumps({"bytesField": text})).bytes_field for text in texts] == [b"\xfb\xff"] * 4


def test_an_any_of_an_unknown_type_has_no_json_form() -> None:
    """Encoding says which type is missing rather than dropping it."""
    with pytest.raises(EncodeError, match=r"no\.Such"):
        CODEC.encode(message("Everything", any={"type_url": "x/no.Such", "value": b"a"}))


def test_times_outside_the_calendar_have_no_json_form() -> None:
    """A Timestamp before the year 1 is an error, as in json_format."""
    with pytest.raises(EncodeError, match="outside the years"):
        CODEC.encode(message("Everything", time={"seconds": -62135596801}))


def _extension_types() -> tuple[Any, Any]:
    from server.gateway.descriptors import load_set
    from tests.fixtures_gateway import compile_proto

    text = """
    syntax = "proto2"; package two.v1;
    message Base { optional int32 a = 1 [default = 7]; required string name = 2; optional group Inner = 3 { optional int64 b = 1; }
      extensions 100 to 200; enum E { X = 5; Y = 6; } optional E e = 4; }
    extend Base { optional int64 extra = 100; repeated Base more = 101; }
    """
    described = load_set(compile_proto(text, "--include_imports"))
    kind: Descriptor = described.pool.FindMessageTypeByName("two.v1.Base")
    return described.pool, GetMessageClass(kind)


@pytest.mark.feature("well-known")
def test_proto2_messages_with_groups_and_extensions_equal_json_format() -> None:
    """Groups, extensions, closed enums and explicit presence of proto2 are written and read as json_format does."""
    pool, base = _extension_types()
    codec = Codec(pool)
    original = base(name="n", a=0, inner={"b": 3}, e=6)
    original.Extensions[pool.FindExtensionByName("two.v1.extra")] = 5
    original.Extensions[pool.FindExtensionByName("two.v1.more")].add(name="m")
    written = codec.encode(original)
    assert json.loads(written) == json_format.MessageToDict(original, descriptor_pool=pool)
    read = base()
    codec.decode(parse_json(written), read)
    assert read == original
    with pytest.raises(InvalidFieldError, match="must be one of X, Y"):
        codec.decode({"e": 9}, base())
    with pytest.raises(InvalidFieldError, match="is not an extension"):
        codec.decode({"[two.v1.nope]": 9}, base())


@pytest.mark.feature("well-known")
def test_special_floats_are_written_as_words() -> None:
    """NaN and the infinities become the strings of the JSON mapping, in lists too."""
    original = message("Everything", double_field=math.nan, float_field=-math.inf, many_double=[math.inf], many_float=[1.5, math.nan])
    written = json.loads(CODEC.encode(original))
    assert written == {"doubleField": "NaN", "floatField": "-Infinity", "manyDouble": ["Infinity"], "manyFloat": [1.5, "NaN"]}
