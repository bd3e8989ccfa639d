"""Turns errors into `google.rpc.Status`: the one table of codes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from server import errors
from server.interceptors.call import Call, CallError
from server.telemetry import logger

if TYPE_CHECKING:
    from server.interceptors.chain import Handler

DOMAIN = "aisle.dev"

CODES: dict[type[errors.AisleError], int] = {
    errors.InvalidArgumentError: code_pb2.INVALID_ARGUMENT,
    errors.UnauthenticatedError: code_pb2.UNAUTHENTICATED,
    errors.PermissionDeniedError: code_pb2.PERMISSION_DENIED,
    errors.NotFoundError: code_pb2.NOT_FOUND,
    errors.AlreadyExistsError: code_pb2.ALREADY_EXISTS,
    errors.FailedPreconditionError: code_pb2.FAILED_PRECONDITION,
    errors.AbortedError: code_pb2.ABORTED,
    errors.OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: code_pb2.DEADLINE_EXCEEDED,
    errors.UnavailableError: code_pb2.UNAVAILABLE,
    errors.CorruptDataError: code_pb2.DATA_LOSS,
}

_MESSAGE_BYTES = 1000
_DETAIL_BYTES = 300
_log = logger(__name__)


def status_of(error: errors.AisleError) -> Status:
    """Returns the status of an error, with `ErrorInfo` and what else fits it."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), code_pb2.INTERNAL)
    metadata = {key: _cut(value, _DETAIL_BYTES) for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, errors.InvalidFieldError):
        field, description = _cut(error.field, _DETAIL_BYTES), _cut(error.description, _MESSAGE_BYTES)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.OverloadedError | errors.UnavailableError) and error.retry_after_s:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return Status(code=code, message=_cut(error.message, _MESSAGE_BYTES), details=[_packed(detail) for detail in details])


def _cut(text: str, most_bytes: int) -> str:
    """Returns the text, or its beginning: errors repeat what callers sent, and travel in trailers of at most 8 KiB."""
    content = text.encode(errors="replace")
    return text if len(content) <= most_bytes else content[:most_bytes].decode(errors="ignore") + "…"


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


async def convert_errors(call: Call, request: Message, handler: Handler) -> Message:
    """Keeps the deadline and raises only `CallError`. A fault of ours is logged with its trace; callers see its request id alone."""
    left_s = call.deadline - time.monotonic()
    try:
        if left_s <= 0:
            raise errors.DeadlineExceededError("the deadline had passed when the call came; allow it more time")  # noqa: TRY301  # one exit
        async with asyncio.timeout(left_s):
            return await handler(call, request)
    except Exception as error:
        raise _call_error(call, error) from error


async def convert_stream_errors(call: Call, replies: AsyncGenerator[Message, None]) -> AsyncGenerator[Message, None]:
    """Yields the replies of an open stream, raising only `CallError`. Closing it closes them."""
    async with aclosing(replies):
        try:
            async for reply in replies:
                yield reply
        except Exception as error:
            raise _call_error(call, error) from error


def _call_error(call: Call, error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, errors.AisleError):
        return CallError(status_of(error))
    if isinstance(error, TimeoutError):
        return CallError(status_of(errors.DeadlineExceededError("the deadline passed before the answer was ready")))
    request_id = call.metadata.get("x-request-id", "")
    _log.error("call failed", method=call.method, request_id=request_id, tenant=call.tenant_id, exc_info=error)
    message = "internal error; the server's log has it under this request id" if request_id else "internal error; see the server's log"
    return CallError(status_of(errors.AisleError(message, requestId=request_id)))
