"""The composition root: builds every part in order, serves, and takes all down in reverse.

Stop order: health says NOT_SERVING, clients get a moment to go elsewhere, both doors drain at once, the workers finish their batch, the
logs flush, the connections close. An accepted request is answered, an acknowledged event is in the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import redis.asyncio
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import REGISTRY

from aisle.v1 import (
    cache_service_pb2,
    embedding_service_pb2,
    event_service_pb2,
    item_service_pb2,
    personalization_service_pb2,
    recommendation_service_pb2,
    vector_service_pb2,
)
from server import __version__
from server.api.cache import CacheServicer
from server.api.embedding import EmbeddingServicer
from server.api.event import EventServicer
from server.api.item import ItemServicer
from server.api.personalization import PersonalizationServicer
from server.api.recommendation import RecommendationServicer
from server.api.server import open_grpc_door
from server.api.vector import VectorServicer
from server.compat.build import with_compatibility
from server.compat.kserve.servicer import SCOPES as KSERVE_SCOPES
from server.compat.kserve.servicer import KserveServicer, offered_service
from server.errors import UnavailableError
from server.garbage import sparing_collections
from server.gateway.build import build_gateway
from server.gateway.descriptors import load_set
from server.gateway.pages import demo_pages
from server.gateway.policy import Policy, read_max_ages, read_origins
from server.gateway.server import open_http_door
from server.guards import build_auth, build_limits, refuse_open_doors
from server.identity.tls import read_tls
from server.inference import BuiltEncoder, Inference, open_inference
from server.interceptors.admission import Admission
from server.interceptors.chain import InProcessDispatcher, Service
from server.interceptors.consistency import take_token
from server.interceptors.scopes import required_scopes
from server.interceptors.status import convert_errors
from server.interceptors.telemetry import Telemetry
from server.interceptors.validation import validate
from server.otlp_metrics import exporting
from server.service.health import Check, Health
from server.service.models import Models
from server.settings import Settings
from server.store.database import Database, open_database
from server.telemetry import configure_telemetry
from server.use_cases import UseCases, open_use_cases

_REDIRECT_S = 2.0
"""Seconds in which a server that stops still takes calls, while those who ask its health go elsewhere; a quarter of the drain at most."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the doors are."""

    grpc_address: str
    http_address: str
    leave: Callable[[float], Awaitable[None]]
    """Tells clients to go, and returns when nobody is connected, at most so many seconds later. Until then all calls are answered."""
    tls: bool = False

    @property
    def http_url(self) -> str:
        """The HTTP door's, without a path."""
        return f"{'https' if self.tls else 'http'}://{self.http_address}"


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
    refuse_open_doors(settings)
    tls = read_tls(certificate=settings.tls_certificate, key=settings.tls_key, client_ca=settings.tls_client_ca)
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
        services = await open_use_cases(stack, settings, endpoints.redis_url, database, inference, shared=reuse_port)
        admission = Admission(settings.max_in_flight)
        health = Health(_checks(database, services.stream, inference, triton=bool(endpoints.triton_url)))
        answering = _servicers(services, health, batch_timeout_s=settings.default_timeout_s)
        scopes = required_scopes(answering, KSERVE_SCOPES)
        auth = build_auth(settings, database, services.cache_client, scopes)
        limits = build_limits(settings, services.cache_client, scopes)
        # The one way to every servicer, for both doors.
        dispatcher = InProcessDispatcher(answering, [Telemetry(tracer), convert_errors, auth, *limits, admission, take_token, validate])
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
            policy=Policy(
                origins=read_origins(settings.cors_origins.split(",")),
                max_age_s=read_max_ages(settings.http_cache.split(","), dispatcher.methods),
            ),
        )
        http_app = await stack.enter_async_context(
            with_compatibility(
                gateway,
                dispatcher,
                principal=auth.principal,
                database=database,
                catalogues=services.catalogues,
                users=services.users,
                built=encoder,
                encoder=inference.encoder,
                max_body_bytes=settings.max_message_bytes,
                default_timeout_s=settings.default_timeout_s,
            )
        )
        http = await stack.enter_async_context(AsyncExitStack())
        web = await http.enter_async_context(
            open_http_door(
                http_app,
                settings.http_address,
                drain_s=settings.drain_s,
                reuse_port=reuse_port,
                on_stop=gateway.end_streams,
                max_frame_bytes=settings.max_message_bytes,
                read_timeout_s=settings.read_timeout_s,
                tls=tls.context if tls else None,
            )
        )
        door = await stack.enter_async_context(
            open_grpc_door(
                dispatcher,
                address=settings.grpc_address,
                default_timeout_s=settings.default_timeout_s,
                max_message_bytes=settings.max_message_bytes,
                reuse_port=reuse_port,
                connection_age_s=settings.connection_age_s,
                tls=tls,
            )
        )
        await stack.enter_async_context(sparing_collections())

        async def leave(within_s: float) -> None:
            health.stopping = True
            await asyncio.gather(door.leave(within_s=within_s), web.leave(within_s=within_s))

        try:
            yield Serving(f"{_host(settings.grpc_address)}:{door.port}", web.address, leave, tls is not None)
        finally:
            await leave(min(_REDIRECT_S, settings.drain_s / 4))
            services.watches.close()

            async def drain_http() -> None:
                # Before the door, which breaks WebSockets off. A share of the time: a client may have stopped reading.
                await services.conversations.drain(settings.drain_s / 4)
                await http.aclose()

            await asyncio.gather(door.drain(settings.drain_s), drain_http())


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


def _servicers(services: UseCases, health: Health, *, batch_timeout_s: float) -> dict[Service, object]:
    """Returns who answers each service that is offered."""
    servicers: dict[object, object] = {
        recommendation_service_pb2: RecommendationServicer(services.recommendations, services.decisions),
        personalization_service_pb2: PersonalizationServicer(services.personalization, services.profiles),
        embedding_service_pb2: EmbeddingServicer(services.inference.encoder, services.recommendations),
        item_service_pb2: ItemServicer(services.items),
        event_service_pb2: EventServicer(services.events, services.conversations, batch_timeout_s=batch_timeout_s),
        vector_service_pb2: VectorServicer(services.vectors),
        cache_service_pb2: CacheServicer(services.caches),
    }
    return {
        **{service: servicer for module, servicer in servicers.items() for service in _services_of(module)},
        offered_service(): KserveServicer(Models(services.catalogues, services.inference), health.missing),
    }


def _services_of(module: object) -> list[ServiceDescriptor]:
    return list(module.DESCRIPTOR.services_by_name.values())  # type: ignore[attr-defined]  # every generated module has one


def _host(address: str) -> str:
    return address.rpartition(":")[0]
