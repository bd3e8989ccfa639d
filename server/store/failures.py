"""What a failing database means to callers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
import orjson

from server.errors import (
    AbortedError,
    AisleError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)

CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)
"""Raised when the server is gone, going or not yet there."""

_MEANINGS: tuple[tuple[tuple[type[Exception], ...], Callable[[str], AisleError]], ...] = (
    # The first that matches counts: TimeoutError is an OSError, TooManyConnectionsError an InsufficientResourcesError.
    ((TimeoutError,), lambda _: UnavailableError("database", "no connection became free in time; retry")),
    ((asyncpg.QueryCanceledError,), lambda _: DeadlineExceededError("the deadline passed while the database worked; allow it more time")),
    (
        (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError),
        lambda _: AbortedError("another writer changed the same rows; read again and retry"),
    ),
    (
        (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedColumnError),
        lambda reason: FailedPreconditionError(f"the database lacks a migration ({reason}); run `aisle migrate`"),
    ),
    (
        (asyncpg.DiskFullError,),
        lambda _: UnavailableError("database", "its disk is full, nothing of this batch was written; free space there"),
    ),
    (
        (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError, UnicodeEncodeError),
        lambda _: InvalidArgumentError("a string holds a character that is not text (U+0000 or a lone surrogate); remove it"),
    ),
    (
        (orjson.JSONEncodeError,),
        lambda reason: InvalidArgumentError(f"a JSON value cannot be stored ({reason}); send plain JSON with integers of at most 64 bits"),
    ),
    (CONNECTION_LOST, lambda reason: UnavailableError("database", f"cannot be reached ({reason}); retry, or check `aisle doctor`")),
    ((asyncpg.InsufficientResourcesError,), lambda reason: UnavailableError("database", f"out of resources ({reason}); retry later")),
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the driver's errors into ours. Errors that only a bug of ours can cause pass as they are.

    Raises:
        UnavailableError: The database is unreachable, restarting, full or out of connections.
        DeadlineExceededError: The statement ran past the time that `timeout_s` gave it.
        AbortedError: Two writers met.
        FailedPreconditionError: The database was never migrated, or not to this release.
        NotFoundError: The tenant was never created.
        InvalidArgumentError: A string holds U+0000 or a lone surrogate, which the database cannot store.
    """
    try:
        yield
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        UnicodeEncodeError,
        orjson.JSONEncodeError,
    ) as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: Exception) -> AisleError | None:
    """Returns our error for the driver's, or None where it tells of a bug."""
    if isinstance(error, asyncpg.InterfaceError) and "clos" not in str(error):
        # A wrong use of a connection, not a closed one; or a rollback after a COPY that was cut off, which the driver takes to go on.
        if not isinstance(error.__context__, asyncpg.InternalClientError):
            return None
        error = error.__context__
    if isinstance(error, asyncpg.DataError) and isinstance(error.__cause__, UnicodeEncodeError | orjson.JSONEncodeError):
        error = error.__cause__  # the driver wraps what its encoders raise
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, asyncpg.ForeignKeyViolationError) and str(error.constraint_name).endswith("_tenant_id_fkey"):
        return NotFoundError("tenant", "the tenant does not exist; run `aisle tenants create NAME`")
    if isinstance(error, asyncpg.InvalidParameterValueError) and "aisle_app" in reason:
        return FailedPreconditionError(f"the database was never migrated ({reason}); run `aisle migrate`")
    return next((make(reason) for kinds, make in _MEANINGS if isinstance(error, kinds)), None)
