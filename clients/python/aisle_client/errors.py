"""What a call can fail with.

    AisleError                      any failure; `code` is the gRPC status
    ├── InvalidArgumentError        mend the request: `violations` names the fields
    ├── UnauthenticatedError        no key, or an unknown one
    ├── PermissionDeniedError       the key lacks a scope
    ├── NotFoundError
    ├── AlreadyExistsError
    ├── FailedPreconditionError     retrying does not help until the state changes
    ├── AbortedError                two writers met; read again, then retry
    ├── OverloadedError             refused before any work; `retry_after_s` when the server said so
    ├── DeadlineExceededError
    ├── UnavailableError            still, after the retries that the deadline allowed
    ├── UnimplementedError          the server is of another version
    └── InternalError               a fault of the server, and every other code

`reason` is stable (a name of `aisle.v1.ErrorReason`); branch on it or on the class, never on the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field."""

    field: str
    description: str
    """What to send instead."""


class AisleError(Exception):
    """Base of everything a call raises."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class InvalidArgumentError(AisleError):
    """The request is wrong, whatever the state of the server."""


class UnauthenticatedError(AisleError):
    """No key was sent, or one that is unknown, expired or revoked."""


class PermissionDeniedError(AisleError):
    """The key lacks the scope that the method needs."""


class NotFoundError(AisleError):
    """The named resource does not exist in the key's tenant."""


class AlreadyExistsError(AisleError):
    """A resource of that name exists."""


class FailedPreconditionError(AisleError):
    """Right request, wrong state."""


class AbortedError(AisleError):
    """An etag differs: read again, then retry."""


class OverloadedError(AisleError):
    """The server refused the call before doing any work."""


class DeadlineExceededError(AisleError):
    """The deadline passed. Whether the server did the work is unknown."""


class UnavailableError(AisleError):
    """The server, or a part it needs, is down."""


class UnimplementedError(AisleError):
    """The server does not offer the method."""


class InternalError(AisleError):
    """A fault of the server, or a code that has no class here; `code` tells."""


_CLASSES: dict[grpc.StatusCode, type[AisleError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
}


def _status(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:  # a proxy's invention; the plain code and message still hold
                break
    return Status()


def typed_error(error: grpc.aio.AioRpcError) -> AisleError:
    """Returns the exception of a failed call, with what its `google.rpc.Status` details say. Details of unknown types are left out."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in _status(error).details:
        if detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
    code = error.code()
    return _CLASSES.get(code, InternalError)(
        error.details() or code.name,
        code=code,
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(FieldViolation(violation.field, violation.description) for violation in bad_request.field_violations),
        retry_after_s=retry_after_s,
    )
