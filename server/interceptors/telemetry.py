"""A span, a latency and a code for every call."""

from __future__ import annotations

import time

from google.protobuf.message import Message
from google.rpc import code_pb2
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.interceptors.call import Call, CallError
from server.interceptors.chain import Handler
from server.telemetry import CALL_SECONDS, child

_propagator = TraceContextTextMapPropagator()


class Telemetry:
    """The outermost interceptor."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Answers the call, with a tracer inside a span that continues the caller's trace."""
        started = time.perf_counter()
        code = "OK"
        try:
            return await (handler(call, request) if self._tracer is None else self._traced(self._tracer, call, request, handler))
        except CallError as error:
            code = code_pb2.Code.Name(error.status.code)
            raise
        except BaseException:
            code = "CANCELLED"
            raise
        finally:
            child(CALL_SECONDS, call.method, call.door, code).observe(time.perf_counter() - started)

    @staticmethod
    async def _traced(tracer: Tracer, call: Call, request: Message, handler: Handler) -> Message:
        parent = _propagator.extract(dict(call.metadata)) if "traceparent" in call.metadata else None
        with tracer.start_as_current_span(call.method, context=parent, kind=SpanKind.SERVER, record_exception=False) as span:
            try:
                return await handler(call, request)
            except CallError as error:
                span.set_status(StatusCode.ERROR, code_pb2.Code.Name(error.status.code))
                raise
            finally:
                span.set_attribute("aisle.tenant", call.tenant_id)
