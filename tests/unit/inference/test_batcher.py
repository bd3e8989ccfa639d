"""The micro-batcher: every row once, with its own result, in batches of bounded size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import AisleError, CorruptDataError, DeadlineExceededError, OverloadedError, UnavailableError
from server.inference.batcher import Batcher, Limits


def soon(seconds: float = 30.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


class Recorder:
    """A model that answers each row with its own double, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, rows: list[tuple[int, int]], _deadline: float) -> Sequence[int]:
        """Rows are (id, tokens)."""
        self.batches.append(rows)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return [2 * number for number, _ in rows]


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=12), min_size=1, max_size=12),
    workers=st.integers(1, 3),
    rows=st.integers(1, 16),
    tokens=st.integers(1, 512),
)
def test_every_row_is_answered_once_with_its_own_result_within_the_budget(
    calls: list[list[int]], workers: int, rows: int, tokens: int
) -> None:
    """For any calls at once: each row runs exactly once, gets its own answer, and no batch exceeds rows or padded tokens."""

    async def everything() -> Recorder:
        model = Recorder()
        batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=workers, limits=Limits(rows, tokens, 10**9))
        start = 0
        wanted, pending = [], []
        for costs in calls:
            own = list(zip(range(start, start + len(costs)), costs, strict=True))
            start += len(costs)
            wanted.append([2 * number for number, _ in own])
            pending.append(batcher.submit(own, costs, soon()))
        assert await asyncio.gather(*pending) == wanted
        await batcher.close()
        return model

    model = asyncio.run(everything())
    assert sorted(number for batch in model.batches for number, _ in batch) == list(range(sum(map(len, calls))))
    assert model.most_running <= workers
    for batch in model.batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or max(cost for _, cost in batch) * len(batch) <= tokens


async def test_a_lone_row_runs_at_once_and_waiting_rows_share_a_batch() -> None:
    """Nothing waits for company on an idle server; what came while it was busy goes together."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1)
    calls = [asyncio.create_task(batcher.submit([(number, 8)], [8], soon())) for number in range(5)]
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in model.batches] == [1]
    model.gate.set()
    assert await asyncio.gather(*calls) == [[0], [2], [4], [6], [8]]
    assert [len(batch) for batch in model.batches] == [1, 4]


async def test_rows_of_unlike_length_do_not_share_a_batch() -> None:
    """A short text is not padded to a long one's length; the oldest goes first."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1)
    first = asyncio.create_task(batcher.submit([(0, 8)], [8], soon()))
    await asyncio.sleep(0)
    rest = asyncio.create_task(batcher.submit([(1, 9), (2, 200), (3, 10), (4, 190)], [9, 200, 10, 190], soon()))
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(first, rest)
    assert model.batches[1:] == [[(1, 9), (3, 10)], [(2, 200), (4, 190)]]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """Past the bound a call is refused before any of its rows is queued; the waiting ones are answered."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1, limits=Limits(16, 512, queued_tokens=100))
    running = asyncio.create_task(batcher.submit([(0, 10)], [10], soon()))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(batcher.submit([(1, 60)], [60], soon()))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await batcher.submit([(2, 41)], [41], soon())
    assert refused.value.retry_after_s > 0
    model.gate.set()
    assert await asyncio.gather(running, waiting) == [[0], [2]]


async def test_a_row_past_its_deadline_is_dropped_not_run() -> None:
    """Its caller gets DeadlineExceededError, and the model never sees it."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1)
    running = asyncio.create_task(batcher.submit([(0, 8)], [8], soon()))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError):
        await batcher.submit([(1, 8)], [8], soon(0.02))
    with pytest.raises(DeadlineExceededError):
        await batcher.submit([(2, 8)], [8], soon(-1))
    late = asyncio.create_task(batcher.submit([(3, 8)], [8], soon()))
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(running, late) == [[0], [6]]
    assert [number for batch in model.batches for number, _ in batch] == [0, 3]


async def test_a_cancelled_caller_leaves_the_queue() -> None:
    """Rows of a caller that hung up are not run."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1)
    running = asyncio.create_task(batcher.submit([(0, 8)], [8], soon()))
    await asyncio.sleep(0)
    gone = asyncio.create_task(batcher.submit([(1, 8)], [8], soon()))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    model.gate.set()
    assert await running == [0]
    await asyncio.sleep(0.01)
    assert model.batches == [[(0, 8)]]


@pytest.mark.parametrize("error", [CorruptDataError("damaged"), RuntimeError("a bug")])
async def test_a_batch_that_fails_fails_its_rows_and_no_other(error: Exception) -> None:
    """Callers of a failed batch get an AisleError; the next batch runs."""
    broken = True

    async def run(rows: list[int], _deadline: float) -> list[int]:
        await asyncio.sleep(0)
        if broken:
            raise error
        return rows

    batcher: Batcher[int, int] = Batcher(run, workers=1)
    with pytest.raises(AisleError):
        await batcher.submit([1, 2, 3], [8, 8, 8], soon())
    broken = False
    assert await batcher.submit([4], [8], soon()) == [4]


@pytest.mark.parametrize("steps", [0, 1, 5])
async def test_closing_fails_what_waits_and_refuses_what_comes(steps: int) -> None:
    """Nobody is left hanging when the server stops."""
    model = Recorder()
    model.gate.clear()
    batcher: Batcher[tuple[int, int], int] = Batcher(model.run, workers=1)
    calls = [asyncio.create_task(batcher.submit([(number, 8)], [8], soon())) for number in range(3)]
    for _ in range(1 + steps):
        await asyncio.sleep(0)
    await batcher.close()
    assert [type(result) for result in await asyncio.gather(*calls, return_exceptions=True)] == [UnavailableError] * 3
    with pytest.raises(UnavailableError):
        await batcher.submit([(9, 8)], [8], soon())
