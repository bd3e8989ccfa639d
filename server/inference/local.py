"""Models in this process: one ONNX Runtime session a model, shared by N threads that each run one batch on one core.

N threads of one core each beat one batch over N cores at every batch size (2.0 against 1.2 to 1.75 on two cores), and far more so beside
a busy neighbour, where spinning threads fall to half the speed of one.

A model that answers in a fraction of a millisecond, as a ranker does, runs on the event loop: the way to a thread and back costs as much.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime

from server.errors import CorruptDataError, DeadlineExceededError, NotFoundError, UnavailableError
from server.inference.contract import Array, ModelSpec, Tensors, TensorSpec
from server.priority import step_back

_INLINE_S = 0.0004
"""Processor time up to which a call runs on the event loop."""
_SMOOTHING = 0.2
"""Weight of the newest call in the running mean of a model's processor time."""

_TYPES = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}


class LocalRuntime:
    """Runs models on this process's CPU. Open it with `async with`; use it from one event loop."""

    name = "local"

    def __init__(self, *, threads: int) -> None:
        self.capacity = threads
        # Calls that need no model do not wait for those that do.
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference", initializer=step_back)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        """Mean processor time by model and size of the input, in powers of two."""
        self._closed = False

    async def infer(self, model_name: str, spec: ModelSpec, inputs: Tensors, *, timeout_s: float) -> Tensors:
        """See `Runtime.infer`. A call that ran out of time stops at its next operator and frees its thread."""
        rows = spec.check_inputs(inputs)
        if self._closed:
            raise UnavailableError("local", "the runtime is closed")
        session = self._sessions.get(model_name)
        if session is None:
            raise NotFoundError(f"models/{model_name}")
        names = [output.name for output in spec.outputs]
        key = (model_name, int(inputs[spec.inputs[0].name].size).bit_length())
        options = onnxruntime.RunOptions()
        mean_s = self._seconds.get(key)
        if mean_s is not None and mean_s <= _INLINE_S and timeout_s > mean_s:
            values, seconds = _run(session, names, dict(inputs), options)
        else:
            running = asyncio.get_running_loop().run_in_executor(self._executor, _run, session, names, dict(inputs), options)
            try:
                async with asyncio.timeout(timeout_s):
                    values, seconds = await running
            except TimeoutError:
                raise DeadlineExceededError(f"{model_name} did not answer within {timeout_s:.3f} s", model=model_name) from None
            finally:
                options.terminate = True
        self._seconds[key] = seconds if mean_s is None else mean_s + _SMOOTHING * (seconds - mean_s)
        outputs = dict(zip(names, values, strict=True))
        spec.check_outputs(outputs, rows)
        return outputs

    async def load(self, model_name: str, spec: ModelSpec, onnx: bytes | Path) -> None:
        """See `Runtime.load`."""
        self._sessions[model_name] = await asyncio.to_thread(_open, model_name, spec, onnx)

    async def unload(self, model_name: str) -> None:
        """See `Runtime.unload`. Calls that run finish."""
        self._sessions.pop(model_name, None)
        for key in [key for key in self._seconds if key[0] == model_name]:
            del self._seconds[key]

    async def ready(self) -> bool:
        """Returns whether the runtime is open."""
        return not self._closed

    async def close(self) -> None:
        """Waits for the batches that run and ends the threads."""
        self._closed = True
        self._sessions.clear()
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)


def _run(session: Any, names: list[str], inputs: dict[str, Array], options: Any) -> tuple[list[Array], float]:
    """Returns the outputs and the processor time they took, in seconds. Not the clock's: a busy neighbour says nothing of the model."""
    started = time.thread_time()
    try:
        values: list[Array] = session.run(names, inputs, options)
    except Exception as error:
        # onnxruntime raises its own classes, all straight from Exception.
        raise CorruptDataError(f"the model failed on a valid input: {error}; rebuild the model") from error
    return values, time.thread_time() - started


def session_options() -> Any:
    """Returns what every session is opened with. `python -m loadtest.bench.sessions` measures the other choices beside it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # Lengths vary from batch to batch: patterns kept per shape would only hold memory.
    options.enable_mem_pattern = False
    return options


def _open(model_name: str, spec: ModelSpec, onnx: bytes | Path) -> Any:
    options = session_options()
    try:
        session = onnxruntime.InferenceSession(onnx if isinstance(onnx, bytes) else str(onnx), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptDataError(f"{model_name} is no ONNX model that runs here: {message}; build it again", model=model_name) from error
    found: Callable[[list[Any]], set[tuple[str, str]]] = lambda tensors: {(t.name, _TYPES.get(t.type, t.type)) for t in tensors}  # noqa: E731
    for kind, specs, tensors in (("takes", spec.inputs, session.get_inputs()), ("answers", spec.outputs, session.get_outputs())):
        if found(tensors) != _wanted(specs):
            raise CorruptDataError(
                f"{model_name} {kind} {sorted(found(tensors))}, a {spec.name} {kind} {sorted(_wanted(specs))}; export it again",
                model=model_name,
            )
    return session


def _wanted(specs: tuple[TensorSpec, ...]) -> set[tuple[str, str]]:
    return {(spec.name, spec.datatype) for spec in specs}
