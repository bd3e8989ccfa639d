from __future__ import annotations

import asyncio

from server.errors import UnavailableError
from server.service.chores import Chores
from tests.eventually import eventually


async def test_asked_while_running_it_runs_once_more() -> None:
    """However often a chore is asked for while it runs, it runs once more after, never twice at once."""
    chores, runs, gate = Chores(), [], asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        await gate.wait()

    chores.ask("a", work)
    await asyncio.sleep(0)
    for _ in range(5):
        chores.ask("a", work)
    assert runs == [0]
    gate.set()

    async def done() -> bool:
        return len(runs) == 2 and not [task for task in asyncio.all_tasks() if task.get_name() == "a"]

    await eventually(done)
    await chores.close()


async def test_it_is_tried_until_it_is_done() -> None:
    """A chore that fails, foreseen or not, is tried again."""
    chores, failures = Chores(), [UnavailableError("database", "down"), OSError("odd")]
    done = asyncio.Event()

    async def work() -> None:
        if failures:
            raise failures.pop()
        done.set()

    chores.ask("a", work)
    await asyncio.wait_for(done.wait(), 20)
    await chores.close()


async def test_closing_ends_what_runs() -> None:
    """After `close` nothing runs any more."""
    chores = Chores()
    chores.ask("a", lambda: asyncio.sleep(3600))
    await asyncio.sleep(0)
    await chores.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "a"]
