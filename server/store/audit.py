"""The audit log: append-only, each entry's hash over the entry and the hash before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.errors import CorruptDataError
from server.store.database import Connection


async def append_audit(connection: Connection, *, actor: str, action: str, resource: str, details: Mapping[str, Any] | None = None) -> None:
    """Appends an entry in the caller's transaction, so that an act and its record stand or fall together.

    Args:
        connection: Of `Database.tenant()`.
        actor: Who acted: `keys/ID`, or `cli` for the command line.
        action: Verb and noun, such as `promote_bundle`.
        resource: Resource name of what was acted on.
        details: JSON; no secrets and no personal data, for entries cannot be taken back.
    """
    await connection.execute(
        "INSERT INTO audit_log (actor, action, resource, details) VALUES ($1, $2, $3, $4)", actor, action, resource, dict(details or {})
    )


async def verify_audit(connection: Connection) -> int:
    """Checks the tenant's whole chain and returns its length. Entries cut off at the end cannot be noticed here; keep the length elsewhere.

    Raises:
        CorruptDataError: An entry was changed, added out of order or taken out.
    """
    row = await connection.fetchrow(
        "WITH chain AS (SELECT log.entry, log.hash = aisle_audit_hash(log) AS whole, "
        "log.previous_hash = lag(log.hash, 1, ''::bytea) OVER w AND log.entry = lag(log.entry, 1, 0::bigint) OVER w + 1 AS follows "
        "FROM audit_log AS log WINDOW w AS (ORDER BY log.entry)) "
        "SELECT count(*) AS entries, min(entry) FILTER (WHERE NOT (whole AND follows)) AS broken FROM chain"
    )
    assert row is not None
    if row["broken"] is not None:
        raise CorruptDataError(f"audit_log: entry {row['broken']} or the one before it was changed or taken out", entry=row["broken"])
    return int(row["entries"])
