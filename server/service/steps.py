"""Times the steps of a recommendation, and shows them in a trace that is being recorded."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType

from opentelemetry import trace

from server.telemetry import STEP_SECONDS

_tracer = trace.get_tracer("aisle")
_SECONDS = {name: STEP_SECONDS.labels(name) for name in ("filter", "user", "retrieve", "rank", "shape")}


class step:  # noqa: N801  # read as a word of the code: `with step("rank")`
    """Observes how long the block takes. It gets a span only inside one that is recorded: others cost nearly as much, for nothing."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name
        self._span: AbstractContextManager[object] | None = None
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        if trace.get_current_span().is_recording():
            self._span = _tracer.start_as_current_span(self._name)
            self._span.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None) -> None:
        if self._span is not None:
            self._span.__exit__(kind, error, trace_back)
        _SECONDS[self._name].observe(time.perf_counter() - self._started)
