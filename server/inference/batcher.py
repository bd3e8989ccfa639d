"""Coalesces rows of concurrent requests into one model call, greedily: a lone row never waits, a busy server batches by itself.

Costs are tokens: a 131-token text costs as much as seven of 16. Rows of like length share a batch, so little is computed for padding.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from server.errors import AisleError, DeadlineExceededError, OverloadedError, UnavailableError
from server.telemetry import logger

_log = logger("inference.batcher")

Row = TypeVar("Row")
Result = TypeVar("Result")

BUCKETS = (16, 32, 64, 128, 256, 512)
"""Upper limits, in tokens, of the lengths that share a batch. Longer rows share the last."""

_SMOOTHING = 0.1
"""Weight of the newest batch in the running mean of seconds a token."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the batcher's memory and its queue."""

    rows: int = 16
    """Most rows of a batch. On a CPU more than 16 short texts bring nothing and cost latency."""
    tokens: int = 512
    """Most tokens of a batch, its padding included. A single longer row still runs, alone."""
    queued_tokens: int = 65_536
    """Most tokens that wait. Past it requests are refused."""


@dataclass(slots=True)
class _Waiting(Generic[Row, Result]):
    row: Row
    tokens: int
    deadline: float
    arrival: int
    answer: asyncio.Future[Result] = field(repr=False)


class Batcher(Generic[Row, Result]):
    """Runs rows in batches of bounded size, at most `workers` batches at once, oldest row first.

    `run` gets the rows of a batch and the latest deadline among them, and returns one result a row, in order. Use from one event loop.
    """

    def __init__(
        self, run: Callable[[list[Row], float], Awaitable[Sequence[Result]]], *, workers: int, limits: Limits | None = None
    ) -> None:
        self._run = run
        self._workers = workers
        self._limits = limits or Limits()
        self._queues: dict[int, deque[_Waiting[Row, Result]]] = {bucket: deque() for bucket in BUCKETS}
        self._queued_tokens = 0
        self._arrivals = 0
        self._running: set[asyncio.Task[None]] = set()
        self._seconds_a_token = 0.0
        self._closed = False

    async def submit(self, rows: Sequence[Row], tokens: Sequence[int], deadline: float) -> list[Result]:
        """Returns the result of each row, in order. A caller that is cancelled leaves the queue.

        Args:
            rows: What `run` gets.
            tokens: Cost of each row, >= 1.
            deadline: time.monotonic() after which nobody wants the answer; rows still waiting then are dropped, not run.

        Raises:
            OverloadedError: The queue is full, or so long that the deadline would pass in it. Nothing was queued.
            DeadlineExceededError: The deadline passed.
        """
        self._admit(sum(tokens), deadline)
        loop = asyncio.get_running_loop()
        waiting = []
        for row, cost in zip(rows, tokens, strict=True):
            self._arrivals += 1
            entry: _Waiting[Row, Result] = _Waiting(row, cost, deadline, self._arrivals, loop.create_future())
            self._queues[_bucket(cost)].append(entry)
            self._queued_tokens += cost
            waiting.append(entry)
        self._start()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return [await entry.answer for entry in waiting]
        except TimeoutError:
            raise DeadlineExceededError("the deadline passed while the model was busy") from None
        finally:
            for entry in waiting:
                if entry.answer.done():
                    if not entry.answer.cancelled():
                        entry.answer.exception()  # seen: another row of this call failed first
                else:
                    entry.answer.cancel()

    async def close(self) -> None:
        """Refuses new rows, fails the waiting ones and ends the running batches."""
        self._closed = True
        for queue in self._queues.values():
            while queue:
                self._fail(queue.popleft(), UnavailableError("inference", "the server is stopping"))
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _admit(self, tokens: int, deadline: float) -> None:
        if self._closed:
            raise UnavailableError("inference", "the server is stopping")
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceededError("the deadline had passed before the model was asked")
        wait_s = self._queued_tokens * self._seconds_a_token / self._workers
        if self._queued_tokens and (self._queued_tokens + tokens > self._limits.queued_tokens or wait_s > remaining):
            raise OverloadedError(f"{self._queued_tokens} tokens wait for the model; send less or later", retry_after_s=max(wait_s, 0.05))

    def _start(self) -> None:
        while len(self._running) < self._workers and (batch := self._take()):
            task = asyncio.get_running_loop().create_task(self._execute(batch))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: list[_Waiting[Row, Result]], task: asyncio.Task[None]) -> None:
        """Fails what a batch left unanswered and starts the next. A task that is cancelled before its first step ends up here too."""
        self._running.discard(task)
        error = UnavailableError("inference", "the server is stopping") if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AisleError):
            _log.error("a batch failed", exc_info=error)
            error = UnavailableError("inference", "the batch failed; the log says why")
        if error is not None:
            for entry in batch:
                self._fail(entry, error)
        if not self._closed:
            self._start()

    def _take(self) -> list[_Waiting[Row, Result]]:
        """Returns the next batch: the oldest row, and those of like length behind it while they fit."""
        now = time.monotonic()
        while True:
            heads = [queue for queue in self._queues.values() if queue]
            if not heads:
                return []
            queue = min(heads, key=lambda waiting: waiting[0].arrival)
            batch: list[_Waiting[Row, Result]] = []
            longest = 0
            while queue and len(batch) < self._limits.rows:
                longest = max(longest, queue[0].tokens)
                if batch and longest * (len(batch) + 1) > self._limits.tokens:
                    break
                entry = queue.popleft()
                self._queued_tokens -= entry.tokens
                if entry.answer.done():
                    continue
                if entry.deadline <= now:
                    self._fail(entry, DeadlineExceededError("the deadline passed in the model's queue"))
                    continue
                batch.append(entry)
            if batch:
                return batch

    async def _execute(self, batch: list[_Waiting[Row, Result]]) -> None:
        started = time.monotonic()
        results = await self._run([entry.row for entry in batch], max(entry.deadline for entry in batch))
        for entry, result in zip(batch, results, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(result)
        each = (time.monotonic() - started) / sum(entry.tokens for entry in batch)
        self._seconds_a_token += (each - self._seconds_a_token) * (_SMOOTHING if self._seconds_a_token else 1.0)

    @staticmethod
    def _fail(entry: _Waiting[Row, Result], error: AisleError) -> None:
        if not entry.answer.done():
            entry.answer.set_exception(error)


def _bucket(tokens: int) -> int:
    return next((bucket for bucket in BUCKETS if tokens <= bucket), BUCKETS[-1])
