"""Decision records: written in bulk by the worker, read one at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple

from server.domain import Decision, DecisionId, ItemId, Rung, TenantId, UserId
from server.domain.decisions import PackedIds, Ranking, pack_ids
from server.errors import NotFoundError
from server.store.database import Connection
from server.store.staging import stage

_COLUMNS = (
    "decision_id",
    "user_id",
    "method",
    "decide_time",
    "ranking",
    "candidates_packed",
    "rung",
    "bundle_id",
    "runtime",
    "arms",
    "context",
)
_SHOWN = """
SELECT user_id, ranking, context, extract(epoch FROM decide_time)::float8 FROM decisions
WHERE tenant_id = $1 AND method = 'RecommendItems' AND json_array_length(ranking -> 'items') > 1
ORDER BY decide_time, decision_id
"""


class ShownList(NamedTuple):
    """One list that a user was shown, as training reads it."""

    user_id: UserId
    items: tuple[ItemId, ...]
    """In the order shown."""
    context: Mapping[str, str]
    decide_time_s: float
    """Seconds since 1970."""


async def iter_shown(connection: Connection, tenant_id: TenantId, *, chunk: int = 1000) -> AsyncIterator[ShownList]:
    """Yields the recommended lists of two items or more, oldest first, reading `chunk` at a time from one snapshot.

    Args:
        connection: In the tenant's transaction, which stays open meanwhile.
        tenant_id: The tenant.
        chunk: Lists read at once.
    """
    cursor = await connection.cursor(_SHOWN, tenant_id)
    while rows := await cursor.fetch(chunk):
        for user_id, ranking, context, seconds in rows:
            yield ShownList(user_id, Ranking(ranking).items, context, seconds)


def _value(decision: Decision, name: str) -> Any:
    if name == "ranking":
        return decision.ranking.text
    if name == "candidates_packed":
        return pack_ids(decision.candidates)
    return getattr(decision, name)


async def insert_decisions(connection: Connection, decisions: Iterable[Decision]) -> int:
    """Writes decisions and returns how many were new. Ids written before are left alone, so a batch may be sent again."""
    records = [tuple(_value(decision, name) for name in _COLUMNS) for decision in decisions]
    staged = await stage(connection, "decisions", _COLUMNS, records)
    names = ", ".join(_COLUMNS)
    tag = await connection.execute(f"INSERT INTO decisions ({names}) SELECT {names} FROM {staged} ON CONFLICT DO NOTHING")  # noqa: S608  # names are ours
    return int(tag.rpartition(" ")[2])


async def get_decision(connection: Connection, decision_id: DecisionId) -> Decision:
    """Returns a decision. It can be read a moment after the reply that named it, when the worker has written it.

    Raises:
        NotFoundError: It does not exist, or is not written yet.
    """
    row = await connection.fetchrow("SELECT * FROM decisions WHERE decision_id = $1", decision_id)
    if row is None:
        raise NotFoundError(f"decisions/{decision_id}")
    fields = {name: row[name] for name in _COLUMNS}
    packed = fields.pop("candidates_packed")
    candidates = tuple(row["candidates"] if packed is None else PackedIds(packed))
    return Decision(**{**fields, "ranking": Ranking(row["ranking"]), "rung": Rung(row["rung"]), "candidates": candidates})
