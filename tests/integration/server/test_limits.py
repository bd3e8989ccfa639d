"""Limits of a whole server, at both doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import grpc
import httpx
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from aisle.v1 import item_service_pb2 as items
from server.app import Endpoints, serving
from server.domain import TenantId
from server.embedded import Parts
from server.inference import BuiltEncoder
from server.store import Database
from tests.aws_credentials import aws_key
from tests.fixtures_server import Door, new_key, server_settings

Opener = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture
def opened(parts: Parts, database: Database, encoder: BuiltEncoder, short_dir: Path, tenant_id: TenantId) -> Opener:
    """Opens a server with the settings that a test wants, and a tenant of the test's own."""

    @asynccontextmanager
    async def open_door(**values: Any) -> AsyncIterator[Door]:
        key = await new_key(database, tenant_id)
        endpoints = Endpoints(parts.database_url, parts.redis_url, "")
        async with (
            serving(
                server_settings(short_dir / f"limits-{tenant_id}", runtime="local", drain_s=1.0, **values), endpoints, encoder
            ) as doors,
            grpc.aio.insecure_channel(doors.grpc_address) as channel,
            httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
        ):
            yield Door(doors, channel, http, key)

    return open_door


async def _list(door: Door, **options: Any) -> items.ListItemsResponse:
    return await door.call("ItemService/ListItems", items.ListItemsRequest(), items.ListItemsResponse, **options)


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    """Returns the ErrorInfo and RetryInfo that an error carries."""
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailing["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for wanted in (info, retry):
            if detail.Is(wanted.DESCRIPTOR):
                detail.Unpack(wanted)
    return info, retry


async def test_a_key_beyond_its_rate_is_refused_at_both_doors_and_others_are_not(
    opened: Opener, database: Database, tenant_id: TenantId
) -> None:
    """A key has one bucket for both doors; beyond it come RESOURCE_EXHAUSTED and RetryInfo, or 429 and Retry-After; others go on."""
    async with opened(key_rate=0.01, rate_burst_s=300) as door:
        for _ in range(2):
            await _list(door)
        assert (await door.rest("GET", "/v1/items")).status_code == 200
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _list(door)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info, retry = _details(caught.value)
        assert (info.reason, info.metadata["limit"], info.metadata["rate"]) == ("RATE_LIMITED", "key", "0.01")
        assert 50 < retry.retry_delay.seconds <= 100
        refused = await door.rest("GET", "/v1/items")
        assert refused.status_code == 429
        assert 50 < int(refused.headers["retry-after"]) <= 100
        other = await new_key(database, tenant_id)
        await _list(door, key=other)


async def test_signed_calls_have_the_rate_of_their_key(opened: Opener, database: Database, tenant_id: TenantId) -> None:
    """A key that signs has a bucket of its own, and beyond its rate AWS's clients are told to slow down."""
    async with opened(key_rate=0.01, rate_burst_s=100) as door:
        clients = []
        for _ in range(2):
            credentials = await aws_key(database, tenant_id)
            session = boto3.Session(credentials.access_key_id, credentials.secret_access_key, region_name="eu-west-1")
            config = Config(retries={"total_max_attempts": 1})
            clients.append(
                session.client("personalize-events", endpoint_url=f"http://{door.serving.http_address}/compat/aws", config=config)
            )
        event = {"eventId": "e1", "eventType": "view", "itemId": "a", "sentAt": 1_700_000_000}
        for client in clients:
            send = partial(client.put_events, trackingId="t", userId="u", sessionId="s", eventList=[event])
            await asyncio.to_thread(send)
            with pytest.raises(ClientError) as caught:
                await asyncio.to_thread(send)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429


async def test_probes_have_no_rate(opened: Opener) -> None:
    """Methods that need no key are answered at any rate and under any limit of concurrency, and take nobody's tokens."""
    async with opened(key_rate=0.01, tenant_rate=0.01, rate_burst_s=100, max_slowdown=1.5) as door:
        for _ in range(5):
            assert (await door.rest("GET", "/v2/health/live", key="")).status_code == 200
        assert (await door.rest("GET", "/v1/items")).status_code == 200
        assert (await door.rest("GET", "/v1/items")).status_code == 429


async def test_all_keys_of_a_tenant_share_its_rate(opened: Opener, database: Database, tenant_id: TenantId) -> None:
    """A tenant's keys together get the tenant's rate; making more keys makes no more calls."""
    async with opened(tenant_rate=0.01, rate_burst_s=300) as door:
        keys = [door.key, await new_key(database, tenant_id), await new_key(database, tenant_id)]
        for key in keys:
            await _list(door, key=key)
        for key in keys:
            refused = await door.rest("GET", "/v1/items", key=key)
            assert refused.status_code == 429
            assert "this tenant may make 0.01 calls a second" in refused.json()["message"]


async def test_overload_is_refused_with_a_time_to_come_back(opened: Opener) -> None:
    """Many more calls at once than can run: those that are refused are told when to come back, those let in are answered."""
    async with opened(max_slowdown=1.5) as door:
        assert (await door.rest("GET", "/v1/items")).status_code == 200
        replies = await asyncio.gather(
            *(
                door.rest("POST", "/v1/embeddings:embedTexts", json={"texts": [f"{n} barn with a view {i}" for i in range(64)]})
                for n in range(96)
            )
        )
        assert {reply.status_code for reply in replies} == {200, 429}
        refused = [reply for reply in replies if reply.status_code == 429]
        assert all(reply.headers["retry-after"] == "1" for reply in refused)
        assert {detail["reason"] for reply in refused for detail in reply.json()["details"] if "reason" in detail} == {"OVERLOADED"}
        assert (await door.rest("GET", "/v1/items")).status_code == 200


async def test_callers_may_lower_their_priority_only(opened: Opener) -> None:
    """`x-aisle-priority: batch` is taken; any other value is refused by name."""
    async with opened(max_slowdown=1.5) as door:
        assert (await door.rest("GET", "/v1/items", headers={"x-aisle-priority": "batch"})).status_code == 200
        refused = await door.rest("GET", "/v1/items", headers={"x-aisle-priority": "interactive"})
        assert refused.status_code == 400
        assert "x-aisle-priority" in refused.json()["message"]
