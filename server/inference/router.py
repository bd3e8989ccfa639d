"""Sends each model call to the runtime that is expected to answer first, and to the other one when that fails.

Expected completion: running mean of the model's latency on that runtime, times the rounds of calls already there. A mean nobody renewed
halves every few seconds, so a runtime that was slow once is tried again.

A call that is late for its runtime is asked of another that has nothing to do, and the first answer counts: few calls, those that make the
tail. Late is the mean and four mean deviations, as for retransmissions. Source: RFC 6298; J. Dean, L. A. Barroso, The Tail at Scale,
CACM 56 (2013).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from server.errors import AisleError, CorruptDataError, DeadlineExceededError, NotFoundError, UnavailableError
from server.inference.contract import ModelSpec, Runtime, Tensors
from server.telemetry import BATCH_ROWS, CIRCUIT_OPEN, HEDGES, INFERENCE_SECONDS, logger

_SMOOTHING = 0.2
_HALF_LIFE_S = 10.0
_LEAST_PATIENCE_S = 0.25
"""A first runtime always gets this long, if the caller's deadline allows it."""
_PATIENCE = 8.0
"""... or this many times its expected completion."""
_FAILURES = 2
"""Failures in a row that open the circuit."""
_PROBE_EVERY_S = 0.5
_LOAD_AGAIN_S = (1.0, 60.0)
"""Pause before a runtime that did not take a model is offered it again: first and longest, doubled each time."""
_LATE_DEVIATIONS = 4.0
_HEDGED_S = 0.002
"""A call expected to take less is not hedged: watching it costs more than the tail of a call so short."""
_HEDGED_SHARE = 0.05
"""Most calls that are asked twice, as a share of all: past it everything is late, and asking twice would make it later."""
_HEDGES_SAVED = 3.0
"""Most that are saved up from quiet times."""
_SAME = 1e-3
"""Largest difference between runtimes in any element of an answer. More: they do not hold the same model."""

_log = logger("inference.router")


class Answer(NamedTuple):
    """The outputs of one call and who computed them."""

    outputs: Tensors
    runtime: str


@dataclass(slots=True)
class _Model:
    spec: ModelSpec
    onnx: bytes | Path


@dataclass(slots=True)
class _Estimate:
    seconds: float
    at: float
    deviation: float
    """Running mean of the distance to the mean, in seconds."""


@dataclass(slots=True)
class _Lane:
    """One runtime and what is known of it."""

    runtime: Runtime
    capacity: int
    in_flight: int = 0
    failures: int = 0
    open: bool = False
    models: set[str] = field(default_factory=set)
    """Loaded there, and seen to answer like the others."""
    pauses: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Models it did not take: length of the pause, and when it ends."""
    leaving: set[str] = field(default_factory=set)
    """Models to be unloaded there."""
    estimates: dict[tuple[str, int], _Estimate] = field(default_factory=dict)

    def expected_s(self, key: tuple[str, int]) -> float:
        """Returns when a call started now would be answered, in seconds; 0 for what was never measured, so that it is."""
        estimate = self.estimates.get(key)
        if estimate is None:
            return 0.0
        rounds = 1 + self.in_flight // self.capacity
        return float(estimate.seconds * rounds * 0.5 ** ((time.monotonic() - estimate.at) / _HALF_LIFE_S))

    def measured(self, key: tuple[str, int], seconds: float) -> None:
        """Takes a latency into the mean and closes the count of failures."""
        self.failures = 0
        estimate = self.estimates.get(key)
        if estimate is None:
            mean, deviation = seconds, seconds / 2
        else:
            mean = estimate.seconds + _SMOOTHING * (seconds - estimate.seconds)
            deviation = estimate.deviation + _SMOOTHING * (abs(seconds - estimate.seconds) - estimate.deviation)
        self.estimates[key] = _Estimate(mean, time.monotonic(), deviation)

    def late_s(self, key: tuple[str, int]) -> float:
        """Returns after how many seconds a call counts as late; infinite for calls too short to watch, or never measured."""
        estimate = self.estimates.get(key)
        if estimate is None or estimate.seconds < _HEDGED_S:
            return math.inf
        return estimate.seconds + _LATE_DEVIATIONS * estimate.deviation

    def failed(self) -> None:
        """Counts a failure; enough of them open the circuit."""
        self.failures += 1
        if self.failures >= _FAILURES and not self.open:
            self.set_open(is_open=True)
            _log.warning("circuit opened", runtime=self.runtime.name, failures=self.failures)

    def set_open(self, *, is_open: bool) -> None:
        """Opens or closes the circuit, and says so in the metric."""
        self.open = is_open
        CIRCUIT_OPEN.labels(self.runtime.name).set(int(is_open))


class Router:
    """Both runtimes behind one call. The last of `runtimes` is the one that is asked when all else fails: put the local one there.

    A background task probes runtimes whose circuit is open with a call of their own and closes it when they answer, so no request pays
    for the probing; it also loads what a runtime missed.
    """

    def __init__(self, runtimes: Sequence[tuple[Runtime, int]]) -> None:
        self._lanes = [_Lane(runtime, capacity) for runtime, capacity in runtimes]
        self._models: dict[str, _Model] = {}
        self._hedges = _HEDGES_SAVED
        self._wake = asyncio.Event()
        self._mender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for lane in self._lanes:
            lane.set_open(is_open=False)
        self._mender = asyncio.get_running_loop().create_task(self._mend())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        async with AsyncExitStack() as closing:
            for lane in self._lanes:
                closing.push_async_callback(lane.runtime.close)
            if self._mender is not None:
                self._mender.cancel()
                await asyncio.gather(self._mender, return_exceptions=True)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the runtimes that are not asked, because they failed, until they answer a probe."""
        return tuple(lane.runtime.name for lane in self._lanes if lane.open)

    async def load(self, model_name: str, spec: ModelSpec, onnx: bytes | Path) -> None:
        """Loads a model into the last runtime; the others get it in the background, and again when they did not take it.

        Raises:
            CorruptDataError: The model is not of `spec`, or damaged.
            UnavailableError: The last runtime does not answer.
        """
        await self._lanes[-1].runtime.load(model_name, spec, onnx)
        self._models[model_name] = _Model(spec, onnx)
        for lane in self._lanes:
            lane.models.discard(model_name)
            lane.pauses.pop(model_name, None)
        self._lanes[-1].models.add(model_name)
        self._wake.set()

    async def unload(self, model_name: str) -> None:
        """Frees a model in the last runtime now and in the others in the background. One that does not answer keeps it till it restarts."""
        self._models.pop(model_name, None)
        for lane in self._lanes:
            lane.models.discard(model_name)
            lane.leaving.add(model_name)
        await self._unload_from(self._lanes[-1])
        self._wake.set()

    async def infer(self, model_name: str, spec: ModelSpec, inputs: Tensors, *, deadline: float) -> Answer:
        """Returns the answer of the first runtime that gives one before `deadline` (time.monotonic()).

        Raises:
            InvalidFieldError: `inputs` are not what `spec` says.
            NotFoundError: No such model was loaded.
            DeadlineExceededError: Nobody answered in time.
            UnavailableError: No runtime works.
            CorruptDataError: The model gives answers that are not of `spec`.
        """
        rows = spec.check_inputs(inputs)
        if model_name not in self._models:
            raise NotFoundError(f"models/{model_name}")
        key = (model_name, int(inputs[spec.inputs[0].name].size).bit_length())
        lanes = self._order(model_name, key)
        failure: AisleError = UnavailableError("inference", f"no runtime holds {model_name}")
        for lane in lanes:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceededError(f"{model_name} was not answered in time") from failure
            patience = max(_LEAST_PATIENCE_S, _PATIENCE * lane.expected_s(key))
            timeout_s = remaining if lane is lanes[-1] else min(remaining / 2, patience)
            ask = partial(self._ask, model_name=model_name, spec=spec, inputs=inputs, key=key, timeout_s=timeout_s)
            late_s = lane.late_s(key)
            spare = next((one for one in lanes if one is not lane and not one.open), None)
            self._hedges = min(_HEDGES_SAVED, self._hedges + _HEDGED_SHARE)
            try:
                if spare is None or late_s >= timeout_s:
                    outputs, answered = await ask(lane), lane
                else:
                    outputs, answered = await self._hedged(lane, spare, key, late_s, ask)
            except (UnavailableError, DeadlineExceededError, CorruptDataError, NotFoundError) as error:
                failure = error
                # A time-out of a call that had little time says nothing about the runtime.
                if not isinstance(error, DeadlineExceededError) or timeout_s >= min(patience, _LEAST_PATIENCE_S):
                    lane.failed()
            else:
                BATCH_ROWS.labels(spec.name, answered.runtime.name).observe(rows)
                return Answer(outputs, answered.runtime.name)
        raise failure

    async def _hedged(
        self, lane: _Lane, spare: _Lane, key: tuple[str, int], late_s: float, ask: Callable[[_Lane], Coroutine[Any, Any, Tensors]]
    ) -> tuple[Tensors, _Lane]:
        """Returns the first answer, and whose it is: of the lane, or once that is late of a spare one that has nothing to do.

        Fails as the lane does. A spare one that fails is as if it had not been asked.
        """
        started = time.monotonic()
        tasks = {asyncio.create_task(ask(lane)): lane}
        try:
            done, pending = await asyncio.wait(tasks, timeout=late_s)
            if not done and not spare.in_flight and self._hedges >= 1:
                self._hedges -= 1
                tasks[asyncio.create_task(ask(spare))] = spare
                pending = set(tasks)
            while True:
                won = next((task for task in tasks if task.done() and not task.cancelled() and task.exception() is None), None)
                if won is not None:
                    break
                if not pending:
                    return next(task for task, one in tasks.items() if one is lane).result(), lane
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # each is taken off its lane before anyone counts
        if len(tasks) > 1:
            HEDGES.labels("won" if tasks[won] is spare else "lost").inc()
            if tasks[won] is spare:
                lane.measured(key, time.monotonic() - started)  # it would have been longer still
        return won.result(), tasks[won]

    def _order(self, model_name: str, key: tuple[str, int]) -> list[_Lane]:
        holding = [lane for lane in self._lanes if model_name in lane.models]
        closed = [lane for lane in holding if not lane.open]
        ordered = sorted(closed, key=lambda lane: lane.expected_s(key))
        # The last resort is asked all the same: its circuit may be open for no more than having been slow, and the others die.
        return ordered + [lane for lane in holding[-1:] if lane not in ordered]

    @staticmethod
    async def _ask(lane: _Lane, model_name: str, spec: ModelSpec, inputs: Tensors, key: tuple[str, int], timeout_s: float) -> Tensors:
        started = time.monotonic()
        lane.in_flight += 1
        try:
            outputs = await lane.runtime.infer(model_name, spec, inputs, timeout_s=timeout_s)
        finally:
            lane.in_flight -= 1
        seconds = time.monotonic() - started
        lane.measured(key, seconds)
        INFERENCE_SECONDS.labels(spec.name, lane.runtime.name).observe(seconds)
        return outputs

    async def _unload_from(self, lane: _Lane) -> None:
        for name in lane.leaving - self._models.keys():
            lane.leaving.discard(name)
            with suppress(UnavailableError, DeadlineExceededError):
                await lane.runtime.unload(name)

    async def _load_into(self, lane: _Lane, model_name: str) -> None:
        """Loads a model into a runtime and uses it there only if it answers as the last runtime does."""
        model = self._models.get(model_name)
        if model is None:
            return
        lane.leaving.discard(model_name)
        if await self._taken(lane, model_name, model) and self._models.get(model_name) is model:
            lane.models.add(model_name)
            lane.pauses.pop(model_name, None)
            return
        pause = min(2 * lane.pauses.get(model_name, (_LOAD_AGAIN_S[0] / 2, 0.0))[0], _LOAD_AGAIN_S[1])
        lane.pauses[model_name] = (pause, time.monotonic() + pause)

    async def _taken(self, lane: _Lane, model_name: str, model: _Model) -> bool:
        probe = _probe(model.spec)
        try:
            await lane.runtime.load(model_name, model.spec, model.onnx)
            theirs = await lane.runtime.infer(model_name, model.spec, probe, timeout_s=5.0)
            ours = await self._lanes[-1].runtime.infer(model_name, model.spec, probe, timeout_s=5.0)
        except Exception as error:  # noqa: BLE001  # a file that is gone or unreadable is no reason to stop mending the rest
            _log.warning("model not loaded", model=model_name, runtime=lane.runtime.name, error=repr(error))
            return False
        worst = max(float(np.abs(theirs[spec.name] - ours[spec.name]).max()) for spec in model.spec.outputs)
        if worst > _SAME:
            _log.error("runtimes disagree; the first is not used for this model", model=model_name, runtime=lane.runtime.name, by=worst)
        return worst <= _SAME

    async def _mend(self) -> None:
        while True:
            # Not wait_for: on Python 3.11 it loses a cancellation that meets the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            for lane in self._lanes:
                try:
                    await self._mend_lane(lane)
                except AisleError as error:
                    _log.debug("still down", runtime=lane.runtime.name, error=str(error))
                except Exception as error:  # noqa: BLE001  # the task must outlive whatever one round meets
                    _log.warning("runtime not mended", runtime=lane.runtime.name, error=repr(error))

    async def _mend_lane(self, lane: _Lane) -> None:
        now = time.monotonic()
        missing = [name for name in self._models if name not in lane.models and lane.pauses.get(name, (0.0, 0.0))[1] <= now]
        if not lane.open and not missing and not lane.leaving:
            return
        if not await lane.runtime.ready():
            return
        await self._unload_from(lane)
        for name in missing:
            await self._load_into(lane, name)
        if not lane.open:
            return
        for name in lane.models & self._models.keys():
            # One call of each model: half open, with nobody's request at stake.
            spec = self._models[name].spec
            await lane.runtime.infer(name, spec, _probe(spec), timeout_s=2.0)
        lane.failures = 0
        lane.estimates.clear()
        lane.set_open(is_open=False)
        _log.info("circuit closed", runtime=lane.runtime.name)


def _probe(spec: ModelSpec) -> Tensors:
    """Returns a small valid input: ones, with 2 for each dimension that varies."""
    return {tensor.name: np.ones([2 if size == -1 else size for size in tensor.shape], tensor.dtype) for tensor in spec.inputs}
