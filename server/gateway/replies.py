"""HTTP replies: JSON, and errors as `google.rpc.Status`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from server.errors import AisleError
from server.gateway.codec import Codec, dumps
from server.gateway.encoder import EncodeError
from server.gateway.wellknown import bytes_text
from server.interceptors.call import CallError
from server.interceptors.status import status_of

JSON = "application/json"

HTTP_STATUS: dict[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
}
"""gRPC code -> HTTP status, as grpc-gateway has it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    keep_s: int = 0
    """Seconds for which shared caches may keep it and give it to others who send the same credentials."""


class HttpError(Exception):
    """An error that HTTP tells apart more finely than gRPC's codes do, such as 405 and 413."""

    def __init__(self, http_status: int, error: AisleError, **headers: str) -> None:
        super().__init__(error.message)
        self.http_status = http_status
        self.status = status_of(error)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def retry_after(status: Status) -> str:
    """Returns whole seconds from the status's `RetryInfo`, or empty."""
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            delay: Duration = info.retry_delay
            return str(max(1, math.ceil(delay.seconds + delay.nanos / 1e9)))
    return ""


def _detail(codec: Codec, detail: Any) -> Any:
    try:
        return codec.value(detail)
    except EncodeError:  # an upstream may send details of types that only its clients know
        return {"@type": detail.type_url, "value": bytes_text(detail.value)}


def status_from(error: Exception) -> Status:
    """Returns the status that a caller is shown of any error."""
    if isinstance(error, (CallError, HttpError)):
        return error.status
    return status_of(error if isinstance(error, AisleError) else AisleError("internal error; see the server's log"))


def status_text(status: Status, codec: Codec) -> bytes:
    """Returns a status as JSON: `{"code", "message", "details"}`."""
    return dumps({"code": status.code, "message": status.message, "details": [_detail(codec, detail) for detail in status.details]})


def error_reply(status: Status, codec: Codec, *, http_status: int | None = None, headers: dict[str, str] | None = None) -> Reply:
    """Returns the reply of a failed call: `{"code", "message", "details"}`."""
    all_headers = dict(headers or {})
    if status.code == code_pb2.UNAUTHENTICATED:
        all_headers["www-authenticate"] = "Bearer"
    if seconds := retry_after(status):
        all_headers["retry-after"] = seconds
    return Reply(http_status or HTTP_STATUS.get(status.code, 500), status_text(status, codec), headers=all_headers)
