"""Metrics on their way to OTLP."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.otlp_metrics import exporting, request_of


@pytest.fixture
def registry() -> CollectorRegistry:
    """One metric of each kind, each with known values."""
    registry = CollectorRegistry()
    Counter("calls", "Calls", ["door"], registry=registry).labels("grpc").inc(3)
    Gauge("depth", "Depth", registry=registry).set(7)
    seconds = Histogram("seconds", "Seconds", buckets=(1, 2), registry=registry)
    for value in (0.5, 1.5, 1.7, 9.0):
        seconds.observe(value)
    return registry


def by_name(request: service_pb.ExportMetricsServiceRequest) -> dict[str, pb.Metric]:
    """Returns the request's metrics."""
    return {metric.name: metric for metric in request.resource_metrics[0].scope_metrics[0].metrics}


def test_each_kind_becomes_its_otlp_kind(registry: CollectorRegistry) -> None:
    """Counters become monotonic sums, gauges gauges, and cumulative buckets counts of their own."""
    metrics = by_name(request_of(registry.collect(), 1, 2))
    calls = metrics["calls"].sum
    assert (calls.is_monotonic, calls.data_points[0].as_double, calls.data_points[0].attributes[0].value.string_value) == (True, 3, "grpc")
    assert metrics["depth"].gauge.data_points[0].as_double == 7
    point = metrics["seconds"].histogram.data_points[0]
    assert (list(point.bucket_counts), list(point.explicit_bounds), point.count) == ([1, 2, 1], [1, 2], 4)
    assert point.sum == pytest.approx(12.7)


class _Collector(service_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.received: asyncio.Queue[service_pb.ExportMetricsServiceRequest] = asyncio.Queue()

    async def Export(  # noqa: N802  # the protocol's name
        self, request: service_pb.ExportMetricsServiceRequest, context: object
    ) -> service_pb.ExportMetricsServiceResponse:
        await self.received.put(request)
        return service_pb.ExportMetricsServiceResponse()


async def test_a_collector_receives_them(registry: CollectorRegistry) -> None:
    """A real OTLP endpoint receives the metrics at each interval, and the last state when the block ends."""
    server, collector = grpc.aio.server(), _Collector()
    service_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with exporting(f"http://127.0.0.1:{port}", registry, interval_s=0.01):
        first = await asyncio.wait_for(collector.received.get(), 20)
        Gauge("late", "Late", registry=registry).set(1)
    last = first
    while not collector.received.empty():
        last = collector.received.get_nowait()
    await server.stop(None)
    assert "calls" in by_name(first)
    assert "late" in by_name(last)


async def test_an_absent_collector_is_no_error(registry: CollectorRegistry) -> None:
    """Without anyone listening the server goes on."""
    async with exporting("http://127.0.0.1:9", registry, interval_s=60):
        pass
