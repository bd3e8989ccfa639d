"""What can go wrong, without a word of gRPC or HTTP. `interceptors/status.py` turns these into codes, in one table.

    AisleError
    ├── InvalidArgumentError        the request is wrong and stays wrong
    │   ├── InvalidFieldError       one named field is
    │   └── FilterSyntaxError       a filter expression is, at a position
    ├── UnauthenticatedError        no credential, or one nobody issued
    ├── PermissionDeniedError       a credential without the scope
    ├── NotFoundError               the named resource does not exist
    ├── AlreadyExistsError          it exists, and Create may not replace it
    ├── FailedPreconditionError     right request, wrong state
    ├── AbortedError                two writers met; read again and retry
    ├── OverloadedError             admission refused; retry after `retry_after_s`
    │   └── RateLimitedError        the key or the tenant called too often
    ├── DeadlineExceededError       the caller's time is used up
    ├── UnavailableError            a part is down; retrying may help
    └── CorruptDataError            stored bytes do not match their checksum or shape

`reason` is a value of `aisle.v1.ErrorReason`; `metadata` holds every dynamic part of the message.
"""

from __future__ import annotations

from typing import ClassVar


class AisleError(Exception):
    """Base of all errors that callers see."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}


class InvalidArgumentError(AisleError):
    """The request is wrong, whatever the state of the server."""

    reason = "INVALID_ARGUMENT"


class InvalidFieldError(InvalidArgumentError):
    """One field is wrong. The message says what to send instead."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str, **metadata: object) -> None:
        super().__init__(f"{field}: {message}", field=field, **metadata)
        self.field = field
        self.description = message


class FilterSyntaxError(InvalidFieldError):
    """A filter expression does not parse, or names an unknown field.

    `position` is the 0-based offset, in characters, of the offending token.
    """

    reason = "FILTER_SYNTAX"

    def __init__(self, message: str, *, position: int, expression: str) -> None:
        pointer = " " * min(position, 60) + "^"
        start = max(0, position - 60)
        super().__init__(
            "filter",
            f"{message} at position {position}\n  {expression[start : start + 120]}\n  {pointer}",
            position=position,
        )
        self.position = position


class UnauthenticatedError(AisleError):
    """No credential came, or one that is unknown, expired or revoked."""

    reason = "UNAUTHENTICATED"

    def __init__(self, message: str, *, issued: bool = False) -> None:
        """`issued`: It is genuine and only its time is not now, so whoever sent it does not guess."""
        super().__init__(message)
        self.issued = issued


class PermissionDeniedError(AisleError):
    """The credential lacks the scope that the method needs, or a web page of another origin sent none."""

    reason = "PERMISSION_DENIED"


class NotFoundError(AisleError):
    """The named resource does not exist in this tenant."""

    reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource: str, message: str = "") -> None:
        super().__init__(message or f"{resource} does not exist", resource=resource)
        self.resource = resource


class AlreadyExistsError(AisleError):
    """A resource of that name exists."""

    reason = "RESOURCE_EXISTS"

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} exists; update it, or choose another id", resource=resource)
        self.resource = resource


class FailedPreconditionError(AisleError):
    """The state of the system forbids this request; retrying does not help until it changes."""

    reason = "FAILED_PRECONDITION"


class AbortedError(AisleError):
    """Two writers met (an etag differs). Read again, then retry."""

    reason = "ABORTED"


class OverloadedError(AisleError):
    """Admission refused the call before any work was done."""

    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """The key or its tenant is beyond its rate. Others are not concerned."""

    reason = "RATE_LIMITED"

    def __init__(self, message: str, *, retry_after_s: float, **metadata: object) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.metadata |= {key: str(value) for key, value in metadata.items()}


class DeadlineExceededError(AisleError):
    """The caller's deadline passed before the answer was ready."""

    reason = "DEADLINE_EXCEEDED"


class UnavailableError(AisleError):
    """A part that this call cannot do without is down."""

    reason = "UNAVAILABLE"

    def __init__(self, part: str, message: str, *, retry_after_s: float = 0.0) -> None:
        """`retry_after_s`: When trying again is worth while; 0: nobody knows."""
        super().__init__(f"{part}: {message}", part=part)
        self.part = part
        self.retry_after_s = retry_after_s


class CorruptDataError(AisleError):
    """Stored bytes do not match their checksum, shape or version. They are refused, never guessed at."""

    reason = "CORRUPT_DATA"
