"""The composition root: builds every part in order, serves, and takes all down in reverse.

Stop order: health says NOT_SERVING, both doors drain at once, the workers finish their batch, the logs flush, the connections close. An
accepted request is answered, an acknowledged event is in the stream.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import redis.asyncio
from google.protobuf.descriptor import ServiceDescriptor
from opentelemetry import trace
from prometheus_client import REGISTRY

from aisle.v1 import (
    embedding_service_pb2,
    event_service_pb2,
    item_service_pb2,
    personalization_service_pb2,
    recommendation_service_pb2,
    vector_service_pb2,
)
from server import __version__
from server.api.embedding import EmbeddingServicer
from server.api.event import EventServicer
from server.api.item import ItemServicer
from server.api.personalization import PersonalizationServicer
from server.api.recommendation import RecommendationServicer
from server.api.server import open_grpc_door
from server.api.vector import VectorServicer
from server.cache import Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import Event, TenantId, UserId
from server.domain.history import subject_of
from server.errors import FailedPreconditionError, UnavailableError
from server.gateway.build import build_gateway
from server.gateway.descriptors import load_set
from server.gateway.pages import demo_pages
from server.gateway.server import open_gateway
from server.inference import BuiltEncoder, Inference, open_inference
from server.interceptors.admission import Admission
from server.interceptors.auth import Auth, Principal
from server.interceptors.chain import InProcessDispatcher
from server.interceptors.consistency import take_token
from server.interceptors.status import convert_errors
from server.interceptors.telemetry import Telemetry
from server.interceptors.validation import validate
from server.otlp_metrics import exporting
from server.service.applied import APPLIED, decode_applied, encode_applied
from server.service.bundle_folder import BundleFolder
from server.service.catalogues import Catalogues
from server.service.decisions import Decisions
from server.service.events import Events
from server.service.health import Check, Health
from server.service.items import Items
from server.service.lists import RankedLists
from server.service.personalization import Personalization
from server.service.profiles import Profiles
from server.service.recommendation import Recommendations
from server.service.snapshots import Snapshots
from server.service.user_vectors import UserVectors
from server.service.users import PROFILES, Users
from server.service.vectors import Vectors
from server.settings import Settings
from server.store import keys as key_store
from server.store import tenants as tenant_store
from server.store.database import Database, open_database
from server.stream import DecisionLog, EventLog, Invalidations, connect
from server.telemetry import configure_telemetry
from server.worker import decision_worker, event_worker

_STREAM_TIMEOUT_S = 5.0
_CACHE_TIMEOUT_S = 0.05
_PRELOADED = 32
"""Tenants whose catalogues are loaded at the start; those of more are loaded at their first request."""
_L1_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the doors are."""

    grpc_address: str
    http_address: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the parts are: embedded or configured, the server does not care."""

    database_url: str
    redis_url: str
    triton_url: str
    """Empty: the local runtime serves alone."""


@asynccontextmanager
async def serving(settings: Settings, endpoints: Endpoints, encoder: BuiltEncoder, *, reuse_port: bool = False) -> AsyncIterator[Serving]:
    """Serves until the block ends, then drains.

    Args:
        settings: The configuration.
        endpoints: Migrated database, Redis, Triton.
        encoder: The built text encoder.
        reuse_port: Whether other processes share the doors' ports.

    Raises:
        FailedPreconditionError: A door would be open to other machines without keys, or its port is taken.
    """
    _refuse_open_doors(settings)
    tracer = configure_telemetry(settings.otlp_endpoint)
    async with AsyncExitStack() as stack:
        if settings.otlp_endpoint:
            await stack.enter_async_context(exporting(settings.otlp_endpoint, REGISTRY))
        database = await stack.enter_async_context(open_database(endpoints.database_url))
        inference = await stack.enter_async_context(
            open_inference(
                triton_url=endpoints.triton_url,
                encoder=encoder,
                model_repository=settings.model_repository,
                threads=settings.inference_threads,
                runtime=settings.runtime,
            )
        )
        services = await _services(stack, settings, endpoints, database, inference)
        admission = Admission(settings.max_in_flight)
        dispatcher = _dispatcher(settings, services, database, admission, tracer)
        health = Health(_checks(database, services.stream, inference, triton=bool(endpoints.triton_url)))
        described = load_set((files("aisle") / "descriptors.binpb").read_bytes())
        gateway = build_gateway(
            dispatcher,
            pool=described.pool,
            comments=described.comments,
            ready=health.missing,
            degraded=health.degraded,
            title="Aisle",
            version=__version__,
            max_body_bytes=settings.max_message_bytes,
            default_timeout_s=settings.default_timeout_s,
            mounts=demo_pages(dispatcher),
        )
        http = await stack.enter_async_context(AsyncExitStack())
        http_address = await http.enter_async_context(
            open_gateway(gateway, settings.http_address, drain_s=settings.drain_s, reuse_port=reuse_port)
        )
        door = await stack.enter_async_context(
            open_grpc_door(
                dispatcher,
                address=settings.grpc_address,
                default_timeout_s=settings.default_timeout_s,
                max_message_bytes=settings.max_message_bytes,
                reuse_port=reuse_port,
            )
        )
        try:
            yield Serving(f"{_host(settings.grpc_address)}:{door.port}", http_address)
        finally:
            health.stopping = True
            await asyncio.gather(door.drain(settings.drain_s), http.aclose())


@dataclass(frozen=True, slots=True)
class _Services:
    """The use cases."""

    items: Items
    events: Events
    recommendations: Recommendations
    personalization: Personalization
    profiles: Profiles
    decisions: Decisions
    vectors: Vectors
    inference: Inference
    stream: redis.asyncio.Redis


def _checks(database: Database, stream: redis.asyncio.Redis, inference: Inference, *, triton: bool) -> dict[str, Check]:
    """Returns a question for each part."""

    async def ask_database() -> None:
        async with database.system(timeout_s=1.0) as connection:
            await connection.execute("SELECT 1")

    async def ask_triton() -> None:
        if "triton" in inference.router.left_out:
            raise UnavailableError("triton", "failed; the local runtime answers until it is back")

    checks: dict[str, Check] = {"database": ask_database, "redis": stream.ping}
    return checks | {"triton": ask_triton} if triton else checks


async def _services(stack: AsyncExitStack, settings: Settings, endpoints: Endpoints, database: Database, inference: Inference) -> _Services:
    """Builds the use cases and starts what runs behind them."""
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    stream = await _redis(stack, endpoints.redis_url, _STREAM_TIMEOUT_S)
    invalidations = Invalidations(stream)
    shared = SharedCache(await _redis(stack, endpoints.redis_url, _CACHE_TIMEOUT_S))
    cache = Cache(MemoryCache(_L1_BYTES), shared, invalidations.publish)
    stack.push_async_callback(cache.close)
    event_log = await stack.enter_async_context(EventLog(stream).running())
    decision_log = await stack.enter_async_context(DecisionLog(stream).running())
    catalogues = Catalogues(
        database,
        inference.encoder,
        inference.ranker,
        BundleFolder(database, settings.data_dir / "bundles"),
        Snapshots(settings.data_dir / "snapshots"),
    )
    stack.push_async_callback(catalogues.close)
    vectors = Vectors(database, inference.encoder)
    for hear in (catalogues.on_notice, vectors.on_notice):
        await stack.enter_async_context(database.listen("aisle_changes", hear))

    async def tenants() -> Sequence[TenantId]:
        async with database.system() as connection:
            return [tenant.tenant_id for tenant in await tenant_store.list_tenants(connection)]

    catalogues.preload((await tenants())[:_PRELOADED])

    users = Users(database, cache, event_log)
    recommendations = Recommendations(catalogues, users, inference.ranker, RankedLists(cache), decision_log)
    user_vectors = await stack.enter_async_context(UserVectors(database, recommendations).running())

    async def on_applied(tenant_id: TenantId, events: Sequence[Event]) -> None:
        user_vectors.note(tenant_id, {subject_of(event) for event in events})
        await invalidations.publish(tenant_id, APPLIED, encode_applied(events))

    def heard(tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        if kind == APPLIED:
            catalogues.observe(tenant_id, decode_applied(keys))
        else:
            cache.forget(tenant_id, kind, keys)

    for listener in (heard, users.on_invalidation):
        await stack.enter_async_context(invalidations.listen(listener))

    async def on_touched(tenant_id: TenantId, touched: Sequence[UserId]) -> None:
        await cache.invalidate(tenant_id, PROFILES, touched)

    worker = event_worker(stream, database, tenants, name=name, on_applied=on_applied, on_touched=on_touched)
    await stack.enter_async_context(worker.running())
    await stack.enter_async_context(decision_worker(stream, database, tenants, name=name).running())
    return _Services(
        items=Items(database, catalogues),
        events=Events(event_log, users, catalogues),
        recommendations=recommendations,
        personalization=Personalization(recommendations),
        profiles=Profiles(database, cache, users),
        decisions=Decisions(database),
        vectors=vectors,
        inference=inference,
        stream=stream,
    )


async def _redis(stack: AsyncExitStack, url: str, timeout_s: float) -> redis.asyncio.Redis:
    client = connect(url, timeout_s=timeout_s)
    stack.push_async_callback(client.aclose)
    return client


def _dispatcher(
    settings: Settings, services: _Services, database: Database, admission: Admission, tracer: trace.Tracer
) -> InProcessDispatcher:
    """Returns the one way to every servicer, for both doors."""

    async def lookup(key: str) -> Principal | None:
        credential = await key_store.authenticate(database, key)
        return Principal(credential.tenant_id, credential.scopes) if credential else None

    local = None if settings.require_key else Principal(TenantId(settings.local_tenant), frozenset({"admin"}))
    servicers: dict[object, object] = {
        recommendation_service_pb2: RecommendationServicer(services.recommendations, services.decisions),
        personalization_service_pb2: PersonalizationServicer(services.personalization, services.profiles),
        embedding_service_pb2: EmbeddingServicer(services.inference.encoder, services.recommendations),
        item_service_pb2: ItemServicer(services.items),
        event_service_pb2: EventServicer(services.events),
        vector_service_pb2: VectorServicer(services.vectors),
    }
    return InProcessDispatcher(
        {service: servicer for module, servicer in servicers.items() for service in _services_of(module)},
        [Telemetry(tracer), convert_errors, Auth(lookup, local=local), admission, take_token, validate],
    )


def _services_of(module: object) -> list[ServiceDescriptor]:
    return list(module.DESCRIPTOR.services_by_name.values())  # type: ignore[attr-defined]  # every generated module has one


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _refuse_open_doors(settings: Settings) -> None:
    """Raises FailedPreconditionError if another machine could call without a key."""
    for name, address in (("AISLE_GRPC_ADDRESS", settings.grpc_address), ("AISLE_HTTP_ADDRESS", settings.http_address)):
        host = _host(address).strip("[]")
        if host not in {"127.0.0.1", "localhost", "::1"} and not settings.require_key:
            raise FailedPreconditionError(
                f"{name}={address} is open to other machines; set AISLE_REQUIRE_KEY=true and create keys with `aisle keys create`"
            )
