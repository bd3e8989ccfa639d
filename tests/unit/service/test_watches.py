from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import TenantId, UserId
from server.errors import OverloadedError, UnavailableError
from server.service.users import PROFILES
from server.service.watches import Cause, Watches

ACME = TenantId("acme")
ANN = UserId("ann")


@given(st.lists(st.booleans(), max_size=30))
def test_no_change_is_lost_and_a_late_reader_hears_of_all_at_once(told: list[bool]) -> None:
    """However changes and looks follow each other, the counts of the looks add up to the changes told between the first and the last."""

    async def run() -> None:
        watches = Watches(1)
        with watches.watch(ACME, ANN) as watch:
            changes = watch.changes()
            assert (await anext(changes)).cause is Cause.INITIAL
            seen = waiting = 0
            for look in told:
                if look and waiting:
                    change = await anext(changes)
                    assert change.first_time is not None
                    seen += change.count
                    waiting = 0
                elif not look:
                    watches.on_invalidation(ACME, PROFILES, [ANN])
                    waiting += 1
            if waiting:
                seen += (await anext(changes)).count
            assert seen == told.count(False)

    asyncio.run(run())


async def test_only_those_who_watch_the_user_hear() -> None:
    """A change of another user, tenant or kind wakes nobody; missed messages wake everybody."""
    watches = Watches(2)
    with watches.watch(ACME, ANN) as watch:
        changes = watch.changes()
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        watches.on_invalidation(ACME, PROFILES, ["bob"])
        watches.on_invalidation(TenantId("other"), PROFILES, [ANN])
        watches.on_invalidation(ACME, "applied", [ANN])
        await asyncio.sleep(0)
        assert not waiting.done()
        watches.on_invalidation(TenantId(""), "", ())
        assert (await waiting).cause is Cause.RESYNC


async def test_watches_are_bounded_and_counted_out() -> None:
    """One more than the limit is refused; one that ends makes room, and a user whom nobody watches leaves nothing behind."""
    watches = Watches(2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(watches.watch(ACME, ANN))
        with pytest.raises(OverloadedError), watches.watch(ACME, ANN):
            pass
    with watches.watch(ACME, ANN):
        pass
    assert watches._by_user == {}


async def test_a_stop_ends_all_and_lets_none_in() -> None:
    """Closing ends a watch that waits, and refuses new ones, so that clients go elsewhere."""
    watches = Watches(2)
    with watches.watch(ACME, ANN) as watch:
        changes = watch.changes()
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        watches.close()
        with pytest.raises(UnavailableError):
            await waiting
    with pytest.raises(UnavailableError), watches.watch(ACME, ANN):
        pass
