from __future__ import annotations

import asyncio
import uuid

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain import Event, EventId, ItemId, TenantId, UserId
from server.store import Database
from server.store.database import Connection
from server.store.events import apply_events
from server.store.sequences import AppliedEvents, RecentSequences, Seen, UserSequence, iter_changed, read_applied, read_seen
from server.store.tenants import create_tenant
from tests.event_factories import event

_HIDE = ("hide",)


async def _apply(connection: Connection, tenant_id: TenantId, events: list[Event]) -> AppliedEvents:
    return await read_applied(connection, tenant_id, await apply_events(connection, tenant_id, events), unwanted=_HIDE)


async def _changed(connection: Connection, tenant_id: TenantId, after: int, *, limit: int = 100) -> list[UserSequence]:
    moment = event(after).occur_time
    chunks = [chunk async for chunk in iter_changed(connection, tenant_id, after=moment, unwanted=_HIDE, limit=limit, chunk=1)]
    assert all(len(chunk) == 1 for chunk in chunks)
    return sorted((chunk[0] for chunk in chunks), key=lambda one: one.items)


def _told(one: UserSequence) -> tuple[str, list[int]]:
    return "".join(one.items), list(one.new)


async def test_applied_events_come_with_what_their_users_did_before(database: Database, tenant_id: TenantId) -> None:
    """A user's sequence is in order of time, marks what is new, and knows neither unwanted events nor those without an item."""

    def of(number: int, item: str | None, kind: str = "view", user: str = "ann") -> Event:
        return event(number, item_id=ItemId(item) if item else None, event_type=kind, user_id=UserId(user))

    async with database.tenant(tenant_id) as connection:
        first = await _apply(connection, tenant_id, [of(1, "a"), of(2, "x", "HIDE"), of(3, None), of(5, "c")])
        again = await _apply(connection, tenant_id, [of(1, "a")])
        others = [of(9, "z", user="bob"), of(10, "y", "hide", "cid")]
        second = await _apply(connection, tenant_id, [of(4, "b"), of(6, "d"), of(1, "a"), *others])
    assert [_told(one) for one in first.sequences] == [("ac", [0, 1])]
    assert (again.transaction, list(again.sequences)) == (0, [])
    assert sorted(_told(one) for one in second.sequences) == [("abcd", [1, 3]), ("z", [0])]
    assert second.sequences_by_user[UserId("ann")].actions[0] == ("view", event(4).occur_time.timestamp())
    assert second.transaction == first.transaction > 0


async def test_as_much_comes_before_the_new_as_a_history_has(database: Database, tenant_id: TenantId) -> None:
    """Before the first of the new events there are 200 earlier ones, however many are new."""
    async with database.tenant(tenant_id) as connection:
        await _apply(connection, tenant_id, [event(number) for number in range(250)])
        (one,) = (await _apply(connection, tenant_id, [event(number) for number in range(250, 260)])).sequences
    assert (one.items[0], len(one.items), list(one.new)) == ("i50", 210, list(range(200, 210)))


async def test_of_two_writers_of_a_user_one_sees_the_other_s_events(database: Database, tenant_id: TenantId) -> None:
    """Transactions that meet at a user take turns, so that each pair of its events is told once."""

    async def write(number: int) -> AppliedEvents:
        async with database.tenant(tenant_id) as connection:
            told = await _apply(connection, tenant_id, [event(number)])
            await asyncio.sleep(0.05)
            return told

    told = [_told(one) for both in await asyncio.gather(*map(write, range(6))) for one in both.sequences]
    assert sorted(items.count("i") for items, _ in told) == [1, 2, 3, 4, 5, 6]


async def test_what_happened_after_a_moment_is_new(database: Database, tenant_id: TenantId) -> None:
    """Users with later events come with their earlier ones; beyond the limit only the newest events are new."""
    made = [event(number, user_id=UserId(user), item_id=ItemId(user[0])) for number, user in enumerate(["ann", "bob", "ann", "cid", "bob"])]
    async with database.tenant(tenant_id) as connection:
        await apply_events(connection, tenant_id, [*made, event(9, event_type="hide", user_id=UserId("dan"))])
    async with database.tenant(tenant_id, isolation="repeatable_read") as connection:
        assert [_told(one) for one in await _changed(connection, tenant_id, 1)] == [("aa", [1]), ("bb", [1]), ("c", [0])]
        assert [_told(one) for one in await _changed(connection, tenant_id, -1, limit=2)] == [("bb", [1]), ("c", [0])]
        assert await _changed(connection, tenant_id, 5) == []


async def test_a_reader_knows_which_transactions_it_has_seen(database: Database, tenant_id: TenantId) -> None:
    """Each event is either read or applied by a transaction that was not seen: of those ended, running and to come."""
    async with database.tenant(tenant_id) as connection:
        ended = await _apply(connection, tenant_id, [event(1)])
    async with database.tenant(tenant_id) as writing:
        running = await _apply(writing, tenant_id, [event(2, user_id=UserId("bob"))])
        async with database.tenant(tenant_id, isolation="repeatable_read") as reading:
            seen = await read_seen(reading)
            async with database.tenant(tenant_id) as connection:
                later = await _apply(connection, tenant_id, [event(3, user_id=UserId("cid"))])
            found = await _changed(reading, tenant_id, 0)
    assert [told.transaction in seen for told in (ended, running, later)] == [True, False, False]
    assert [_told(one)[0] for one in found] == ["i1"]


def test_a_snapshot_s_text_is_read() -> None:
    """What ended lies below the first running transaction, or between and not among the running."""
    seen = Seen.parse("10:15:10,12")
    assert [number in seen for number in range(9, 17)] == [True, False, True, False, True, True, False, False]
    assert 9 in Seen.parse("10:10:")


@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["ann", "bob"]), st.sampled_from(["view", "hide"])), min_size=1, max_size=6),
        min_size=1,
        max_size=8,
    ),
    strangers=st.sets(st.integers(0, 7)),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_is_remembered_is_what_the_database_would_say(
    database: Database, batches: list[list[tuple[int, str, str]]], strangers: set[int]
) -> None:
    """In whatever order events come, with another process writing some, a sequence from memory is the one that is read."""
    tenant_id = TenantId(f"r{uuid.uuid4().hex[:12]}")
    async with database.system() as connection:
        await create_tenant(connection, tenant_id)
    recent = RecentSequences()
    number = 0
    for place, batch in enumerate(batches):
        events = []
        for second, user, kind in batch:
            number += 1
            events.append(
                event(second, event_id=EventId(f"e{number}"), user_id=UserId(user), event_type=kind, item_id=ItemId(f"i{number}"))
            )
        async with database.tenant(tenant_id) as connection:
            applied = await apply_events(connection, tenant_id, events)
            read = await read_applied(connection, tenant_id, applied, unwanted=_HIDE)
            if place in strangers:
                continue
            told = await read_applied(connection, tenant_id, applied, unwanted=_HIDE, recent=recent)
        assert dict(told.sequences_by_user) == dict(read.sequences_by_user)
        recent.keep(tenant_id, told)


async def test_the_next_event_in_order_is_told_without_reading_the_history(database: Database, tenant_id: TenantId) -> None:
    """After a commit, a later event of the user extends what is remembered; an earlier one, or a profile written meanwhile, does not."""
    recent = RecentSequences()
    ann = UserId("ann")
    async with database.tenant(tenant_id) as connection:
        told = await read_applied(
            connection, tenant_id, await apply_events(connection, tenant_id, [event(5)]), unwanted=_HIDE, recent=recent
        )
    recent.keep(tenant_id, told)
    version, created = told.versions[ann]
    later = recent.extended(tenant_id, ann, (version + 1, created), [event(6)])
    assert later is not None
    assert (later.items, later.new) == (("i5", "i6"), (1,))
    assert recent.extended(tenant_id, ann, (version + 1, created), [event(4)]) is None
    assert recent.extended(tenant_id, ann, (version + 2, created), [event(6)]) is None
