"""Searches of concurrent requests, answered together.

    short        ──> on the event loop, all that were asked for in one turn of it
    else         ──> a search starts at once where a thread is free
    all busy     ──> searches wait, and the next thread that is free takes all that ask the same moment of the index

So nothing waits to fill a batch; under load exact search is one matrix product for many, and one hop between threads serves many.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from server.retrieval.vector_rows import IntArray
from server.retrieval.view import Ask, IndexView

_AT_ONCE = 32
"""Searches answered together: an exact product gains little beyond, and the first of them waits for the last."""

_Waiting = tuple[IndexView, Ask, "asyncio.Future[IntArray]"]


class Gathering:
    """Runs searches for one event loop.

    Args:
        executor: Where they run. None: the loop's default one.
        threads: Searches that run at the same time; by default as many as there are cores for this process.
    """

    def __init__(self, executor: Executor | None = None, *, threads: int | None = None) -> None:
        self._executor = executor
        self._threads = threads or len(os.sched_getaffinity(0))
        self._running = 0
        self._waiting: list[_Waiting] = []
        self._alone: list[_Waiting] = []
        self._soon: list[_Waiting] = []

    async def nearest(self, view: IndexView, ask: Ask, *, short: bool = False) -> IntArray:
        """Returns the best rows of one query, in no order; see `IndexView.nearest`.

        Args:
            view: The moment of the index that is asked.
            ask: What is asked.
            short: Whether to search on the event loop: it costs less than to move it to a thread and back.

        Raises:
            InvalidFieldError: See `IndexView.search_now`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[IntArray] = loop.create_future()
        if short:
            if not self._soon:
                loop.call_soon(self._answer_here)
            self._soon.append((view, ask, answer))
        else:
            self._waiting.append((view, ask, answer))
            self._start()
        return await answer

    def _answer_here(self) -> None:
        """Answers what was asked for in this turn of the loop; what is more than a batch has to wait for the next."""
        taken, self._soon = _same_moment(self._soon)
        if self._soon:
            asyncio.get_running_loop().call_soon(self._answer_here)
        try:
            found = taken[0][0].nearest([ask for _, ask, _ in taken])
        except Exception:  # noqa: BLE001  # one of them is at fault, and each learns of its own
            found = None
        for place, (view, ask, answer) in enumerate(taken):
            if answer.done():
                continue
            try:
                answer.set_result(view.nearest([ask])[0] if found is None else found[place])
            except Exception as error:  # noqa: BLE001  # whatever it is, who asked has to learn of it
                answer.set_exception(error)

    def _start(self) -> None:
        """Gives what waits to a free thread, if there is one."""
        if self._running >= self._threads or not (self._alone or self._waiting):
            return
        if self._alone:
            taken = [self._alone.pop()]
        else:
            taken, self._waiting = _same_moment(self._waiting)
        view = taken[0][0]
        self._running += 1
        run = asyncio.get_running_loop().run_in_executor(self._executor, view.nearest, [ask for _, ask, _ in taken])
        run.add_done_callback(partial(self._finish, taken))

    def _finish(self, taken: Sequence[_Waiting], run: asyncio.Future[list[IntArray]]) -> None:
        self._running -= 1
        try:
            found = run.result()
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait have to learn of it
            self._fail(taken, error)
        else:
            for (_, _, answer), rows in zip(taken, found, strict=True):
                if not answer.done():
                    answer.set_result(rows)
        self._start()

    def _fail(self, taken: Sequence[_Waiting], error: BaseException) -> None:
        """Lets each of several try alone, since one may be at fault; a single one gets its error."""
        if len(taken) > 1:
            self._alone += taken
            return
        for _, _, answer in taken:
            if not answer.done():
                answer.set_exception(error)


def _same_moment(waiting: Sequence[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
    """Returns those that ask the moment of the index that the first asks, at most a batch, and the rest."""
    view, taken, rest = waiting[0][0], list[_Waiting](), list[_Waiting]()
    for one in waiting:
        (taken if one[0] is view and len(taken) < _AT_ONCE else rest).append(one)
    return taken, rest
