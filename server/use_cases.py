"""The use cases, and what runs behind them: workers, caches, notices between replicas."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import redis.asyncio

from server.cache import Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import TenantId, UserId
from server.domain.history import subject_of
from server.domain.shaping import ShapingPolicy, ShapingValues
from server.inference import Inference
from server.service.applied import APPLIED, decode_applied, encode_applied
from server.service.bundle_folder import BundleFolder
from server.service.caches import Caches
from server.service.catalogues import Catalogues
from server.service.conversations import Conversations
from server.service.decisions import Decisions
from server.service.events import Events
from server.service.items import Items
from server.service.lists import RankedLists
from server.service.personalization import Personalization
from server.service.policies import Policies
from server.service.profiles import Profiles
from server.service.recommendation import Recommendations
from server.service.snapshots import Snapshots
from server.service.user_vectors import UserVectors
from server.service.users import PROFILES, Users
from server.service.vectors import Vectors
from server.service.warming import Warming
from server.service.watches import Watches
from server.settings import Settings, ShapingSettings
from server.store import tenants as tenant_store
from server.store.database import Database
from server.store.sequences import AppliedEvents
from server.stream import DecisionLog, EventLog, Invalidations, connect
from server.worker import decision_worker, event_worker

_STREAM_TIMEOUT_S = 5.0
_CACHE_TIMEOUT_S = 0.05
_PRELOADED = 32
"""Tenants whose catalogues are loaded at the start; those of more are loaded at their first request."""
_LOADING_S = 60.0
"""Seconds that a process, while others serve, takes to load catalogues before it opens its doors."""
_L1_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the doors' servicers call."""

    items: Items
    events: Events
    recommendations: Recommendations
    personalization: Personalization
    profiles: Profiles
    decisions: Decisions
    vectors: Vectors
    caches: Caches
    watches: Watches
    conversations: Conversations
    catalogues: Catalogues
    users: Users
    inference: Inference
    stream: redis.asyncio.Redis
    cache_client: redis.asyncio.Redis
    """Gives up soon enough to be waited for in a request."""


async def open_use_cases(
    stack: AsyncExitStack, settings: Settings, redis_url: str, database: Database, inference: Inference, *, shared: bool
) -> UseCases:
    """Builds the use cases and starts what runs behind them. Where others serve meanwhile (`shared`), catalogues are loaded first."""
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    stream = await _redis(stack, redis_url, _STREAM_TIMEOUT_S)
    invalidations = Invalidations(stream)
    cache_client = await _redis(stack, redis_url, _CACHE_TIMEOUT_S)
    cache = Cache(MemoryCache(_L1_BYTES), SharedCache(cache_client), invalidations.publish)
    stack.push_async_callback(cache.close)
    event_log = await stack.enter_async_context(EventLog(stream).running())
    decision_log = await stack.enter_async_context(DecisionLog(stream).running())
    catalogues = Catalogues(
        database,
        inference,
        BundleFolder(database, settings.data_dir / "bundles"),
        Snapshots(settings.data_dir / "snapshots"),
    )
    stack.push_async_callback(catalogues.close)
    vectors = Vectors(database, inference.encoder)
    policies = Policies(database, _shaping(settings))
    stack.push_async_callback(policies.close)
    for hear in (catalogues.on_notice, vectors.on_notice, policies.on_notice):
        await stack.enter_async_context(database.listen("aisle_changes", hear))
    await policies.load()

    async def tenants() -> Sequence[TenantId]:
        async with database.system() as connection:
            return [tenant.tenant_id for tenant in await tenant_store.list_tenants(connection)]

    users = Users(database, cache, event_log)
    recommendations = Recommendations(catalogues, users, inference, RankedLists(cache), decision_log, policies)
    watches = Watches(settings.max_watches)
    warming = await stack.enter_async_context(Warming(recommendations.warm).running())
    recommendations.on_served = warming.served
    user_vectors = await stack.enter_async_context(UserVectors(database, recommendations).running())

    async def on_applied(tenant_id: TenantId, applied: AppliedEvents) -> None:
        user_vectors.note(tenant_id, {subject_of(event) for event in applied.events})
        for messages in encode_applied(applied):
            await invalidations.publish(tenant_id, APPLIED, messages)

    def heard(tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        if kind == APPLIED:
            catalogues.observe(tenant_id, decode_applied(keys))
        else:
            if not kind:
                catalogues.on_missed()
            cache.forget(tenant_id, kind, keys)
            users.on_invalidation(tenant_id, kind, keys)
            watches.on_invalidation(tenant_id, kind, keys)  # after these: what it causes to be read must not be what is forgotten here
        warming.on_invalidation(tenant_id, kind, keys)

    await stack.enter_async_context(invalidations.listen(heard))

    async def on_touched(tenant_id: TenantId, touched: Sequence[UserId]) -> None:
        await cache.invalidate(tenant_id, PROFILES, touched)

    worker = event_worker(stream, database, tenants, name=name, on_applied=on_applied, on_touched=on_touched)
    await stack.enter_async_context(worker.running())
    await stack.enter_async_context(decision_worker(stream, database, tenants, name=name).running())
    await catalogues.preload((await tenants())[:_PRELOADED], wait_s=_LOADING_S if shared else 0.0)
    return UseCases(
        items=Items(database, catalogues),
        events=Events(event_log, users, catalogues),
        recommendations=recommendations,
        personalization=Personalization(recommendations, watches),
        profiles=Profiles(database, cache, users),
        decisions=Decisions(database),
        vectors=vectors,
        caches=Caches(database, cache),
        watches=watches,
        conversations=Conversations(settings.max_event_streams),
        catalogues=catalogues,
        users=users,
        inference=inference,
        stream=stream,
        cache_client=cache_client,
    )


def _shaping(settings: Settings) -> ShapingPolicy:
    return ShapingValues(**{name: getattr(settings, name) for name in ShapingSettings.model_fields}).over(ShapingPolicy())


async def _redis(stack: AsyncExitStack, url: str, timeout_s: float) -> redis.asyncio.Redis:
    client = connect(url, timeout_s=timeout_s)
    stack.push_async_callback(client.aclose)
    return client
