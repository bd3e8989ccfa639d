"""Other systems' clients at a server that has no room: they see what makes them wait and try again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import boto3
import httpx
import openai
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError

from server.app import Endpoints, serving
from server.demo.generate import Demo
from server.domain import TenantId
from server.embedded import Parts
from server.inference import BuiltEncoder
from server.store import Database
from tests.aws_credentials import aws_key
from tests.eventually import eventually
from tests.fixtures_server import SHOP, new_key, server_settings


@pytest.fixture
async def full(
    parts: Parts, database: Database, encoder: BuiltEncoder, short_dir: Path, shop: Demo, tenant_id: TenantId
) -> AsyncIterator[str]:
    """The HTTP address of a server that takes one call at a time, and has taken one: it waits for a lock that is held here."""
    endpoints = Endpoints(parts.database_url, parts.redis_url, "")
    headers = {"authorization": f"Bearer {await new_key(database, tenant_id)}", "grpc-timeout": "600S"}
    async with (
        serving(server_settings(short_dir / "full", runtime="local", max_in_flight=1, drain_s=1), endpoints, encoder) as doors,
        httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=600, headers=headers) as http,
    ):
        async with database.tenant(tenant_id) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('aisle:items'), hashtext($1))", tenant_id)
            held = asyncio.create_task(http.post("/v1/items", params={"itemId": "a"}, json={"title": "a"}))

            async def taken() -> bool:
                return "\naisle_calls_in_flight 1.0\n" in (await http.get("/metrics")).text

            await eventually(taken)
            yield doors.http_address
        assert (await held).status_code == 200


async def test_clients_are_told_to_wait(full: str, database: Database) -> None:
    """boto3 sees ThrottlingException, OpenAI's client a RateLimitError, Segment's path and KServe's 429, all with Retry-After."""
    credentials = await aws_key(database, SHOP)
    runtime = boto3.client(
        "personalize-runtime",
        region_name="eu-west-1",
        endpoint_url=f"http://{full}/compat/aws",
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ClientError) as refused:
        await asyncio.to_thread(runtime.get_recommendations, campaignArn="c", userId="couple-000001")
    assert refused.value.response["Error"]["Code"] == "ThrottlingException"
    assert refused.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    key = await new_key(database, SHOP)
    async with openai.AsyncOpenAI(base_url=f"http://{full}/compat/openai/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await client.embeddings.create(model="text_encoder", input="a barn")
    assert limited.value.code == "rate_limit_exceeded"
    async with httpx.AsyncClient(base_url=f"http://{full}", auth=(key, "")) as http:
        message = {"userId": "u", "event": "view"}
        reply = await http.post("/compat/segment/v1/track", json=message)
        assert (reply.status_code, reply.headers["retry-after"], reply.json()["code"]) == (429, "1", "rate_limited")
    async with httpx.AsyncClient(base_url=f"http://{full}", headers={"x-api-key": key}) as http:
        reply = await http.get("/v2/models/text_encoder")
        assert (reply.status_code, reply.headers["retry-after"], list(reply.json())) == (429, "1", ["error"])
