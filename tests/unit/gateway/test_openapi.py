"""The OpenAPI document and the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from server.errors import CorruptDataError, InvalidArgumentError
from server.gateway.descriptors import Described, load_set
from server.gateway.openapi import openapi_document, path_and_names
from server.gateway.reference import reference_pages
from server.gateway.rules import build_table
from server.gateway.templates import parse_template
from tests.fixtures_gateway import PROTO, compile_proto, library
from tests.fixtures_streams import chat

OURS = Path(__file__).resolve().parents[3] / "proto" / "gen" / "aisle" / "descriptors.binpb"


def document_of(described: Described) -> dict[str, Any]:
    """Returns the OpenAPI document of a descriptor set."""
    return openapi_document(build_table(described.methods), described.comments, title="Test", version="1", about="For tests.")


@pytest.mark.parametrize("which", ["library", "aisle"])
@pytest.mark.feature("openapi")
def test_the_document_is_valid(which: str) -> None:
    """The document passes the OpenAPI 3.1 validator, for the test proto and for Aisle's own."""
    validate(document_of(library() if which == "library" else load_set(OURS.read_bytes())))


@pytest.mark.feature("openapi")
def test_every_annotated_unary_method_of_aisle_is_described() -> None:
    """Each route of Aisle's protos is an operation with its comment, a reply and an error."""
    described = load_set(OURS.read_bytes())
    document = document_of(described)
    operations = {operation["operationId"]: operation for item in document["paths"].values() for operation in item.values()}
    routes = build_table(described.methods).routes
    assert len(operations) == len(routes)
    assert all(operation["description"] for operation in operations.values())
    assert all(set(operation["responses"]) == {"200", "default"} for operation in operations.values())


def test_parts_of_a_request_stand_where_they_are_sent() -> None:
    """Path variables, query parameters and body divide the request's fields, each once."""
    paths = document_of(library())["paths"]
    create = paths["/v1/shelves/{shelf}/books"]["post"]
    assert [(one["in"], one["name"]) for one in create["parameters"]] == [("path", "shelf"), ("query", "bookId")]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Book"}
    echo = paths["/v1/files/{file}:echo"]["post"]
    assert "stringField" not in echo["requestBody"]["content"]["application/json"]["schema"]["properties"]
    titles = paths["/v1/shelves/{shelf}/titles"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert titles == {"type": "array", "items": {"type": "string"}}


def test_schemas_say_what_json_holds() -> None:
    """64-bit integers are strings, bytes base64, times date-times, enums their names, maps objects."""
    properties = document_of(library())["components"]["schemas"]["Everything"]["properties"]
    assert properties["int64Field"] == {"type": "string", "format": "int64"}
    assert properties["bytesField"] == {"type": "string", "contentEncoding": "base64"}
    assert properties["time"] == {"type": "string", "format": "date-time"}
    assert properties["kind"] == {"$ref": "#/components/schemas/Kind"}
    assert properties["longMap"] == {"type": "object", "additionalProperties": {"type": "integer", "format": "int32"}}
    assert properties["stringWrapper"] == {"type": ["string", "null"]}
    assert properties["children"] == {"type": "array", "items": {"$ref": "#/components/schemas/Everything"}}


def test_unannotated_methods_are_left_out() -> None:
    """What this door does not offer is not described."""
    assert "Library_Hidden" not in str(document_of(library())["paths"])


@pytest.mark.feature("openapi")
def test_streams_are_described_by_every_framing() -> None:
    """A server's stream has a schema a framing, a client's stream one of its lines, and both say that they take a WebSocket."""
    document = document_of(chat())
    validate(document)
    count = document["paths"]["/v1/rooms/{room}:count"]["get"]
    assert list(count["responses"]["200"]["content"]) == ["application/x-ndjson", "text/event-stream", "application/json"]
    lines = count["responses"]["200"]["content"]["application/x-ndjson"]["schema"]["oneOf"]
    assert lines[0]["properties"]["result"] == {"$ref": "#/components/schemas/Line"}
    collect = document["paths"]["/v1/rooms/{room}:collect"]["post"]
    assert collect["requestBody"]["content"] == {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/Line"}}}
    assert collect["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Summary"}
    assert all("WebSocket" in operation["description"] for operation in (count, collect))


@pytest.mark.parametrize("which", ["library", "aisle"])
@pytest.mark.feature("openapi")
def test_examples_fit_their_schemas(which: str) -> None:
    """Every example of the document is valid by the schema beside it."""
    document = document_of(library() if which == "library" else load_set(OURS.read_bytes()))
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    medias = [media for one in operations for media in one.get("requestBody", {}).get("content", {}).values()]
    medias += [media for one in operations for media in one["responses"]["200"]["content"].values()]
    medias += document["components"]["responses"]["Error"]["content"].values()
    shown = [media for media in medias if "example" in media]
    assert len(shown) > 5
    for media in shown:
        OAS31Validator({**media["schema"], "components": document["components"]}).validate(media["example"])


@pytest.mark.parametrize(
    ("template", "path", "names"),
    [
        ("/v1/{name=shelves/*/books/*}:archive", "/v1/shelves/{shelf}/books/{book}:archive", [("shelf", "name"), ("book", "name")]),
        ("/v1/categories/{id}/x/{id2}", "/v1/categories/{id}/x/{id2}", [("id", "id"), ("id2", "id2")]),
        ("/v1/{name=categories/*}", "/v1/categories/{category}", [("category", "name")]),
        ("/v1/{name=**}", "/v1/{name}", [("name", "name")]),
        ("/v1/{name=files/**}", "/v1/files/{file}", [("file", "name")]),
        ("/v1/{name=*/*}", "/v1/{name}/{name_}", [("name", "name"), ("name_", "name")]),
    ],
)
def test_templates_become_openapi_paths(template: str, path: str, names: list[tuple[str, str]]) -> None:
    """Each wildcard is a parameter of its own, named after its collection."""
    assert path_and_names(parse_template(template)) == (path, names)


async def test_the_reference_page_shows_every_operation_and_comment() -> None:
    """`/docs` holds each path, method, field comment and schema, and loads nothing from elsewhere."""
    document = document_of(library())
    pages = reference_pages(document)
    page = (await pages["/docs"]()).body.decode()
    for path, item in document["paths"].items():
        assert path in page
        assert all(operation["operationId"] in page for operation in item.values())
    assert "Path of the book." in page
    assert "<script" not in page
    assert "https://" not in page
    assert (await pages["/openapi.json"]()).body.startswith(b'{"openapi":"3.1.0"')


def test_comments_come_from_the_source() -> None:
    """Services, methods, messages and fields carry their proto comments."""
    comments = library().comments
    assert comments["library.v1.Library"] == "Lends books."
    assert comments["library.v1.Library.GetBook"] == "Returns a book."
    assert comments["library.v1.Book.name"] == "Path of the book."


def test_a_set_without_its_imports_loads() -> None:
    """google/* imports are found here when the set lacks them."""
    assert "/library.v1.Library/GetBook" in load_set(compile_proto(PROTO)).methods


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x0a\xff\xff\xff\x7f"])
def test_other_files_are_no_descriptor_sets(data: bytes) -> None:
    """A file that is no descriptor set is refused, with the command that makes one."""
    with pytest.raises(CorruptDataError, match="descriptor_set_out"):
        load_set(data)


def test_a_missing_import_is_named() -> None:
    """A set that imports what nobody has is refused with the file's name."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    files = FileDescriptorSet(file=[FileDescriptorProto(name="a.proto", dependency=["no/such.proto"])])
    with pytest.raises(InvalidArgumentError, match=r"no/such\.proto.*--include_imports"):
        load_set(files.SerializeToString())
