"""What holds at every door holds at those for other systems' clients: deadlines, ids, sizes, origins, metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.settings import Settings
from tests.fixtures_server import Door

INFER = {
    "inputs": [
        {"name": name, "shape": [1, 2], "datatype": "INT64", "data": data}
        for name, data in (("input_ids", [101, 102]), ("attention_mask", [1, 1]))
    ]
}
CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "aws": ("/compat/aws/recommendations", {"userId": "couple-000001"}, "RecommendationService/RecommendItems"),
    "openai": ("/compat/openai/v1/embeddings", {"model": "text_encoder", "input": "a barn"}, "EmbeddingService/EmbedTexts"),
    "segment": ("/compat/segment/v1/track", {"userId": "alike", "event": "view"}, "EventService/IngestEvents"),
    "kserve": ("/v2/models/text_encoder/infer", INFER, "inference.GRPCInferenceService/ModelInfer"),
}
"""API -> path, body, and the method that it comes to."""


def message_of(api: str, body: dict[str, Any]) -> str:
    """Returns the text of an error, from where the API's clients look for it."""
    found = body["error"]["message"] if api == "openai" else body["error"] if api == "kserve" else body["message"]
    return str(found)


async def post(door: Door, api: str, body: bytes | None = None, *, key: str | None = None, **headers: str) -> Any:
    """Returns the reply of an API to its call."""
    path, content, _ = CALLS[api]
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await door.rest("POST", path, key=key, content=json.dumps(content).encode() if body is None else body, headers=sent)


@pytest.mark.parametrize("api", CALLS)
async def test_a_call_is_one_of_aisles_own(door: Door, api: str) -> None:
    """A call is measured under Aisle's method and the HTTP door, and its request id comes back."""
    reply = await post(door, api, x_request_id=f"alike-{api}")
    assert (reply.status_code, reply.headers["x-request-id"]) == (200, f"alike-{api}")
    method = CALLS[api][2]
    name = f"/{method}" if method.startswith("inference.") else f"/aisle.v1.{method}"
    assert f'aisle_call_seconds_count{{code="OK",door="http",method="{name}"}}' in (await door.rest("GET", "/metrics", key="")).text


@pytest.mark.parametrize(("api", "status"), [("aws", 503), ("openai", 504), ("segment", 504), ("kserve", 504)])
async def test_deadlines_hold(door: Door, api: str, status: int) -> None:
    """A call whose deadline has passed is refused as such, in the API's own form."""
    reply = await post(door, api, grpc_timeout="1n")
    assert reply.status_code == status
    assert "deadline" in message_of(api, reply.json())


@pytest.mark.parametrize("api", CALLS)
async def test_bodies_have_a_largest_size(door: Door, api: str) -> None:
    """A body beyond the limit is refused in the API's own form."""
    reply = await post(door, api, b" " * (Settings().max_message_bytes + 1))
    assert reply.status_code == 413
    assert "larger than" in message_of(api, reply.json())


@pytest.mark.parametrize("api", CALLS)
async def test_pages_of_other_origins_do_not_call_without_a_key(door: Door, api: str) -> None:
    """On the server's own machine, where no key is needed, a page of another origin is refused; the same call of no page is not."""
    assert (await post(door, api, key="")).status_code == 200
    reply = await post(door, api, key="", origin="https://elsewhere.example", sec_fetch_site="cross-site")
    assert reply.status_code == 403
    assert "another origin" in message_of(api, reply.json())
