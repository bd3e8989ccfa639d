"""Plausible values of JSON Schemas, for the reference and the OpenAPI document."""

from __future__ import annotations

from typing import Any

_DEPTH = 3


def example_of(schema: dict[str, Any], components: dict[str, Any], depth: int = 0) -> Any:
    """Returns a plausible value of a schema: required fields, or the first few where none is. The schema describes it.

    Args:
        schema: Of the value.
        components: Schemas by name, for references.
        depth: Objects around it; below the third they are empty.
    """
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][-1]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" and "properties" in schema and depth < _DEPTH:
        names = [name for name, one in schema["properties"].items() if not one.get("readOnly")]
        chosen = schema.get("required") or names[:3]
        return {name: example_of(schema["properties"][name], components, depth + 1) for name in chosen}
    if kind == "array":
        return [example_of(schema["items"], components, depth + 1)] if depth < _DEPTH else []
    if kind == "string":
        return _text(schema)
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), {})


def _text(schema: dict[str, Any]) -> str:
    if "contentEncoding" in schema:
        return "AACAPw=="
    return {"date-time": "2026-06-20T15:00:00Z", "int64": "42", "uint64": "42"}.get(schema.get("format", ""), "…")
