from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from server.domain import Event, EventId, Profile, TenantId, UserId
from server.domain.history import apply_events as expected_profile
from server.domain.profiles import HISTORY_LIMIT
from server.errors import AbortedError, InvalidFieldError, NotFoundError
from server.store import Database
from server.store.events import apply_events, iter_interactions
from server.store.profiles import delete_profile, get_profile, get_profiles, save_embeddings, update_profile
from server.store.tenants import create_tenant
from tests.event_factories import NOON, event

ANN = UserId("ann")


async def _apply(database: Database, tenant_id: TenantId, events: list[Event]) -> list[Event]:
    async with database.tenant(tenant_id) as connection:
        return await apply_events(connection, tenant_id, events)


async def _profile(database: Database, tenant_id: TenantId, user_id: UserId = ANN) -> Profile | None:
    async with database.tenant(tenant_id) as connection:
        return await get_profile(connection, tenant_id, user_id)


async def _partition(database: Database, tenant_id: TenantId, event_id: str) -> str:
    async with database.system() as connection:
        name: str = await connection.fetchval(
            "SELECT tableoid::regclass::text FROM events WHERE tenant_id = $1 AND event_id = $2", tenant_id, event_id
        )
        return name


async def test_applied_profile_is_the_pure_rule_s(database: Database, tenant_id: TenantId) -> None:
    """Profile and history read from the database are what the pure rule makes of the same events."""
    made = [event(number, occur_time=NOON + timedelta(seconds=number % 7)) for number in range(30)]
    made += [event(30, item_id=None, event_type="page_view"), event(31, user_id=UserId("bob"))]
    assert made[:20] == await _apply(database, tenant_id, made[:20])
    assert made[20:] == await _apply(database, tenant_id, made[20:])
    read = await _profile(database, tenant_id)
    assert read is not None
    expected = expected_profile(Profile(user_id=ANN), made[:31])
    assert (expected.history, expected.engagement_history) == (read.history, read.engagement_history)
    assert read.version == 2


async def test_an_event_counts_once(database: Database, tenant_id: TenantId) -> None:
    """The same id counts once: within a batch, in a later batch, and with other content."""
    first = event(1)
    batch = [first, event(2), replace(first, event_type="booking"), event(3)]
    assert [first, event(2), event(3)] == await _apply(database, tenant_id, batch)
    assert await _apply(database, tenant_id, [replace(first, occur_time=NOON + timedelta(days=90))]) == []
    read = await _profile(database, tenant_id)
    assert read is not None
    assert read.engagement_history == {"view": 3}
    assert read.version == 1


async def test_writers_that_meet_count_once(database: Database, tenant_id: TenantId) -> None:
    """Writers that apply the same events of the same users at once, in different orders, neither deadlock nor count twice."""
    made = [event(number, user_id=UserId(f"u{number % 5}")) for number in range(60)]
    turns = [made, made[::-1], made[30:] + made[:30], made[::2] + made[1::2]]
    applied = await asyncio.gather(*(_apply(database, tenant_id, turn) for turn in turns))
    assert sorted(one.event_id for one in made) == sorted(one.event_id for batch in applied for one in batch)
    async with database.tenant(tenant_id) as connection:
        profiles = await get_profiles(connection, tenant_id, [UserId(f"u{number}") for number in range(5)])
    assert [one.engagement_history for one in profiles.values()] == [{"view": 12}] * 5


async def test_a_failed_transaction_leaves_nothing(database: Database, tenant_id: TenantId) -> None:
    """Events of a transaction that fails are not known, so they count when they come again."""

    async def fail() -> None:
        async with database.tenant(tenant_id) as connection:
            await apply_events(connection, tenant_id, [event(1)])
            raise RuntimeError("after applying")

    with pytest.raises(RuntimeError, match="after applying"):
        await fail()
    assert [event(1)] == await _apply(database, tenant_id, [event(1)])


async def test_events_of_one_tenant_are_not_another_s(database: Database, tenant_id: TenantId) -> None:
    """The same event id in two tenants is two events, and each sees its own."""
    other = TenantId(f"{tenant_id}-other")
    async with database.system() as connection:
        await create_tenant(connection, other)
    await _apply(database, tenant_id, [event(1)])
    assert [event(1)] == await _apply(database, other, [event(1)])
    async with database.tenant(other) as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 1
        assert await connection.fetchval("SELECT count(*) FROM event_keys") == 1
        assert await connection.fetchval("SELECT count(*) FROM user_personalization_profiles") == 1
        partitions = [
            row[0]
            for row in await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
        ]
        for partition in partitions:
            assert await connection.fetchval(f"SELECT count(*) FROM {partition} WHERE tenant_id <> $1", other) == 0
        assert await get_profile(connection, tenant_id, ANN) is None


async def test_months_get_partitions(database: Database, tenant_id: TenantId) -> None:
    """Events of this month lie in its own partition, old ones in the one of the past, far ones in the default one."""
    now = datetime.now(UTC)
    made = [event(1, occur_time=now), event(2, occur_time=datetime(2009, 3, 1, tzinfo=UTC)), event(3, occur_time=now + timedelta(days=400))]
    await _apply(database, tenant_id, made)
    assert [f"events_{now:%Y_%m}", "events_past", "events_other"] == [
        await _partition(database, tenant_id, f"e{number}") for number in (1, 2, 3)
    ]


async def test_a_month_that_cannot_have_a_partition_is_kept_elsewhere(database: Database, tenant_id: TenantId) -> None:
    """While another transaction holds the default partition, events of a new month are stored all the same."""
    month = (datetime.now(UTC).replace(day=1) + timedelta(days=40)).replace(day=1)
    async with database.system() as connection:
        await connection.execute("LOCK TABLE events_other IN ACCESS SHARE MODE")
        await _apply(database, tenant_id, [event(1, occur_time=month)])
    assert await _partition(database, tenant_id, "e1") == "events_other"
    await _apply(database, tenant_id, [event(2, occur_time=month)])
    assert await _partition(database, tenant_id, "e2") == "events_other"


async def test_history_holds_the_newest(database: Database, tenant_id: TenantId) -> None:
    """A history is the newest `HISTORY_LIMIT` events, whatever order they came in; the counters go on."""
    made = [event(number) for number in range(HISTORY_LIMIT + 20)]
    await _apply(database, tenant_id, made[::-1])
    read = await _profile(database, tenant_id)
    assert read is not None
    assert [one.event_id for one in made[20:]] == [one.event_id for one in read.history]
    assert read.engagement_history == {"view": HISTORY_LIMIT + 20}


async def test_export_is_ordered_by_user_and_time(database: Database, tenant_id: TenantId) -> None:
    """Training reads all interactions, by user and then time, in chunks that leave nothing out."""
    made = [event(number, user_id=UserId(f"u{number % 3}"), value=0.5 * number) for number in range(25)] + [event(99, item_id=None)]
    await _apply(database, tenant_id, made[::-1])
    async with database.tenant(tenant_id) as connection:
        chunks = [chunk async for chunk in iter_interactions(connection, tenant_id, chunk=10, end_time=NOON + timedelta(seconds=24))]
    assert [len(chunk) for chunk in chunks] == [10, 10, 4]
    read = [one for chunk in chunks for one in chunk]
    assert sorted(made[:24], key=lambda one: (one.user_id, one.occur_time)) == [
        event(round(one.occur_time_s - NOON.timestamp()), user_id=one.user_id, item_id=one.item_id, value=one.value) for one in read
    ]


async def test_profile_fields_are_set_and_the_rest_stays(database: Database, tenant_id: TenantId) -> None:
    """An update writes the fields it names, makes a missing profile, and moves the version."""
    async with database.tenant(tenant_id) as connection:
        made = await update_profile(connection, tenant_id, ANN, {"traits": {"guests": 120}, "locale": "en-GB", "event_date": NOON})
        assert made.version == 1
        changed = await update_profile(connection, tenant_id, ANN, {"preference_scores": {"venues": 0.8}}, version=1)
    assert (changed.traits, changed.locale, changed.event_date, changed.preference_scores) == (
        {"guests": 120},
        "en-GB",
        NOON,
        {"venues": 0.8},
    )
    assert changed.version == 2


async def test_profile_update_refuses(database: Database, tenant_id: TenantId) -> None:
    """A stale version, a missing profile that may not be made, and a field that only events write are refused."""
    async with database.tenant(tenant_id) as connection:
        with pytest.raises(NotFoundError, match="users/ann"):
            await update_profile(connection, tenant_id, ANN, {"locale": "de"}, allow_missing=False)
        await update_profile(connection, tenant_id, ANN, {"locale": "de"})
        with pytest.raises(AbortedError, match="read it again"):
            await update_profile(connection, tenant_id, ANN, {"locale": "fr"}, version=7)
        with pytest.raises(InvalidFieldError, match="engagement_history"):
            await update_profile(connection, tenant_id, ANN, {"engagement_history": {}})


async def test_deleting_a_profile_takes_its_events_but_not_their_ids(database: Database, tenant_id: TenantId) -> None:
    """After a deletion profile and events are gone, those of others stay, and an old event sent again does not count."""
    await _apply(database, tenant_id, [event(1), event(2), event(3, user_id=UserId("bob"))])
    async with database.tenant(tenant_id) as connection:
        assert await delete_profile(connection, tenant_id, ANN)
        assert not await delete_profile(connection, tenant_id, ANN)
    assert [event(4)] == await _apply(database, tenant_id, [event(1), event(4)])
    read = await _profile(database, tenant_id)
    assert read is not None
    assert [one.item_id for one in read.history] == ["i4"]
    assert await _profile(database, tenant_id, UserId("bob")) is not None


async def test_an_embedding_is_kept_with_its_bundle(database: Database, tenant_id: TenantId) -> None:
    """A vector stands beside its profile with the bundle that made it, and changes no version."""
    vector = np.linspace(-1, 1, 1536, dtype=np.float32)
    async with database.tenant(tenant_id) as connection:
        made = await update_profile(connection, tenant_id, ANN, {})
        await save_embeddings(connection, tenant_id, {ANN: vector}, "b-1")
        kept = await connection.fetchrow("SELECT user_embedding, model_version, version FROM user_personalization_profiles")
    assert kept is not None
    np.testing.assert_array_equal(vector, kept["user_embedding"])
    assert (kept["model_version"], kept["version"]) == ("b-1", made.version)


async def test_an_anonymous_visitor_has_a_profile_of_that_id(database: Database, tenant_id: TenantId) -> None:
    """Events without user change the profile that their anonymous id names."""
    await _apply(database, tenant_id, [event(1, user_id=UserId(""), anonymous_id="device-7", event_id=EventId("x"))])
    read = await _profile(database, tenant_id, UserId("device-7"))
    assert read is not None
    assert [one.item_id for one in read.history] == ["i1"]
