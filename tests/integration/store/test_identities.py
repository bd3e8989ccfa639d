"""Who an anonymous id turned out to be, as events are applied."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from server.domain import Event, Profile, TenantId, UserId
from server.domain.history import subject_of
from server.errors import AbortedError
from server.store import Database
from server.store.events import apply_events
from server.store.identities import identify
from server.store.profiles import delete_profile, get_profile, update_profile
from tests.event_factories import event

ANN = UserId("ann")


def anonymous(number: int, anonymous_id: str = "phone") -> Event:
    """An event of a device before its user is known."""
    return event(number, user_id=UserId(anonymous_id), anonymous_id=anonymous_id)


def known(number: int, anonymous_id: str = "phone", user_id: str = "ann") -> Event:
    """An event of a user on that device."""
    return event(number, user_id=UserId(user_id), anonymous_id=anonymous_id)


async def take_in(database: Database, tenant_id: TenantId, *events: Event) -> list[Event]:
    """Applies a batch as the worker does, again where two writers met."""
    while True:
        try:
            async with database.tenant(tenant_id) as connection:
                return await apply_events(connection, tenant_id, await identify(connection, tenant_id, events))
        except AbortedError:
            continue


async def profile_of(database: Database, tenant_id: TenantId, user_id: str) -> Profile | None:
    """Returns a profile."""
    async with database.tenant(tenant_id) as connection:
        return await get_profile(connection, tenant_id, UserId(user_id))


async def items_of(database: Database, tenant_id: TenantId, user_id: str) -> list[str]:
    """Returns the items of a user's history, oldest first."""
    profile = await profile_of(database, tenant_id, user_id)
    return [one.item_id for one in profile.history] if profile else []


async def test_what_came_before_after_and_with_the_link_is_the_users(database: Database, tenant_id: TenantId) -> None:
    """Anonymous events are the user's whether they came before the event that tells who it is, in its batch, or later."""
    await take_in(database, tenant_id, anonymous(1))
    assert await items_of(database, tenant_id, "phone") == ["i1"]
    applied = await take_in(database, tenant_id, anonymous(2), known(3), anonymous(4))
    assert [subject_of(one) for one in applied] == [ANN] * 3
    await take_in(database, tenant_id, anonymous(5))
    assert await items_of(database, tenant_id, "ann") == ["i1", "i2", "i3", "i4", "i5"]
    assert await profile_of(database, tenant_id, "phone") is None
    merged = await profile_of(database, tenant_id, "ann")
    assert merged is not None
    assert merged.engagement_history == {"view": 5}


async def test_stated_facts_fill_what_the_user_has_not_said(database: Database, tenant_id: TenantId) -> None:
    """Of facts that both profiles have the user's stay; others are taken over; counts add up."""
    async with database.tenant(tenant_id) as connection:
        await update_profile(connection, tenant_id, UserId("phone"), {"traits": {"city": "Porto", "plan": "none"}, "locale": "pt"})
        await update_profile(connection, tenant_id, ANN, {"traits": {"plan": "paid"}, "time_zone": "Europe/Lisbon"})
    await take_in(database, tenant_id, known(1))
    merged = await profile_of(database, tenant_id, "ann")
    assert merged is not None
    assert (merged.traits, merged.locale, merged.time_zone) == ({"city": "Porto", "plan": "paid"}, "pt", "Europe/Lisbon")


async def test_the_first_user_of_an_id_stays(database: Database, tenant_id: TenantId) -> None:
    """Another user on the same device keeps what is theirs; the device's anonymous events stay with the first."""
    await take_in(database, tenant_id, known(1))
    await take_in(database, tenant_id, known(2, user_id="bob"), anonymous(3))
    assert await items_of(database, tenant_id, "ann") == ["i1", "i3"]
    assert await items_of(database, tenant_id, "bob") == ["i2"]


async def test_ids_that_follow_each_other_lead_to_the_last(database: Database, tenant_id: TenantId) -> None:
    """When a user becomes another, what was linked to the first is the second's; a circle is not closed."""
    await take_in(database, tenant_id, anonymous(1), known(2))
    await take_in(database, tenant_id, known(3, anonymous_id="ann", user_id="anna"), anonymous(4))
    assert await items_of(database, tenant_id, "anna") == ["i1", "i2", "i3", "i4"]
    await take_in(database, tenant_id, known(5, anonymous_id="anna", user_id="ann"))
    assert await items_of(database, tenant_id, "anna") == ["i1", "i2", "i3", "i4"]
    assert await items_of(database, tenant_id, "ann") == ["i5"]


async def test_writers_that_meet_leave_nothing_behind(database: Database, tenant_id: TenantId) -> None:
    """Batches of anonymous events, applied at once with those that tell who they are, all end with the user, counted once."""
    batches: list[Sequence[Event]] = []
    for device in range(4):
        batches += [[anonymous(100 * device + number, f"d{device}")] for number in range(1, 8)]
        batches.append([known(100 * device, f"d{device}")])
    random.Random(5).shuffle(batches)
    await asyncio.gather(*(take_in(database, tenant_id, *batch) for batch in batches))
    merged = await profile_of(database, tenant_id, "ann")
    assert merged is not None
    assert len(merged.history) == 32
    assert merged.engagement_history == {"view": 32}
    assert [await profile_of(database, tenant_id, f"d{device}") for device in range(4)] == [None] * 4


async def test_a_deleted_user_is_nobodys_any_more(database: Database, tenant_id: TenantId) -> None:
    """Deleting a profile forgets which ids were the user's: later anonymous events do not bring it back."""
    await take_in(database, tenant_id, anonymous(1), known(2))
    async with database.tenant(tenant_id) as connection:
        await delete_profile(connection, tenant_id, ANN)
    await take_in(database, tenant_id, anonymous(3))
    assert await profile_of(database, tenant_id, "ann") is None
    assert await items_of(database, tenant_id, "phone") == ["i3"]
