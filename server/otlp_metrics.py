"""Sends the Prometheus metrics to an OTLP endpoint too, so that each is counted once and told in both ways.

Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility" (the mapping of families to OTLP data points).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from server.telemetry import logger

INTERVAL_S = 15.0
_TIMEOUT_S = 5.0
_log = logger(__name__)


@asynccontextmanager
async def exporting(endpoint: str, registry: CollectorRegistry, *, interval_s: float = INTERVAL_S) -> AsyncIterator[None]:
    """Sends the registry's metrics while the block runs, and once more at its end. An endpoint that is away costs a log line, no more.

    Args:
        endpoint: Such as `http://127.0.0.1:4317`; `https` asks for TLS.
        registry: What to send.
        interval_s: Seconds between two exports.
    """
    target = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
    secure = endpoint.startswith("https:")
    channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials()) if secure else grpc.aio.insecure_channel(target)
    started_ns = time.time_ns()

    async def send() -> None:
        try:
            await MetricsServiceStub(channel).Export(request_of(registry.collect(), started_ns, time.time_ns()), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _log.warning("metrics not exported", endpoint=endpoint, reason=error.details())

    async def send_forever() -> None:
        while True:
            await asyncio.sleep(interval_s)
            await send()

    async with channel:
        sender = asyncio.create_task(send_forever(), name="otlp-metrics")
        try:
            yield
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender
            await send()


def request_of(families: Iterable[Metric], started_ns: int, now_ns: int) -> ExportMetricsServiceRequest:
    """Returns the export of metric families: counters as monotonic cumulative sums, histograms cumulative, the rest as gauges."""
    metrics = [_metric(family, started_ns, now_ns) for family in families if family.samples]
    scope = pb.ScopeMetrics(scope=InstrumentationScope(name="aisle"), metrics=metrics)
    resource = Resource(attributes=_attributes({"service.name": "aisle", "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}))
    return ExportMetricsServiceRequest(resource_metrics=[pb.ResourceMetrics(resource=resource, scope_metrics=[scope])])


def _attributes(labels: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in sorted(labels.items())]


def _metric(family: Metric, started_ns: int, now_ns: int) -> pb.Metric:
    metric = pb.Metric(name=family.name, description=family.documentation, unit=family.unit)
    if family.type == "histogram":
        metric.histogram.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.histogram.data_points.extend(_histogram_points(family.samples, started_ns, now_ns))
    elif family.type == "counter":
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
        counts = [sample for sample in family.samples if sample.name.endswith("_total")]
        metric.sum.data_points.extend(_point(sample, started_ns, now_ns) for sample in counts)
    else:
        metric.gauge.data_points.extend(_point(sample, 0, now_ns) for sample in family.samples)
    return metric


def _point(sample: Sample, started_ns: int, now_ns: int) -> pb.NumberDataPoint:
    return pb.NumberDataPoint(
        attributes=_attributes(sample.labels), start_time_unix_nano=started_ns, time_unix_nano=now_ns, as_double=sample.value
    )


def _histogram_points(samples: Iterable[Sample], started_ns: int, now_ns: int) -> list[pb.HistogramDataPoint]:
    """Returns one point a label set. Prometheus counts buckets cumulatively, OTLP each for itself."""
    points: dict[tuple[tuple[str, str], ...], pb.HistogramDataPoint] = {}
    cumulative: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        key = tuple(sorted(labels.items()))
        point = points.setdefault(
            key, pb.HistogramDataPoint(attributes=_attributes(labels), start_time_unix_nano=started_ns, time_unix_nano=now_ns)
        )
        if sample.name.endswith("_bucket"):
            cumulative[key].append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            point.count = int(sample.value)
        elif sample.name.endswith("_sum"):
            point.sum = sample.value
    for key, buckets in cumulative.items():
        buckets.sort()
        counts = [count for _, count in buckets]
        points[key].bucket_counts.extend(int(count - before) for before, count in zip([0.0, *counts[:-1]], counts, strict=True))
        points[key].explicit_bounds.extend(bound for bound, _ in buckets[:-1])
    return list(points.values())
