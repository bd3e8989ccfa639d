"""Parts of a whole server killed or hung under load: reads go on and say how, nothing acknowledged is lost, all heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import grpc
import httpx
import psutil
import pytest

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as events
from aisle.v1 import recommendation_service_pb2 as pb
from server.app import Endpoints, serving
from server.demo.generate import Demo
from server.domain import TenantId
from server.embedded import Parts, running_parts
from server.inference import TEXT_ENCODER, BuiltEncoder
from server.settings import Settings
from server.store import open_database
from server.store.items import upsert_items
from server.store.migrate import migrate
from server.store.tenants import create_tenant
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door, fill_shop, health, new_key, server_settings

KNOWN = tuple(f"users/couple-{number:06}" for number in range(4))
FOLDER = "fragile-parts"
DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Fragile:
    """A server of this module's own, whose parts may be killed."""

    door: Door
    parts: Parts
    shop: Demo


@pytest.fixture(scope="module")
async def fragile(short_dir: Path, encoder: BuiltEncoder) -> AsyncIterator[Fragile]:
    """A server with every part of its own, the known users in its caches."""
    folder = short_dir / FOLDER
    async with running_parts(
        data_dir=folder,
        database=True,
        redis=True,
        triton=True,
        model_files={TEXT_ENCODER.name: encoder.onnx},
        model_repository=Settings().model_repository,
    ) as parts:
        assert parts.triton_url, parts.notes
        await migrate(parts.database_url)
        async with open_database(parts.database_url, max_connections=4) as database:
            shop = await fill_shop(database, encoder, couples=20, vendors_a_city=1)
            key = await new_key(database, SHOP)
        endpoints = Endpoints(parts.database_url, parts.redis_url, parts.triton_url)
        async with (
            serving(server_settings(short_dir / "faults-server"), endpoints, encoder) as doors,
            grpc.aio.insecure_channel(doors.grpc_address) as channel,
            httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
        ):
            door = Door(doors, channel, http, key)
            for user in KNOWN:
                await recommend(door, user)
            yield Fragile(door, parts, shop)


async def recommend(door: Door, user: str, **fields: object) -> pb.RecommendItemsResponse:
    """Returns the list of a user."""
    request = pb.RecommendItemsRequest(user=user, **fields)  # type: ignore[arg-type]  # fields of the message, named by the caller
    return await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse, timeout_s=DEADLINE_S)


def servers(program: str) -> list[psutil.Process]:
    """Returns this module's server of that name with all its children, itself first."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # others come and go meanwhile
            parent = process.parent()
            if process.name() == program and parent is not None and any(f"/{FOLDER}/" in word for word in parent.cmdline()):
                return [process, *process.children(recursive=True)]
    return []


async def killed(program: str) -> None:
    """Ends a part as `kill -9` does, once it runs."""

    async def runs() -> bool:
        return bool(servers(program))

    await eventually(runs)
    servers(program)[0].kill()


@dataclass
class Load:
    """Callers that ask without pause; what they were answered is kept."""

    door: Door
    rungs: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)
    runtimes: Counter[str] = field(default_factory=Counter)
    short: list[str] = field(default_factory=list)
    """Users who got fewer items than asked for."""
    failures: list[str] = field(default_factory=list)
    """Reads that failed: code and message."""
    acknowledged: set[str] = field(default_factory=set)
    refused: Counter[grpc.StatusCode] = field(default_factory=Counter)

    async def known(self, number: int) -> None:
        """Reads lists of users whom the server knows, each another list, so that every reply is computed."""
        for turn in itertools.count():
            await self._read(KNOWN[turn % len(KNOWN)], page=f"{number}-{turn}")

    async def strangers(self, _number: int) -> None:
        """Reads lists of users whom nobody has met."""
        while True:
            await self._read(f"users/{uuid.uuid4().hex}", page="home")

    async def texts(self, number: int) -> None:
        """Embeds texts."""
        for turn in itertools.count():
            request = embedding.EmbedTextsRequest(texts=[f"a barn by the sea {number} {turn}", "cake"])
            try:
                reply = await self.door.call("EmbeddingService/EmbedTexts", request, embedding.EmbedTextsResponse, timeout_s=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"EmbedTexts {error.code()}: {error.details()}")
            else:
                self.runtimes[reply.runtime] += 1
            await asyncio.sleep(0.005)

    async def writes(self, _number: int) -> None:
        """Ingests events and keeps the ids of those that were acknowledged."""
        while True:
            sent = [
                events.Event(event_id=uuid.uuid4().hex, user=f"users/writer-{number}", item="items/any", event_type="view")
                for number in range(3)
            ]
            try:
                request = events.IngestEventsRequest(events=sent)
                reply = await self.door.call("EventService/IngestEvents", request, events.IngestEventsResponse, timeout_s=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                self.refused[error.code()] += 1
            else:
                assert reply.accepted_count == len(sent)
                self.acknowledged |= {event.event_id for event in sent}
            await asyncio.sleep(0.01)

    async def _read(self, user: str, *, page: str) -> None:
        try:
            reply = await recommend(self.door, user, max_results=10, context=pb.Context(page=page))
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"RecommendItems {error.code()}: {error.details()}")
        else:
            self.rungs[pb.Ladder.Rung.Name(reply.rung)] += 1
            self.reasons.add(reply.rung_reason)
            if len(reply.items) < 10:
                self.short.append(user)
        await asyncio.sleep(0.005)


@asynccontextmanager
async def under(door: Door, *kinds: str) -> AsyncIterator[Load]:
    """Runs two callers of each kind, named by `Load`'s methods, while the block lasts."""
    load = Load(door)
    tasks = [asyncio.create_task(getattr(load, kind)(number)) for kind in kinds for number in range(2)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def until(holds: Callable[[], object]) -> None:
    """Returns once something is true."""

    async def held() -> bool:
        return bool(holds())

    await eventually(held)


async def stored_ids(parts: Parts) -> Counter[str]:
    """Returns how often each event id stands in the table."""
    connection = await asyncpg.connect(parts.database_url)
    try:
        return Counter(row["event_id"] for row in await connection.fetch("SELECT event_id FROM events"))
    finally:
        await connection.close()


async def assert_nothing_lost(fragile: Fragile, acknowledged: set[str]) -> None:
    """Every acknowledged event comes to stand in the table, and stands there once."""

    async def arrived() -> bool:
        return acknowledged <= (await stored_ids(fragile.parts)).keys()

    await eventually(arrived)
    assert {event_id for event_id, times in (await stored_ids(fragile.parts)).items() if times > 1} == set()


def assert_full(load: Load) -> None:
    """The fault has cost no rung. One list in ten may be below: a machine too busy for a stranger's profile in time goes down by itself."""
    assert load.rungs["FULL"] >= 0.9 * load.rungs.total(), load.rungs


async def test_triton_killed_under_load_costs_no_answer(fragile: Fragile) -> None:
    """While Triton is dead the local runtime answers every list and text at the top rung; when Triton is back it is used again."""
    async with under(fragile.door, "known", "texts") as load:
        await until(lambda: load.runtimes["triton"] and load.rungs["FULL"])
        await killed("tritonserver")
        await until(lambda: load.runtimes["local"] > 20)
        load.runtimes.clear()
        await until(lambda: load.runtimes["triton"])
    assert load.failures == []
    assert load.short == []
    assert_full(load)


async def test_redis_killed_under_load_loses_nothing(fragile: Fragile) -> None:
    """Reads go on, for strangers too; an ingest is acknowledged or UNAVAILABLE; every acknowledged event is in the table, once."""
    async with under(fragile.door, "known", "strangers", "writes") as load:
        for _ in range(3):
            before = len(load.acknowledged)
            await until(lambda before=before: len(load.acknowledged) > before + 20)
            await killed("redis-server")
        before = len(load.acknowledged)
        await until(lambda: len(load.acknowledged) > before + 20)
    assert load.failures == []
    assert load.short == []
    assert_full(load)
    assert set(load.refused) <= {grpc.StatusCode.UNAVAILABLE}
    await assert_nothing_lost(fragile, load.acknowledged)


async def test_postgres_killed_under_load_keeps_reads_and_events(fragile: Fragile) -> None:
    """Known users keep full lists, strangers get popular ones that say so, ingests go on, and all of it heals by itself."""
    async with under(fragile.door, "known", "strangers", "writes") as load:
        await until(lambda: len(load.acknowledged) > 20)
        for _ in range(3):
            popular = load.rungs["SEGMENT_POPULAR"]
            await killed("postgres")
            await until(lambda popular=popular: load.rungs["SEGMENT_POPULAR"] > popular)
            await until(lambda: servers("postgres"))
        assert any(reason.startswith("no profile: database: ") for reason in load.reasons), load.reasons
        load.rungs.clear()
        load.reasons.clear()
        await recovered(fragile)
        full = load.rungs["FULL"]
        await until(lambda: load.rungs["FULL"] > full + 20)
    assert load.failures == []
    assert load.short == []
    assert load.refused == Counter()
    await assert_nothing_lost(fragile, load.acknowledged)


async def recovered(fragile: Fragile) -> None:
    """Returns once a stranger gets a full list again."""

    async def full() -> bool:
        return (await recommend(fragile.door, f"users/{uuid.uuid4().hex}")).rung == pb.Ladder.FULL

    await eventually(full)


@contextlib.contextmanager
def stopped(program: str) -> Iterator[None]:
    """Stops a part with all its processes, as if its machine hung, while the block lasts."""
    family = servers(program)
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)


async def test_with_postgres_hung_everybody_is_answered_in_time(fragile: Fragile) -> None:
    """With all of Postgres stopped, strangers are answered in time, known users from the caches; both doors stay ready."""
    with stopped("postgres"):
        answers = await asyncio.gather(
            *(recommend(fragile.door, f"users/{uuid.uuid4().hex}", max_results=10) for _ in range(40)),
            *(recommend(fragile.door, user, max_results=10, context=pb.Context(page="stopped")) for user in KNOWN),
        )
        ready = await fragile.door.rest("GET", "/healthz/ready", key="")
        serving_by_grpc = await health(fragile.door.channel)
        after = await recommend(fragile.door, KNOWN[0], consistency_token=await viewed(fragile.door, KNOWN[0]))
    assert all(len(answer.items) == 10 for answer in answers)
    assert {answer.rung for answer in answers[:40]} == {pb.Ladder.SEGMENT_POPULAR}
    assert {answer.rung for answer in answers[40:]} == {pb.Ladder.FULL}
    assert (ready.status_code, ready.json()["status"]) == (200, "SERVING")
    assert [line.partition(":")[0] for line in ready.json()["degraded"]] == ["database"]
    assert serving_by_grpc == "SERVING"
    assert after.items
    await recovered(fragile)


async def test_a_hung_redis_refuses_events_and_what_was_refused_counts_once(fragile: Fragile) -> None:
    """With Redis stopped an event is UNAVAILABLE with a time to come back, not late; sent again once Redis runs it is stored, once."""
    user = f"users/{uuid.uuid4().hex}"
    request = events.IngestEventsRequest(events=[events.Event(event_id=uuid.uuid4().hex, user=user, item="items/any", event_type="view")])

    async def send() -> None:
        await fragile.door.call("EventService/IngestEvents", request, events.IngestEventsResponse, timeout_s=60)

    with stopped("redis-server"):
        for _ in range(2):  # the first one waits for Redis, the second finds it hung
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert b"google.rpc.RetryInfo" in dict(refused.value.trailing_metadata())["grpc-status-details-bin"]

    async def accepted() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await send()
            return True
        return False

    await eventually(accepted)
    async with open_database(fragile.parts.database_url, max_connections=2) as database:

        async def stored() -> int:
            async with database.tenant(SHOP) as connection:
                return int(await connection.fetchval("SELECT count(*) FROM events WHERE user_id = $1", user.removeprefix("users/")))

        await eventually(stored)
        await fragile.door.call("EventService/IngestEvents", request, events.IngestEventsResponse, timeout_s=60)
        await recovered(fragile)
        assert await stored() == 1


async def viewed(door: Door, user: str) -> str:
    """Ingests a view of no known item, and returns the token."""
    request = events.IngestEventsRequest(events=[events.Event(user=user, item="items/any", event_type="view")])
    reply = await door.call("EventService/IngestEvents", request, events.IngestEventsResponse, timeout_s=DEADLINE_S)
    return reply.consistency_token


async def test_every_rung_is_reached_and_named(fragile: Fragile) -> None:
    """From all parts well down to nothing but the catalogue, each reply has its items, its rung, and why it came no further."""
    async with open_database(fragile.parts.database_url, max_connections=2) as database:
        tenant = TenantId("young")
        async with database.system() as connection:
            await create_tenant(connection, tenant)
        async with database.tenant(tenant) as connection:
            await upsert_items(connection, fragile.shop.items[:5])
        young = replace(fragile.door, key=await new_key(database, tenant))
    full = await recommend(fragile.door, KNOWN[1])
    no_ranker = await recommend(young, "users/a")
    token = await viewed(fragile.door, KNOWN[1])
    await asyncio.sleep(5.5)  # till then the process that took the event in knows it without Redis
    with stopped("redis-server"):
        stale = await recommend(fragile.door, KNOWN[1], consistency_token=token)
    with stopped("postgres"):
        popular, static = await asyncio.gather(recommend(fragile.door, "users/rung-popular"), recommend(young, "users/rung-static"))
    replies = [full, no_ranker, stale, popular, static]
    assert [pb.Ladder.Rung.Name(reply.rung) for reply in replies] == ["FULL", "NO_RANKER", "STALE_VECTOR", "SEGMENT_POPULAR", "STATIC"]
    for reply, words in zip(replies, ["", "no live bundle", "token's events", "no profile", "nobody chose anything"], strict=True):
        assert reply.items
        assert words in reply.rung_reason
    assert full.rung_reason == ""
    assert not stale.consistent
    await recovered(fragile)


async def test_a_catalogue_that_cannot_be_loaded_is_unavailable(fragile: Fragile) -> None:
    """A tenant whose catalogue was never loaded gets UNAVAILABLE that names the database while it is down, and a list afterwards."""
    async with open_database(fragile.parts.database_url, max_connections=2) as database:
        tenant = TenantId("late")
        async with database.system() as connection:
            await create_tenant(connection, tenant)
        key = await new_key(database, tenant)
    # Seen once, so that the key opens while the database is down; the catalogue is not loaded by it.
    await fragile.door.call("EmbeddingService/EmbedTexts", embedding.EmbedTextsRequest(texts=["a"]), embedding.EmbedTextsResponse, key=key)
    await killed("postgres")
    response = await fragile.door.rest("POST", "/v1/users/a:recommendItems", key=key, json={})
    assert response.status_code == 503, response.text
    assert response.json()["message"].startswith("database: ")

    async def answered() -> bool:
        return (await fragile.door.rest("POST", "/v1/users/a:recommendItems", key=key, json={})).status_code == 200

    await eventually(answered)
