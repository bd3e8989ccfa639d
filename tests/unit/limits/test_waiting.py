"""Who goes first, who is refused, and that no permit is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import OverloadedError
from server.limits.concurrency import ConcurrencyLimit, Permit
from server.limits.waiting import LASTS_S, STANDING_S, Priority, WaitingRoom


class Door:
    """A room in front of one place, with a clock under control."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.limit = ConcurrencyLimit(slowdown=1.5, most=1, clock=lambda: self.now_s)
        self.room = WaitingRoom(self.limit, clock=lambda: self.now_s)
        self.entered: list[str] = []

    async def visit(self, name: str, priority: Priority = Priority.INTERACTIVE) -> Permit:
        """Enters, and says so."""
        permit = await self.room.enter(priority)
        self.entered.append(name)
        return permit

    def leave(self, permit: Permit | None = None) -> None:
        """Gives the place up."""
        self.room.leave("m", permit or Permit(self.now_s, -1, -1), answered=True)


async def _queue(door: Door, *visits: tuple[str, Priority]) -> list[asyncio.Task[Permit]]:
    tasks = []
    for name, priority in visits:
        tasks.append(asyncio.create_task(door.visit(name, priority)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


async def test_waiting_calls_go_by_priority_then_first_come_first_served() -> None:
    """Short queues are no overload: interactive calls go first, then the others, each kind in its order."""
    door = Door()
    await door.visit("running")
    order = [("b", Priority.BATCH), ("d", Priority.DEFAULT), ("i1", Priority.INTERACTIVE), ("i2", Priority.INTERACTIVE)]
    tasks = await _queue(door, *order)
    for _ in tasks:
        door.leave()
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert door.entered == ["running", "i1", "i2", "d", "b"]


async def test_under_overload_the_newest_goes_first_and_batch_is_refused_at_once() -> None:
    """Once somebody has waited too long without a break, batch calls do not wait, and the newest caller gets the place."""
    door = Door()
    await door.visit("running")
    tasks = await _queue(door, ("old", Priority.INTERACTIVE), ("new", Priority.INTERACTIVE))
    door.now_s += STANDING_S + 0.01
    assert door.room.overloaded
    with pytest.raises(OverloadedError) as caught:
        await door.visit("batch", Priority.BATCH)
    assert 0.5 <= caught.value.retry_after_s < 1
    door.leave()
    await tasks[1]
    assert door.entered == ["running", "new"]
    door.leave()
    await tasks[0]
    assert door.room.overloaded
    door.now_s += LASTS_S
    assert not door.room.overloaded


async def test_a_place_that_does_not_come_is_refused() -> None:
    """A call that waits in vain is refused and leaves nothing behind: the next one gets the place."""
    door = Door()
    await door.visit("running")
    with pytest.raises(OverloadedError):
        await door.visit("late")
    door.leave()
    await door.visit("next")
    assert door.entered == ["running", "next"]
    assert door.limit.running == 1


def _finished(tasks: list[asyncio.Task[Permit]]) -> list[Permit]:
    """Takes the tasks that ended from the list; returns what those that entered got."""
    ended = [task for task in tasks if task.done()]
    tasks[:] = [task for task in tasks if not task.done()]
    return [task.result() for task in ended if not task.cancelled() and task.exception() is None]


async def _live_through(steps: list[str]) -> None:
    door = Door()
    tasks: list[asyncio.Task[Permit]] = []
    inside: list[Permit] = []
    for step in steps:
        if step in {"visit", "batch"}:
            tasks.append(asyncio.create_task(door.visit(step, Priority.BATCH if step == "batch" else Priority.DEFAULT)))
        elif step == "leave" and inside:
            door.leave(inside.pop())
        elif step == "cancel" and tasks:
            tasks[-1].cancel()
        elif step == "overload":
            door.now_s += 1
        await asyncio.sleep(0)
        inside += _finished(tasks)
        assert len(inside) <= door.limit.running <= 1
    while tasks or inside:
        for permit in inside:
            door.leave(permit)
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        inside = _finished(tasks)
    assert door.limit.running == 0


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["visit", "batch", "leave", "cancel", "overload", "turn"]), max_size=60))
def test_no_permit_is_lost_or_given_twice(steps: list[str]) -> None:
    """Whatever callers do, never more than one runs, and when all are gone nobody is counted as running."""
    asyncio.run(_live_through(steps))
