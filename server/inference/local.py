"""Models in this process: one ONNX Runtime session a model, shared by N threads that each run one batch on one core.

N threads of one core each beat one batch over N cores at every batch size (2.0 against 1.2 to 1.75 on two cores), and far more so beside
a busy neighbour, where spinning threads fall to half the speed of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime

from server.errors import CorruptDataError, DeadlineExceededError, NotFoundError, UnavailableError
from server.inference.contract import Array, ModelSpec, Tensors, TensorSpec

_TYPES = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}


class LocalRuntime:
    """Runs models on this process's CPU. Open it with `async with`; use it from one event loop."""

    name = "local"

    def __init__(self, *, threads: int) -> None:
        self.capacity = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
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
        options = onnxruntime.RunOptions()
        running = asyncio.get_running_loop().run_in_executor(self._executor, _run, session, names, dict(inputs), options)
        try:
            async with asyncio.timeout(timeout_s):
                values = await running
        except TimeoutError:
            raise DeadlineExceededError(f"{model_name} did not answer within {timeout_s:.3f} s", model=model_name) from None
        finally:
            options.terminate = True
        outputs = dict(zip(names, values, strict=True))
        spec.check_outputs(outputs, rows)
        return outputs

    async def load(self, model_name: str, spec: ModelSpec, onnx: bytes | Path) -> None:
        """See `Runtime.load`."""
        self._sessions[model_name] = await asyncio.to_thread(_open, model_name, spec, onnx)

    async def unload(self, model_name: str) -> None:
        """See `Runtime.unload`. Calls that run finish."""
        self._sessions.pop(model_name, None)

    async def ready(self) -> bool:
        """Returns whether the runtime is open."""
        return not self._closed

    async def close(self) -> None:
        """Waits for the batches that run and ends the threads."""
        self._closed = True
        self._sessions.clear()
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)


def _run(session: Any, names: list[str], inputs: dict[str, Array], options: Any) -> list[Array]:
    try:
        values: list[Array] = session.run(names, inputs, options)
    except Exception as error:
        # onnxruntime raises its own classes, all straight from Exception.
        raise CorruptDataError(f"the model failed on a valid input: {error}; rebuild the model") from error
    return values


def _open(model_name: str, spec: ModelSpec, onnx: bytes | Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # Lengths vary from batch to batch: patterns kept per shape would only hold memory.
    options.enable_mem_pattern = False
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
