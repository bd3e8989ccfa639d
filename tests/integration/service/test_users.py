"""Profiles across replicas, deadlines and a lost Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from server.cache import Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import TenantId, UserId, consistency_token
from server.errors import DeadlineExceededError, NotFoundError, UnavailableError
from server.service.profiles import Profiles
from server.service.users import Users
from server.store import Database
from server.stream import EventLog, Invalidations, connect
from tests.event_factories import event
from tests.eventually import eventually
from tests.redis_server import OwnRedis

ANN = UserId("ann")


@dataclass(frozen=True)
class Replica:
    """What one process knows of users."""

    log: EventLog
    users: Users
    profiles: Profiles


@asynccontextmanager
async def _replica(database: Database, url: str) -> AsyncIterator[Replica]:
    """One process's use cases, wired as the server wires them."""
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(connect(url, timeout_s=0.05))
        stream = await stack.enter_async_context(connect(url, timeout_s=1.0))
        bus = Invalidations(stream)
        cache = Cache(MemoryCache(1_000_000), SharedCache(near), bus.publish)
        log = await stack.enter_async_context(EventLog(stream, patience_s=0.1).running())
        users = Users(database, cache, log)
        for hear in (cache.forget, users.on_invalidation):
            await stack.enter_async_context(bus.listen(hear))
        yield Replica(log, users, Profiles(database, cache, users))


@pytest.fixture
async def replicas(database: Database, own_redis: OwnRedis) -> AsyncIterator[list[Replica]]:
    """Two processes over one database and one Redis."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_replica(database, own_redis.url)) for _ in range(2)]


def soon(seconds: float = 20.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


async def test_a_profile_shows_the_events_of_its_token(replicas: list[Replica], tenant_id: TenantId) -> None:
    """Events that no worker has applied are in the profile that is read with their token."""
    near, _ = replicas
    token = consistency_token(tenant_id, await near.log.append(tenant_id, [event(1)]))
    profile = await near.profiles.get(tenant_id, ANN, token=token, deadline=soon())
    assert [one.item_id for one in profile.history] == ["i1"]


async def test_a_profile_without_its_tokens_events_is_refused(replicas: list[Replica], tenant_id: TenantId, own_redis: OwnRedis) -> None:
    """While the stream is down, reading a profile with a token is UNAVAILABLE, but where the events were taken in a moment ago."""
    near, far = replicas
    await near.profiles.update(tenant_id, ANN, {"locale": "pt"}, version=None)
    token = consistency_token(tenant_id, await near.log.append(tenant_id, [event(1)]))
    await own_redis.kill()
    with pytest.raises(UnavailableError, match="retry"):
        await far.profiles.get(tenant_id, ANN, token=token, deadline=soon())
    assert [one.event_id for one in (await near.profiles.get(tenant_id, ANN, token=token, deadline=soon())).history] == [event(1).event_id]
    assert (await far.profiles.get(tenant_id, ANN, token="", deadline=soon())).locale == "pt"


async def test_no_replica_remembers_a_deleted_user(replicas: list[Replica], tenant_id: TenantId) -> None:
    """A deletion makes every replica drop its last known profile; a mere change leaves it for bad times."""
    near, far = replicas
    await near.profiles.update(tenant_id, ANN, {"locale": "pt"}, version=None)
    for replica in replicas:
        await replica.users.known(tenant_id, ANN, deadline=soon())
    await near.profiles.update(tenant_id, ANN, {"locale": "de"}, version=None)
    assert far.users.last_known(tenant_id, ANN) is not None
    await near.profiles.delete(tenant_id, ANN)
    assert near.users.last_known(tenant_id, ANN) is None

    async def forgotten() -> bool:
        return far.users.last_known(tenant_id, ANN) is None

    await eventually(forgotten)
    with pytest.raises(NotFoundError):
        await far.profiles.get(tenant_id, ANN, token="", deadline=soon())


async def test_the_first_callers_deadline_is_its_own(database: Database, replicas: list[Replica], tenant_id: TenantId) -> None:
    """A read that a hurried caller started is finished for the patient one that joined it."""
    near, _ = replicas
    async with database.system() as connection:
        await connection.execute("LOCK TABLE user_personalization_profiles IN ACCESS EXCLUSIVE MODE")
        hurried = asyncio.create_task(near.users.known(tenant_id, ANN, deadline=soon(0.05)))
        await asyncio.sleep(0)
        patient = asyncio.create_task(near.users.known(tenant_id, ANN, deadline=soon()))
        with pytest.raises(DeadlineExceededError):
            await hurried
        assert not patient.done()
    assert (await patient).profile.user_id == ANN
