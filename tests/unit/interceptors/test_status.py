"""Errors on the wire, and the deadline around every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from server.errors import FilterSyntaxError, InvalidFieldError, OverloadedError
from server.interceptors.admission import Admission
from server.interceptors.call import Call, CallError
from server.interceptors.status import convert_errors, status_of

Handler = Callable[[Call, Message], Awaitable[Message]]


def call(left_s: float = 60.0) -> Call:
    """A call that has so much time left."""
    return Call(
        method="/a.B/C", door="grpc", metadata={"x-request-id": "r1"}, deadline=time.monotonic() + left_s, loopback=True, tenant_id="t"
    )


async def refused(handler: Handler, left_s: float = 60.0) -> CallError:
    """Returns what the interceptor makes of a handler's failure."""
    with pytest.raises(CallError) as caught:
        await convert_errors(call(left_s), Empty(), handler)
    return caught.value


async def test_a_fault_of_ours_tells_nothing_but_its_request_id() -> None:
    """An unexpected exception is INTERNAL; its words stay in the log."""

    async def broken(_call: Call, _request: Message) -> Message:
        raise RuntimeError("password is hunter2")

    status = (await refused(broken)).status
    assert status.code == code_pb2.INTERNAL
    assert "hunter2" not in str(status)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.metadata["requestId"]) == ("INTERNAL", "r1")


async def test_a_call_ends_with_its_deadline() -> None:
    """A handler that takes too long is cancelled, and one whose caller's time is up is never begun."""
    begun = []

    async def slow(_call: Call, _request: Message) -> Message:
        begun.append(True)
        await asyncio.sleep(3600)
        return Empty()

    assert (await refused(slow, 0.5)).status.code == code_pb2.DEADLINE_EXCEEDED
    assert (await refused(slow, -1)).status.code == code_pb2.DEADLINE_EXCEEDED
    assert begun == [True]


async def test_calls_past_the_limit_are_refused_and_told_when_to_come_back() -> None:
    """With every permit taken a call is RESOURCE_EXHAUSTED with RetryInfo; permits come back with each answer."""
    admission = Admission(2)
    go = asyncio.Event()

    async def waits(_call: Call, _request: Message) -> Message:
        await go.wait()
        return Empty()

    held = [asyncio.create_task(admission(call(), Empty(), waits)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await admission(call(), Empty(), waits)
    status = status_of(caught.value)
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert (status.code, retry.retry_delay.ToMilliseconds()) == (code_pb2.RESOURCE_EXHAUSTED, 500)
    go.set()
    await asyncio.gather(*held)
    assert admission.in_flight == 0
    await admission(call(), Empty(), waits)


def test_a_filter_error_names_field_and_position() -> None:
    """A filter that does not parse has `BadRequest` for its field, and its position as metadata."""
    status = status_of(FilterSyntaxError("expected a value", position=7, expression="price <"))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert dict(info.metadata) == {"field": "filter", "position": "7"}
    assert bad.field_violations[0].field == "filter"


def test_errors_fit_into_trailers_whatever_they_repeat() -> None:
    """Long words of callers are cut in message, field, description and metadata, on a character; short ones stay as they are."""
    status = status_of(InvalidFieldError("é" * 5000, "é" * 5000, value="é" * 5000))
    assert status.ByteSize() < 4000
    assert status.message.endswith("é…")
    assert status_of(InvalidFieldError("title", "is required")).message == "title: is required"
