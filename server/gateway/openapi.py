"""The API's OpenAPI 3.1 document, from routes, descriptors and proto comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from server.gateway.binding import HTTP_BODY
from server.gateway.encoder import is_map
from server.gateway.examples import example_of
from server.gateway.frames import NDJSON, SSE
from server.gateway.replies import HTTP_STATUS, JSON
from server.gateway.rules import Route, RouteTable
from server.gateway.schemas import Schema, Schemas, behaviors
from server.gateway.templates import Template

_VERBS = {"GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"}
_QUERY_DEPTH = 4
_CONVENTIONS = """Every call may carry `x-request-id`, which comes back with the reply; `grpc-timeout`, how long the caller waits,
such as `500m` for half a second, in one of the units `H M S m u n`; and `traceparent`, W3C's trace context.

Field names are lowerCamelCase; snake_case is read too. 64-bit integers are strings, bytes base64, times RFC 3339.
Fields that are unset, or zero, or empty, are left out of replies.

An error is a `google.rpc.Status`: `code` is the gRPC code, `details` say what is wrong and how to mend it."""

_ERROR = {
    "code": 3,
    "message": "user: must not be empty",
    "details": [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "INVALID_FIELD",
            "domain": "aisle.dev",
            "metadata": {"field": "user"},
        },
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": "user", "description": "must not be empty"}],
        },
    ],
}


def path_and_names(template: Template) -> tuple[str, list[tuple[str, str]]]:
    """Returns the template as OpenAPI writes it, and its parameters as (name, proto field path).

    `/v1/{name=shelves/*/books/*}:archive` becomes `/v1/shelves/{shelf}/books/{book}:archive`: OpenAPI's parameters hold one segment.
    """
    owners = {}
    for variable in template.variables:
        for index in range(variable.start, variable.end + variable.deep):
            owners[index] = ".".join(variable.path)
    parts: list[str] = []
    names: list[tuple[str, str]] = []
    for index, segment in enumerate(template.segments):
        if segment not in {"*", "**"}:
            parts.append(segment)
            continue
        before = template.segments[index - 1] if index else ""
        inside = owners.get(index) == owners.get(index - 1) and before not in {"", "*", "**"}
        name = _singular(before) if inside or index not in owners else owners[index].rpartition(".")[2]
        while name in {one for one, _ in names}:
            name += "_"
        names.append((name, owners.get(index, "")))
        parts.append(f"{{{name}}}")
    return "/" + "/".join(parts) + (f":{template.verb}" if template.verb else ""), names


def _singular(plural: str) -> str:
    plural = re.sub(r"[^A-Za-z0-9]", "_", plural) or "part"
    if plural.endswith("ies"):
        return plural[:-3] + "y"
    if plural.endswith("elves"):
        return plural[:-3] + "f"
    return plural.removesuffix("s") or plural


def openapi_document(table: RouteTable, comments: Mapping[str, str], *, title: str, version: str, about: str) -> dict[str, Any]:
    """Returns the document. A method whose client streams is described by its lines; WebSockets are beyond OpenAPI, and said in words."""
    schemas = Schemas(comments)
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, str] = {}
    for route in sorted(table.routes, key=lambda one: (one.name, one.index)):
        if route.http_method not in _VERBS:
            continue
        service = route.method.containing_service
        assert service is not None
        tags[service.name] = schemas.comment(service.full_name)
        path, _ = path_and_names(route.template)
        paths.setdefault(path, {})[route.http_method.lower()] = _operation(route, schemas, service.name)
    error = schemas.reference(Status.DESCRIPTOR)
    name = error["$ref"].rpartition("/")[2]
    schemas.components[name]["description"] = "What went wrong. `code` and `details` are for programs, `message` is for people."
    _add_examples(paths, schemas.components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": f"{about}\n\n{_CONVENTIONS}".strip()},
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {"apiKey": []}, {}],
        "tags": [{"name": tag, "description": text} for tag, text in tags.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {
                "Error": {
                    "description": f"An error. HTTP status by code: {_codes()}.",
                    "content": {JSON: {"schema": error, "example": _ERROR}},
                },
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key that the server knows."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key, bare."},
            },
        },
    }


def _codes() -> str:
    return ", ".join(f"{code_pb2.Code.Name(code)} {status}" for code, status in HTTP_STATUS.items() if code)


def _operation(route: Route, schemas: Schemas, tag: str) -> dict[str, Any]:
    text = schemas.comment(route.method.full_name)
    operation: dict[str, Any] = {
        "operationId": f"{tag}_{route.method.name}" + (f"_{route.index + 1}" if route.index else ""),
        "tags": [tag],
        "summary": re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0] or route.method.name,
        "description": "\n\n".join(part for part in (text, _streaming(route)) if part),
        "parameters": [*_path_parameters(route, schemas), *_query_parameters(route, schemas)],
        "responses": {"200": _reply(route, schemas), "default": {"$ref": "#/components/responses/Error"}},
    }
    if route.method.client_streaming:
        line = schemas.reference(route.method.input_type)
        operation["requestBody"] = {"required": True, "content": {NDJSON: {"schema": line}}}
    elif route.body:
        operation["requestBody"] = _body(route, schemas)
    return operation


def _streaming(route: Route) -> str:
    """Returns how to call a method that streams; empty for others."""
    method = route.method
    if not (method.client_streaming or method.server_streaming):
        return ""
    body = "A body of JSON lines carries the client's messages. " if method.client_streaming else ""
    reply = "Replies come by `accept` as lines, as server-sent events or as one array. " if method.server_streaming else ""
    return f"{body}{reply}The same path takes a WebSocket, with a frame a message."


def _reply(route: Route, schemas: Schemas) -> dict[str, Any]:
    output = route.method.output_type
    field = output.fields_by_name[route.response_body] if route.response_body else None
    kind = output if field is None else field.message_type
    if kind is not None and kind.full_name == HTTP_BODY:
        return {"description": "Raw bytes.", "content": {"*/*": {}}}
    schema = schemas.reference(output) if field is None else schemas.field(field)
    if not route.method.server_streaming:
        return {"description": "Done.", "content": {JSON: {"schema": schema}}}
    error = {"type": "object", "properties": {"error": schemas.reference(Status.DESCRIPTOR)}, "required": ["error"]}
    result = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
    return {
        "description": "The stream.",
        "content": {
            NDJSON: {"schema": {"description": "One line. A line of `error` is the last.", "oneOf": [result, error]}},
            SSE: {"schema": {"type": "string", "description": "Events `message` with JSON as data; `end` or `error` is the last."}},
            JSON: {"schema": {"type": "array", "items": {"anyOf": [schema, error]}}},
        },
    }


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    request = route.method.input_type
    if route.body == "*":
        bound = [variable.path[0] for variable in route.template.variables if len(variable.path) == 1]
        return {"required": True, "content": {JSON: {"schema": schemas.object(request, without=bound)}}}
    field = request.fields_by_name[route.body]
    if field.message_type is not None and field.message_type.full_name == HTTP_BODY:
        return {"required": True, "content": {"*/*": {}}}
    return {"required": True, "content": {JSON: {"schema": schemas.field(field)}}}


def _add_examples(paths: dict[str, dict[str, Any]], components: dict[str, Any]) -> None:
    """Adds an example to each body and each parameter of a path."""
    for operation in (operation for item in paths.values() for operation in item.values()):
        contents = [operation.get("requestBody", {}).get("content", {}), operation["responses"]["200"]["content"]]
        for media in (media for content in contents for kind, media in content.items() if kind == JSON):
            media["example"] = example_of(media["schema"], components)
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                parameter["example"] = f"{parameter['name']}-1"


def _path_parameters(route: Route, schemas: Schemas) -> list[dict[str, Any]]:
    parameters = []
    for name, path in path_and_names(route.template)[1]:
        parameter: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        field = _walk(route.method.input_type, path.split(".")) if path else None
        text = schemas.comment(field.full_name) if field is not None else ""
        if text:
            parameter["description"] = text
        parameters.append(parameter)
    return parameters


def _walk(message: Descriptor, path: list[str]) -> FieldDescriptor | None:
    at: Descriptor | None = message
    field = None
    for name in path:
        field = at.fields_by_name.get(name) if at is not None else None
        at = field.message_type if field is not None else None
    return field


def _query_parameters(route: Route, schemas: Schemas) -> list[dict[str, Any]]:
    if route.body == "*":
        return []
    bound = {".".join(variable.path) for variable in route.template.variables}
    return [
        _query_parameter(name, field, schemas)
        for name, path, field in _query_fields(route.method.input_type)
        if path not in bound and path.partition(".")[0] != route.body
    ]


def _query_parameter(name: str, field: FieldDescriptor, schemas: Schemas) -> dict[str, Any]:
    schema: Schema = schemas.field(field)
    text = schema.pop("description", "")
    parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
    if field_behavior_pb2.REQUIRED in behaviors(field) and "." not in name:
        parameter["required"] = True
    if text:
        parameter["description"] = text
    if is_map(field):
        parameter["style"] = "deepObject"
    return parameter


def _query_fields(
    message: Descriptor, name: str = "", path: str = "", seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, FieldDescriptor]]:
    """Yields (query name, proto path, field) of all fields that a query can set, nested ones too."""
    for field in message.fields:
        one, its_path = f"{name}{field.json_name}", f"{path}{field.name}"
        child = field.message_type
        if child is None or is_map(field):
            yield one, its_path, field
        elif child.full_name.startswith("google.protobuf."):
            if child.full_name.rpartition(".")[2] not in {"Any", "Struct", "Value", "ListValue", "Empty"}:
                yield one, its_path, field
        elif not field.is_repeated and child.full_name not in seen and len(seen) < _QUERY_DEPTH:
            yield from _query_fields(child, f"{one}.", f"{its_path}.", (*seen, message.full_name))
