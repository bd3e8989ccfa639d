"""A whole server on free ports, on the real parts, with a small trained shop. `tests/conftest.py` loads this as a plugin."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from server.app import Endpoints, Serving, serving
from server.cli.models import build_with_progress
from server.demo.generate import Demo, couples_with_journeys
from server.domain import TenantId, item_text
from server.embedded import Parts
from server.inference import BuiltEncoder, open_inference
from server.settings import Settings
from server.store import Database
from server.store import keys as key_store
from server.store.bundles import promote_bundle, register_bundle
from server.store.events import apply_events
from server.store.items import items_without_vector, set_text_vectors, upsert_items
from server.store.tenants import ensure_tenant
from server.store.users import User, upsert_users
from training.bundle import train
from training.data import raw_events

_Reply = TypeVar("_Reply", bound=Message)

SHOP = TenantId("shop")
"""The trained tenant of the session."""

COUPLES = 80


@dataclass(frozen=True, slots=True)
class Door:
    """Both doors of a running server, with one key."""

    serving: Serving
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    key: str

    async def call(self, method: str, request: Message, reply: type[_Reply], *, key: str | None = None, timeout_s: float = 20) -> _Reply:
        """Returns the reply of `Service/Method` by gRPC. `key` "" sends none."""
        used = self.key if key is None else key
        answer = self.channel.unary_unary(
            f"/aisle.v1.{method}", request_serializer=lambda message: message.SerializeToString(), response_deserializer=reply.FromString
        )
        return await answer(request, timeout=timeout_s, metadata=(("authorization", f"Bearer {used}"),) if used else ())

    async def rest(self, verb: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """Returns the response of the HTTP door."""
        used = self.key if key is None else key
        headers = {"authorization": f"Bearer {used}"} if used else {}
        return await self.http.request(verb, path, headers={**headers, **options.pop("headers", {})}, **options)


async def health(channel: grpc.aio.Channel, service: str = "") -> str:
    """Returns what grpc.health.v1 says of a service."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    reply = await check(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=20)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(health_pb2.HealthCheckResponse.FromString(reply).status)


@pytest.fixture(scope="session")
def encoder() -> BuiltEncoder:
    """The real int8 text encoder, built once a machine."""
    return build_with_progress(None, Settings().cache_dir)


@pytest.fixture(scope="session")
async def shop(database: Database, encoder: BuiltEncoder) -> Demo:
    """The tenant `shop`: the demo world in small, with text vectors and a live bundle."""
    return await fill_shop(database, encoder, couples=COUPLES, vendors_a_city=2)


async def fill_shop(database: Database, encoder: BuiltEncoder, *, couples: int, vendors_a_city: int) -> Demo:
    """Makes the tenant `shop` in a database that has none."""
    items, journeys = couples_with_journeys(couples, 3, datetime.now(UTC), vendors_a_city=vendors_a_city)
    users_and_events = list(journeys)
    demo = Demo(items, [user for user, _ in users_and_events], [event for _, events in users_and_events for event in events])
    async with database.system() as connection:
        await ensure_tenant(connection, SHOP)
    async with database.tenant(SHOP) as connection:
        await upsert_items(connection, demo.items)
        users = [
            User(user_id=one.user_id, traits=one.traits, locale=one.locale, time_zone=one.time_zone, event_date=one.event_date)
            for one in demo.users
        ]
        await upsert_users(connection, users)
        await apply_events(connection, SHOP, demo.events)
    await _encode(database, SHOP, encoder)
    await train_bundle(database, SHOP, encoder, demo)
    return demo


async def _encode(database: Database, tenant_id: TenantId, encoder: BuiltEncoder) -> None:
    repository = Settings().model_repository
    async with open_inference(triton_url="", encoder=encoder, model_repository=repository, threads=2, runtime="local") as inference:
        async with database.tenant(tenant_id) as connection:
            waiting = await items_without_vector(connection, encoder.version, 10_000)
        embedded = await inference.encoder.embed([item_text(one.item) for one in waiting], deadline=asyncio.get_running_loop().time() + 300)
        pairs = [(one, vector.astype("<f4").tobytes()) for one, vector in zip(waiting, embedded.vectors, strict=True)]
        async with database.tenant(tenant_id) as connection:
            await set_text_vectors(connection, encoder.version, pairs)


async def train_bundle(database: Database, tenant_id: TenantId, encoder: BuiltEncoder, demo: Demo) -> str:
    """Trains and promotes a bundle of the demo's events; returns its id."""
    rows = [(one.user_id, one.item_id, one.event_type, one.occur_time.timestamp()) for one in demo.events if one.item_id]
    async with database.tenant(tenant_id) as connection:
        stored = await connection.fetch("SELECT item_id, text_vector FROM items WHERE content_type = '' ORDER BY item_id")
    vectors = {row["item_id"]: np.frombuffer(row["text_vector"], "<f4") for row in stored}
    with tempfile.TemporaryDirectory() as folder:
        trained = await asyncio.to_thread(
            train,
            raw_events(rows),
            vectors,
            items=[item for item in demo.items if item.item_id in vectors],
            tenant_id=tenant_id,
            text_model=encoder.version,
            directory=Path(folder),
            sequential=False,  # test_serving_equals_evaluating.py has a server with it
        )
        async with database.tenant(tenant_id) as connection:
            await register_bundle(connection, trained.bundle_id, trained.directory, trained.manifest, state="EVALUATED")
            await promote_bundle(connection, trained.bundle_id)
    return trained.bundle_id


async def new_key(database: Database, tenant_id: TenantId, *scopes: str) -> str:
    """Returns a key of the tenant."""
    async with database.tenant(tenant_id) as connection:
        key, _ = await key_store.create_key(connection, scopes or ("admin",))
    return key


def server_settings(folder: Path, **values: Any) -> Settings:
    """Returns settings of a server under test: loopback, free ports, state in `folder`."""
    return Settings(data_dir=folder, grpc_address="127.0.0.1:0", http_address="127.0.0.1:0", local_tenant=SHOP, **values)


@pytest.fixture(scope="session")
async def door(parts_with_triton: Parts, database: Database, shop: Demo, encoder: BuiltEncoder, short_dir: Path) -> AsyncIterator[Door]:
    """A running server, and a key of the shop that may do everything."""
    endpoints = Endpoints(parts_with_triton.database_url, parts_with_triton.redis_url, parts_with_triton.triton_url)
    key = await new_key(database, SHOP)
    async with (
        serving(server_settings(short_dir / "server"), endpoints, encoder) as doors,
        grpc.aio.insecure_channel(doors.grpc_address) as channel,
        httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
    ):
        yield Door(doors, channel, http, key)
