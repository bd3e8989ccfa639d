"""The API reference: `/openapi.json`, and `/docs` rendered from it. One page, no scripts, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from server.gateway.asgi import Page
from server.gateway.codec import dumps
from server.gateway.examples import example_of
from server.gateway.replies import Reply

_KEEP_S = 300
_METHODS = ("get", "post", "put", "patch", "delete")


def type_of(schema: dict[str, Any]) -> dict[str, str]:
    """Returns how the reference shows a schema's type: `text`, and `link` to a schema of the document, or empty."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {"text": name, "link": f"#schema-{name}"}
    if schema.get("type") == "array":
        inner = type_of(schema["items"])
        return {"text": f"list of {inner['text']}", "link": inner["link"]}
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        inner = type_of(extra)
        return {"text": f"map of {inner['text']}", "link": inner["link"]}
    kind = schema.get("type", "any JSON")
    text = " or ".join(kind) if isinstance(kind, list) else kind
    note = schema.get("format") or ("base64" if "contentEncoding" in schema else "")
    return {"text": f"{text} ({note})" if note else text, "link": ""}


def _services(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns services with their operations, in the document's order."""
    components = document["components"]["schemas"]
    services = [{"name": tag["name"], "text": tag["description"], "operations": []} for tag in document["tags"]]
    by_name = {service["name"]: service for service in services}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                contents = operation.get("requestBody", {}).get("content", {})
                content = contents.get("application/json") or contents.get("application/x-ndjson") or {}
                body = content.get("schema")
                shown = {"method": method.upper(), "path": path, "body": body, **operation}
                shown["example"] = dumps(example_of(body, components)).decode() if body else ""
                by_name[operation["tags"][0]]["operations"].append(shown)
    return services


def reference_pages(document: dict[str, Any]) -> dict[str, Page]:
    """Returns `/openapi.json` and `/docs`. Both are made here, once."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("reference.html")
    html = template.render(
        document=document,
        services=_services(document),
        schemas=document["components"]["schemas"],
        type_of=type_of,
        error=document["components"]["responses"]["Error"],
    )
    as_json, as_html = dumps(document), html.encode()

    async def json_page() -> Reply:
        return Reply(200, as_json, keep_s=_KEEP_S)

    async def html_page() -> Reply:
        return Reply(200, as_html, "text/html; charset=utf-8", keep_s=_KEEP_S)

    return {"/openapi.json": json_page, "/docs": html_page}
