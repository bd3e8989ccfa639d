from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import OverloadedError, UnavailableError
from server.service.conversations import AHEAD, Conversations
from tests.eventually import eventually


class Client:
    """Says numbers, and knows how many were read."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.read = 0

    async def say(self) -> AsyncGenerator[int, None]:
        """Yields them."""
        for number in range(self._count):
            self.read += 1
            yield number


class Work:
    """Answers that are made when they are told."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.may_end = asyncio.Event()

    async def answer(self, number: int) -> int:
        """Returns ten times the number."""
        self.begun.append(number)
        try:
            await self.may_end.wait()
        finally:
            self.ended.append(number)
        return number * 10


@given(st.lists(st.integers(0, 3), max_size=30))
def test_answers_come_in_order_however_long_each_takes(turns: list[int]) -> None:
    """Answers that are made side by side, and end in any order, are yielded in the order of their batches."""

    async def run() -> list[int]:
        async def say() -> AsyncGenerator[int, None]:
            for number in range(len(turns)):
                yield number

        async def answer(number: int) -> int:
            for _ in range(turns[number]):
                await asyncio.sleep(0)
            return number

        return [one async for one in Conversations(1).answers(say(), answer)]

    assert asyncio.run(run()) == list(range(len(turns)))


async def test_a_client_that_takes_no_answers_is_not_read() -> None:
    """Eight batches are read whose answers are not taken, and one more with each answer that is."""
    client, work = Client(100), Work()
    work.may_end.set()
    async with aclosing(Conversations(1).answers(client.say(), work.answer)) as answers:
        assert await anext(answers) == 0
        for taken in range(1, 20):

            async def is_read(least: int = taken - 1 + AHEAD) -> bool:
                return client.read >= least

            await eventually(is_read)
            await asyncio.sleep(0)
            assert client.read == taken - 1 + AHEAD
            assert await anext(answers) == taken * 10


async def test_batches_are_answered_side_by_side() -> None:
    """Eight are begun before the first is answered."""
    client, work = Client(100), Work()
    async with aclosing(Conversations(1).answers(client.say(), work.answer)) as answers:
        first = asyncio.ensure_future(anext(answers))

        async def all_begun() -> bool:
            return len(work.begun) == AHEAD

        await eventually(all_begun)
        work.may_end.set()
        assert await first == 0


async def test_a_stream_that_is_closed_leaves_nothing_behind() -> None:
    """What was being answered for a client that leaves is cancelled, and its place is free."""
    conversations, work = Conversations(1), Work()
    answers = conversations.answers(Client(100).say(), work.answer)
    first = asyncio.ensure_future(anext(answers))

    async def all_begun() -> bool:
        return len(work.begun) == AHEAD

    await eventually(all_begun)
    with pytest.raises(OverloadedError, match="AISLE_MAX_EVENT_STREAMS"):
        await anext(conversations.answers(Client(1).say(), work.answer))
    first.cancel()
    await asyncio.wait([first])
    await answers.aclose()
    assert sorted(work.ended) == list(range(AHEAD))
    work.may_end.set()
    assert [one async for one in conversations.answers(Client(2).say(), work.answer)] == [0, 10]


async def test_a_drain_answers_what_was_read_and_ends_the_rest() -> None:
    """After a stop no more is read, what was is answered, the stream ends with UNAVAILABLE, and none begins; the drain waits for that."""
    conversations, client, work = Conversations(2), Client(100), Work()
    answers = conversations.answers(client.say(), work.answer)
    first = asyncio.ensure_future(anext(answers))

    async def all_begun() -> bool:
        return len(work.begun) == AHEAD

    await eventually(all_begun)
    drain = asyncio.ensure_future(conversations.drain(60))
    await asyncio.sleep(0)
    work.may_end.set()
    got = [await first]
    with pytest.raises(UnavailableError, match="another stream"):
        got += [await anext(answers) for _ in range(100)]
    await drain
    assert client.read == AHEAD
    with pytest.raises(UnavailableError):
        await anext(conversations.answers(Client(1).say(), work.answer))


async def test_a_drain_does_not_wait_for_ever() -> None:
    """A client that takes no answers holds a drain up no longer than it may take."""
    conversations, work = Conversations(1), Work()
    answers = conversations.answers(Client(1).say(), work.answer)
    first = asyncio.ensure_future(anext(answers))
    await conversations.drain(0.01)
    first.cancel()
    await asyncio.wait([first])


async def test_what_the_source_raises_ends_the_stream_after_the_answers() -> None:
    """A client's stream that breaks is told once what it said before has been answered."""

    async def say() -> AsyncGenerator[int, None]:
        yield 1
        raise ConnectionError

    async def answer(number: int) -> int:
        return number

    got: list[int] = []

    async def take() -> None:
        async for one in Conversations(1).answers(say(), answer):
            got.append(one)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(ConnectionError):
        await take()
    assert got == [1]
