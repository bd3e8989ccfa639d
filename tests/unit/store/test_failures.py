from __future__ import annotations

import asyncpg
import pytest

from server.errors import UnavailableError
from server.store.failures import translated_errors


def _cut_off_in_a_copy() -> None:
    """Raises what asyncpg does when a connection is cut off in a COPY within a transaction: the rollback finds the COPY still running."""
    try:
        raise asyncpg.InternalClientError("cannot switch to state 21; another operation (2) is in progress")
    finally:
        raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")


def test_a_connection_cut_off_in_a_copy_is_a_database_that_cannot_be_reached() -> None:
    """The rollback's own complaint does not hide the lost connection, so who wrote may write again."""
    with pytest.raises(UnavailableError, match=r"cannot be reached \(cannot switch to state 21"), translated_errors():
        _cut_off_in_a_copy()


def test_a_wrong_use_of_a_connection_passes_as_it_is() -> None:
    """Two queries at once on one connection are a mistake of ours, and no reason to try again."""
    with pytest.raises(asyncpg.InterfaceError, match="another operation"), translated_errors():
        raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
