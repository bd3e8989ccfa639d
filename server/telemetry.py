"""Logger, tracer and metric handles. Made in `app.py`, never at import, except the metric families, which are process-wide by nature."""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

CALL_SECONDS = Histogram(
    "aisle_call_seconds",
    "Time of one call by method, door and status code",
    ["method", "door", "code"],
    buckets=_LATENCY_BUCKETS_S,
)
STEP_SECONDS = Histogram("aisle_step_seconds", "Time of one step of a recommendation", ["step"], buckets=_LATENCY_BUCKETS_S)
RUNGS = Counter("aisle_rung_total", "Replies by rung of the degradation ladder", ["method", "rung"])
SHAPED = Counter("aisle_shaped_items_total", "Items that shaping moved into or out of a list, by cause", ["cause"])
IN_FLIGHT = Gauge("aisle_calls_in_flight", "Calls admitted and not yet answered")
WATCHES = Gauge("aisle_watches_open", "Streams of WatchPersonalization that are open")
EVENT_STREAMS = Gauge("aisle_event_streams_open", "Streams of StreamEvents that are open")
CALLS_REFUSED = Counter("aisle_calls_refused_total", "Calls refused before any work, by cause", ["cause"])
CONCURRENCY_LIMIT = Gauge("aisle_concurrency_limit", "Calls that may run at once, as found from their times")
BATCH_ROWS = Histogram("aisle_batch_rows", "Rows of one model call", ["model", "runtime"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))
INFERENCE_SECONDS = Histogram("aisle_inference_seconds", "Time of one model call", ["model", "runtime"], buckets=_LATENCY_BUCKETS_S)
HEDGES = Counter(
    "aisle_hedged_calls_total", "Late model calls that were asked of a second runtime, by whether that answered first", ["outcome"]
)
CIRCUIT_OPEN = Gauge("aisle_runtime_circuit_open", "1 while a runtime is not used because it failed", ["runtime"])
CACHE_READS = Counter("aisle_cache_reads_total", "Cache reads by cache, level (l1, l2, miss)", ["cache", "level"])
WARMED = Counter("aisle_lists_warmed_total", "Lists made before they were asked for")
STREAM_LAG = Gauge("aisle_stream_lag_entries", "Stream entries appended and not yet applied", ["tenant", "stream"])
EVENTS_APPLIED = Counter("aisle_events_applied_total", "Events written to the database", ["tenant"])
EVENTS_DUPLICATE = Counter("aisle_events_duplicate_total", "Events dropped because their id was known", ["tenant"])
EVENTS_DEAD = Counter("aisle_events_dead_letter_total", "Stream entries moved to the dead-letter stream", ["tenant"])
DECISIONS_DROPPED = Counter("aisle_decisions_dropped_total", "Decision records lost: Redis was away too long, or they are no JSON")
INDEX_ITEMS = Gauge("aisle_index_items", "Items in the retrieval index", ["tenant"])
PART_UP = Gauge("aisle_part_up", "1 while a part answers", ["part"])
PART_RESTARTS = Counter("aisle_part_restarts_total", "Restarts of an embedded part", ["part"])


@lru_cache(maxsize=4096)
def child(metric: _Metric, *labels: str) -> _Metric:
    """Returns a metric's child for these values of its labels, as `labels` does at ten times the cost. For what is counted each call."""
    return metric.labels(*labels)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Returns a structured logger; `configure_logging` decides where lines go."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return log


def _add_trace(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def configure_logging(level: str) -> None:
    """Sends structured lines to stderr: JSON, or readable when stderr is a terminal. Lines inside a span carry its ids."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,  # type: ignore[list-item]  # structlog types the event as a wider mapping than it passes
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_telemetry(otlp_endpoint: str) -> trace.Tracer | None:
    """Returns the tracer, whose spans go to `AISLE_OTLP_ENDPOINT`; None where that is empty, since spans that go nowhere cost time too."""
    if not otlp_endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "aisle"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http:"))))
    trace.set_tracer_provider(provider)
    return trace.get_tracer("aisle")


def flush_telemetry() -> None:
    """Sends the spans that wait to be sent."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)  # only the SDK's provider has one
    if flush is not None:
        flush()
