"""The OpenAPI document against the running server that serves it: generated calls, and a generated TypeScript client."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.fixtures_server import Door

_EXAMPLES = 12
"""Calls of each operation, so that the test stays within a minute."""

_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
_ENDLESS = {"PersonalizationService_WatchPersonalization"}
"""Streams without an end: they are called with a deadline."""
_STREAMS = {*_ENDLESS, "EventService_StreamEvents"}
"""Called for an array, which the document describes as a whole."""


@schemathesis.serializer("application/x-ndjson")
def _lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Writes a generated message as the one line of a client's stream."""
    return json.dumps(value).encode() + b"\n"


def _load_schemathesis() -> None:
    """Has it load what it loads at first use, on this thread: two that parse Python at once break CPython 3.11 (its issue 106905)."""
    operation = {"parameters": [{"name": "q", "in": "query", "schema": {"type": "string"}}], "responses": {"200": {"description": "done"}}}
    document = {"openapi": "3.1.0", "info": {"title": "one", "version": "1"}, "paths": {"/": {"get": operation}}}
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        found.ok().as_strategy()


def _call_all(url: str, key: str) -> list[int]:
    """Calls every operation with generated requests, right and wrong ones, and returns the HTTP status of each call."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    return [status for operation in operations for status in _call(operation, url, key)]


def _call(operation: Any, url: str, key: str) -> list[int]:
    headers = {"authorization": f"Bearer {key}"}
    name = operation.definition.raw["operationId"]
    headers |= {"accept": "application/json"} if name in _STREAMS else {}
    headers |= {"grpc-timeout": "300m"} if name in _ENDLESS else {}
    statuses = []

    @settings(
        max_examples=_EXAMPLES,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        reply = case.call_and_validate(base_url=url, headers=headers, checks=_CHECKS, timeout=60)
        statuses.append(reply.status_code)

    call()
    return statuses


@pytest.mark.timeout(400)
@pytest.mark.feature("openapi-live")
async def test_generated_calls_find_no_fault(door: Door) -> None:
    """No request that the document describes, nor one near it, gets a 5xx or a reply that the document does not allow."""
    _load_schemathesis()
    statuses = await asyncio.to_thread(_call_all, f"http://{door.serving.http_address}", door.key)
    assert {200, 400, 404} <= set(statuses)  # right calls, wrong ones, and names of nothing


@pytest.mark.timeout(400)
@pytest.mark.feature("typescript")
async def test_a_typescript_client_can_be_generated(door: Door, tmp_path: Path) -> None:
    """`openapi-typescript` makes types of the document, and TypeScript accepts a call that uses them and refuses a wrong one."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    (tmp_path / "openapi.json").write_bytes((await door.rest("GET", "/openapi.json")).content)
    (tmp_path / "package.json").write_text(json.dumps({"private": True}))
    done = await _run(
        tmp_path, "npm", "install", "--no-audit", "--no-fund", "openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3"
    )
    if done[0] != 0:
        pytest.skip(f"the packages cannot be had from npm here: {done[1][-200:]}")
    assert (await _run(tmp_path, "npx", "openapi-typescript", "openapi.json", "-o", "aisle.ts"))[0] == 0
    (tmp_path / "right.ts").write_text(_CLIENT % "maxResults: 5")
    (tmp_path / "wrong.ts").write_text(_CLIENT % "maxResults: 'many'")
    check = ["npx", "tsc", "--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    right, wrong = await _run(tmp_path, *check, "right.ts"), await _run(tmp_path, *check, "wrong.ts")
    assert right == (0, "")
    assert wrong[0] != 0
    assert "maxResults" in wrong[1] or "not assignable" in wrong[1]


_CLIENT = """import createClient from "openapi-fetch";
import type { paths } from "./aisle.ts";

const client = createClient<paths>({ baseUrl: "http://localhost:8080" });
export async function first(user: string): Promise<string | undefined> {
  const { data, error } = await client.POST("/v1/users/{user}:recommendItems", { params: { path: { user } }, body: { %s } });
  if (error) throw new Error(error.message);
  return data.items?.[0]?.item;
}
"""


async def _run(folder: Path, *command: str) -> tuple[int | None, str]:
    """Returns exit code and output of a command."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode, output.decode()
