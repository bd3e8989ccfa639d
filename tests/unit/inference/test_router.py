"""The router: the faster runtime, the other one when that fails, and back again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from server.errors import CorruptDataError, DeadlineExceededError, InvalidFieldError, NotFoundError, UnavailableError
from server.inference import RANKER, LocalRuntime, ModelSpec, Router, Tensors
from server.inference.router import _Estimate
from tests.model_factories import FEATURES, FaultyRuntime, linear_ranker

GIVEN = {"features": np.ones((3, FEATURES), np.float32)}
SUM = float(sum(range(FEATURES)))


def soon(seconds: float = 20.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@asynccontextmanager
async def routed(first: FaultyRuntime | None) -> AsyncIterator[Router]:
    """A router over `first` and a local runtime, with one ranker."""
    runtimes = [(LocalRuntime(threads=2), 2)]
    async with Router([(first, 2), *runtimes] if first else runtimes) as router:
        await router.load("ranker-x", RANKER, linear_ranker())
        if first and not first.down and not isinstance(first, OtherModel):
            await until(router, first.name)
        yield router


async def ask(router: Router, seconds: float = 20.0) -> str:
    """Asks once, checks the scores, returns the runtime."""
    outputs, runtime = await router.infer("ranker-x", RANKER, GIVEN, deadline=soon(seconds))
    assert outputs["scores"].tolist() == [SUM] * 3
    return runtime


async def until(router: Router, runtime: str, seconds: float = 20.0) -> None:
    """Asks until `runtime` answers."""
    end = soon(seconds)
    while await ask(router) != runtime:
        assert time.monotonic() < end, f"{runtime} was not used again"
        await asyncio.sleep(0.05)


async def test_the_kernel_prefers_the_event_loop_to_models() -> None:
    """Where both want a core, calls that need no model do not wait for models: the threads of the local runtime are nicer."""
    runtime = LocalRuntime(threads=1)
    niceness = await asyncio.wrap_future(runtime._executor.submit(lambda: os.getpriority(os.PRIO_PROCESS, 0)))
    await runtime.close()
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)


async def test_one_runtime_alone_serves() -> None:
    """A router over the local runtime only answers by it."""
    async with routed(None) as router:
        assert await ask(router) == "local"


async def test_a_runtime_that_turns_slow_is_left() -> None:
    """Once a runtime proves slow, calls go to the faster one."""
    first = FaultyRuntime()
    async with routed(first) as router:
        first.delay_s = 0.1
        await until(router, "local")
        assert [await ask(router) for _ in range(5)] == ["local"] * 5


async def test_a_runtime_that_is_down_costs_no_answer() -> None:
    """Every call is answered by the other; the circuit opens, so the dead one is not asked again; it serves when it is back."""
    first = FaultyRuntime()
    async with routed(first) as router:
        first.down = True
        assert [await ask(router) for _ in range(10)] == ["local"] * 10
        before = first.calls
        assert [await ask(router) for _ in range(10)] == ["local"] * 10
        assert first.calls == before
        first.down = False
        await until(router, "faulty")


async def test_a_late_call_is_answered_by_the_other_runtime() -> None:
    """A call that hangs where calls took 20 ms is asked of the idle runtime too, long before its time is over; the loser is given up."""
    first = FaultyRuntime()
    async with routed(first) as router:
        first.delay_s = 0.02
        lane, key = router._lanes[0], ("ranker-x", GIVEN["features"].size.bit_length())
        for _ in range(20):
            lane.measured(key, 0.02)
        router._lanes[-1].measured(key, 10.0)  # so that the other is preferred
        first.hangs = True
        started = time.monotonic()
        assert await ask(router) == "local"
        assert time.monotonic() - started < 10  # hung, it would have had a hundred times 20 ms, or half of 20 s
        assert [one.in_flight for one in router._lanes] == [0, 0]


async def test_when_everything_is_late_few_calls_are_asked_twice() -> None:
    """Calls asked twice are a twentieth of all, beyond those few that were saved up, so hedging cannot double the load."""
    first = FaultyRuntime()
    async with routed(first) as router:
        lane, key, local = router._lanes[0], ("ranker-x", GIVEN["features"].size.bit_length()), router._lanes[-1]
        first.delay_s = 0.05
        hedged = 0
        for _ in range(60):
            lane.estimates[key] = _Estimate(0.003, time.monotonic(), 0.0)
            local.estimates[key] = _Estimate(10.0, time.monotonic(), 0.0)
            hedged += await ask(router) == "local"
        assert 1 <= hedged <= 60 * 0.05 + 3


async def test_the_last_resort_is_asked_however_slow_it_was() -> None:
    """When the only runtime with a closed circuit dies, the local one answers the very call, though its own circuit is open."""
    first = FaultyRuntime()
    async with routed(first) as router:
        router._lanes[-1].set_open(is_open=True)
        assert await ask(router) == first.name
        first.down = True
        assert await ask(router) == "local"


async def test_a_runtime_that_hangs_costs_a_part_of_the_deadline_and_no_answer() -> None:
    """Concurrent calls with two seconds each are all answered in time by the other runtime, and the hung one serves again later."""
    first = FaultyRuntime()
    async with routed(first) as router:
        first.hangs = True
        assert await asyncio.gather(*(ask(router, 2.0) for _ in range(30))) == ["local"] * 30
        before = first.calls
        assert [await ask(router, 2.0) for _ in range(10)] == ["local"] * 10
        assert first.calls == before
        first.hangs = False
        await until(router, "faulty")


async def test_with_every_runtime_failing_the_caller_learns_why() -> None:
    """The last failure is raised; with the circuit open the last runtime is asked all the same."""
    only = FaultyRuntime()
    async with Router([(only, 2)]) as router:
        await router.load("ranker-x", RANKER, linear_ranker())
        only.down = True
        for _ in range(5):
            with pytest.raises(UnavailableError, match="down"):
                await ask(router)
        only.down = False
        assert await ask(router) == "faulty"


async def test_a_deadline_in_the_past_asks_nobody() -> None:
    """The call is refused as DeadlineExceededError and no runtime sees it."""
    first = FaultyRuntime()
    async with routed(first) as router:
        before = first.calls
        with pytest.raises(DeadlineExceededError):
            await ask(router, -1.0)
        assert first.calls == before


async def test_the_callers_mistakes_are_not_the_runtimes_failures() -> None:
    """Wrong inputs and unknown models raise at once and open no circuit."""
    first = FaultyRuntime()
    async with routed(first) as router:
        for _ in range(5):
            with pytest.raises(InvalidFieldError):
                await router.infer("ranker-x", RANKER, {"features": np.ones((1, 2), np.float32)}, deadline=soon())
            with pytest.raises(NotFoundError):
                await router.infer("ranker-y", RANKER, GIVEN, deadline=soon())
        await until(router, "faulty")


async def test_a_corrupt_model_is_refused_when_it_is_loaded() -> None:
    """Loading raises, and the model of that name that served before still serves."""
    async with routed(FaultyRuntime()) as router:
        with pytest.raises(CorruptDataError):
            await router.load("ranker-x", RANKER, b"junk")
        await ask(router)


async def test_a_runtime_that_was_down_at_loading_gets_the_model_later() -> None:
    """Loading succeeds without it, and it serves the model after it came up."""
    first = FaultyRuntime()
    first.down = True
    async with routed(first) as router:
        assert await ask(router) == "local"
        first.down = False
        await until(router, "faulty")


class OtherModel(FaultyRuntime):
    """A runtime that holds another model under the same name."""

    async def infer(self, model_name: str, spec: ModelSpec, inputs: Tensors, *, timeout_s: float) -> Tensors:
        """As the parent, off by a half."""
        outputs = await super().infer(model_name, spec, inputs, timeout_s=timeout_s)
        return {name: value + np.float32(0.5) for name, value in outputs.items()}


async def test_a_runtime_that_holds_another_model_is_not_used() -> None:
    """Answers that differ by more than 1e-3 mean another model: scores of the two never mix."""
    async with routed(OtherModel()) as router:
        await asyncio.sleep(0.2)
        assert [await ask(router) for _ in range(5)] == ["local"] * 5


async def test_an_unloaded_model_is_unknown_to_every_runtime() -> None:
    """Nobody answers for it any more."""
    async with routed(FaultyRuntime()) as router:
        await router.unload("ranker-x")
        with pytest.raises(NotFoundError):
            await ask(router)


class Careless(FaultyRuntime):
    """A runtime that meets what nobody foresaw: its first load finds no file, the next look at its health breaks, and it does not close."""

    troubles = 2

    async def load(self, model_name: str, spec: ModelSpec, onnx: bytes | Path) -> None:
        """Fails once."""
        if self.troubles == 2:
            self.troubles = 1
            raise FileNotFoundError("config.pbtxt")
        await super().load(model_name, spec, onnx)

    async def ready(self) -> bool:
        """Fails once, after the load did."""
        if self.troubles == 1:
            self.troubles = 0
            raise ValueError("no such state")
        return await super().ready()

    async def close(self) -> None:
        """Closes, and fails all the same."""
        await super().close()
        raise OSError("socket")


async def test_an_unforeseen_error_costs_neither_the_mending_nor_the_close() -> None:
    """A runtime whose load, health and close raise errors of no class of ours serves when they pass; the others are closed at the end."""
    last = LocalRuntime(threads=2)
    router = await Router([(last, 2), (Careless(), 2), (LocalRuntime(threads=2), 2)]).__aenter__()
    await router.load("ranker-x", RANKER, linear_ranker())
    await until(router, "faulty")
    with pytest.raises(OSError, match="socket"):
        await router.__aexit__(None, None, None)
    assert not await last.ready()
