"""Times the steps of a recommendation, and shows them in a trace that is being recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from server.telemetry import STEP_SECONDS

_tracer = trace.get_tracer("aisle")
_SECONDS = {name: STEP_SECONDS.labels(name) for name in ("filter", "user", "retrieve", "rank", "shape")}


@contextmanager
def step(name: str) -> Iterator[None]:
    """Observes how long the block takes. It gets a span only inside one that is recorded: others cost nearly as much, for nothing."""
    started = time.perf_counter()
    try:
        if trace.get_current_span().is_recording():
            with _tracer.start_as_current_span(name):
                yield
        else:
            yield
    finally:
        _SECONDS[name].observe(time.perf_counter() - started)
