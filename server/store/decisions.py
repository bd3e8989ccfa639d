"""Decision records: written in bulk by the worker, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from server.domain import Decision, DecisionId, Rung
from server.errors import NotFoundError
from server.store.database import Connection
from server.store.staging import stage

_COLUMNS = (
    "decision_id",
    "user_id",
    "method",
    "decide_time",
    "items",
    "scores",
    "propensities",
    "candidates",
    "rung",
    "bundle_id",
    "runtime",
    "arms",
    "context",
)
_LISTS = frozenset({"items", "scores", "propensities", "candidates"})


def _value(decision: Decision, name: str) -> Any:
    value = getattr(decision, name)
    if name in _LISTS:
        return list(value)
    return int(value) if name == "rung" else value


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
    fields: dict[str, Any] = {name: tuple(row[name]) if name in _LISTS else row[name] for name in _COLUMNS}
    return Decision(**{**fields, "rung": Rung(row["rung"])})
