"""What users did, in order, with what is new in it: of events just applied, and of all since a moment.

Told of both, a reader counts each event once: `Seen` says whether the transaction that applied it had ended before the reader looked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from cachetools import TTLCache

from server.domain import Event, ItemId, TenantId, UserId
from server.domain.history import subject_of
from server.domain.profiles import HISTORY_LIMIT
from server.store.database import Connection

_WANTED = "events.tenant_id = $1 AND item_id IS NOT NULL AND lower(event_type) <> ALL($2::text[])"
# The newest first, as two lists: one of pairs, or sorted by the database, takes twice as long.
_NEWEST = f"""
SELECT json_build_array(json_agg(item_id), json_agg(mark)) FROM (
    SELECT item_id, {{mark}} AS mark FROM events WHERE {_WANTED} AND events.user_id = added.user_id
    ORDER BY occur_time DESC, arrival DESC LIMIT {HISTORY_LIMIT} + added.events
) AS newest
"""  # noqa: S608  # constants of ours
# `now()` is the transaction's time, so ids travel for its own events alone, and for those of another that began in the same microsecond.
_APPLIED = f"""
SELECT user_id, ({_NEWEST.format(mark="CASE WHEN receive_time = now() THEN event_id END")}) AS sequence
FROM json_to_recordset($3::text::json) AS added (user_id text, events bigint)
"""  # noqa: S608  # as above
_VERSIONS = """
SELECT pg_current_xact_id()::text AS transaction, user_id, version, create_time FROM user_personalization_profiles
WHERE tenant_id = $1 AND user_id = ANY($2::text[])
"""
_CUT = f"SELECT occur_time FROM events WHERE {_WANTED} AND occur_time > $3 ORDER BY occur_time DESC OFFSET $4 LIMIT 1"  # noqa: S608  # as above
_CHANGED = f"""
SELECT ({_NEWEST.format(mark="occur_time > $3")}) AS sequence
FROM (SELECT user_id, count(*) AS events FROM events WHERE {_WANTED} AND occur_time > $3 GROUP BY user_id) AS added
"""  # noqa: S608  # as above


class Action(NamedTuple):
    """What an event did, and when."""

    event_type: str
    occur_time_s: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class UserSequence:
    """The newest interactions of one user."""

    items: tuple[ItemId, ...]
    """Oldest first, ties by arrival: as many before the new ones as a history has, or all there are."""
    new: tuple[int, ...]
    """Places in `items` of what is told for the first time, rising."""


@dataclass(frozen=True, slots=True)
class AppliedSequence(UserSequence):
    """A sequence with events that were just applied."""

    actions: tuple[Action, ...]
    """Of each new one."""


@dataclass(frozen=True, slots=True)
class AppliedEvents:
    """Events of one transaction."""

    events: Sequence[Event]
    transaction: int
    """The database's number of it; 0 where there are no sequences."""
    sequences_by_user: Mapping[UserId, AppliedSequence]
    """One for each user with an event that concerns an item and is of no unwanted type."""
    versions: Mapping[UserId, tuple[int, datetime]]
    """Of each of these users' profiles, with the events: its version and creation time."""

    @property
    def sequences(self) -> Collection[AppliedSequence]:
        """The sequences alone."""
        return self.sequences_by_user.values()


@dataclass(frozen=True, slots=True)
class Seen:
    """Transactions that had ended at a moment."""

    below: int
    """All before this one."""
    end: int
    """None from this one on."""
    running: frozenset[int]
    """Those in between that had not."""

    @classmethod
    def parse(cls, snapshot: str) -> Seen:
        """Returns what a `pg_snapshot` says: `xmin:xmax:running,...`."""
        below, end, running = snapshot.split(":")
        return cls(int(below), int(end), frozenset(map(int, filter(None, running.split(",")))))

    def __contains__(self, transaction: int) -> bool:
        return transaction < self.below or (transaction < self.end and transaction not in self.running)


class _Remembered(NamedTuple):
    """The newest interactions of a user as of a version of the profile."""

    version: int
    create_time: datetime
    newest_s: float
    """When the last of them occurred, seconds since 1970."""
    items: tuple[ItemId, ...]
    """Oldest first."""


class RecentSequences:
    """What users did last, as this process applied it, so that the next event of one costs the same however long the history is.

    What is remembered holds for one version of a profile: where another process wrote in between, the database is read. Bounded by
    interactions: 60 bytes each at most, and a quarter of an hour. Not thread-safe.
    """

    def __init__(self, interactions: int = 500_000) -> None:
        self._known: TTLCache[tuple[TenantId, UserId], _Remembered] = TTLCache(interactions, 900.0, getsizeof=_weight)

    def keep(self, tenant_id: TenantId, applied: AppliedEvents) -> None:
        """Remembers the sequences of events whose transaction was committed."""
        for user_id, one in applied.sequences_by_user.items():
            version, create_time = applied.versions[user_id]
            before = self._known.get((tenant_id, user_id))
            newer = before is None or before.version < version or before.create_time != create_time
            # Where an earlier interaction is the last, its time is not known here.
            if newer and one.new and one.new[-1] == len(one.items) - 1:
                newest_s = one.actions[-1].occur_time_s
                self._known[tenant_id, user_id] = _Remembered(version, create_time, newest_s, one.items[-HISTORY_LIMIT:])

    def extended(
        self, tenant_id: TenantId, user_id: UserId, version: tuple[int, datetime], events: Sequence[Event]
    ) -> AppliedSequence | None:
        """Returns the user's sequence with new events at its end, or None: the database has to be asked.

        Args:
            tenant_id: The tenant.
            user_id: The user.
            version: Of the profile with these events, and its creation time.
            events: Of the user, in order of arrival.
        """
        known = self._known.get((tenant_id, user_id))
        if known is None or (known.version + 1, known.create_time) != version:
            return None
        ordered = sorted(events, key=lambda event: event.occur_time)
        if ordered[0].occur_time.timestamp() < known.newest_s:
            return None
        items = (*known.items, *(event.item_id for event in ordered if event.item_id is not None))
        actions = tuple(Action(event.event_type, event.occur_time.timestamp()) for event in ordered)
        return AppliedSequence(items, tuple(range(len(known.items), len(items))), actions)


async def read_applied(
    connection: Connection, tenant_id: TenantId, applied: Sequence[Event], *, unwanted: Sequence[str], recent: RecentSequences | None = None
) -> AppliedEvents:
    """Returns events with what their users did before, in at most two round trips.

    Call in the transaction that applied them: the users' counters are locked, so of two writers of one user one sees the other's events.

    Args:
        connection: In the tenant's transaction.
        tenant_id: The tenant.
        applied: What `apply_events` returned.
        unwanted: Event types, lower case, that are left out of the sequences.
        recent: What is known without reading; tell it of the result once the transaction is committed.
    """
    left_out = set(unwanted)
    told = [event for event in applied if event.item_id is not None and event.event_type.lower() not in left_out]
    if not told:
        return AppliedEvents(applied, 0, {}, {})
    by_user: dict[UserId, list[Event]] = {}
    for event in told:
        by_user.setdefault(subject_of(event), []).append(event)
    sequences: dict[UserId, AppliedSequence] = {}
    rows = await connection.fetch(_VERSIONS, tenant_id, list(by_user))
    versions = {UserId(row["user_id"]): (int(row["version"]), row["create_time"]) for row in rows}
    for user_id, events in by_user.items():
        known = recent.extended(tenant_id, user_id, versions[user_id], events) if recent is not None else None
        if known is not None:
            sequences[user_id] = known
    added = [{"user_id": user_id, "events": len(events)} for user_id, events in by_user.items() if user_id not in sequences]
    if added:
        new = {event.event_id: Action(event.event_type, event.occur_time.timestamp()) for event in told}
        for row in await connection.fetch(_APPLIED, tenant_id, list(unwanted), orjson.dumps(added).decode()):
            items, event_ids = _oldest_first(row["sequence"])
            places = [place for place, event_id in enumerate(event_ids) if event_id in new]
            sequences[UserId(row["user_id"])] = AppliedSequence(items, tuple(places), tuple(new[event_ids[place]] for place in places))
    return AppliedEvents(applied, int(rows[0]["transaction"]), sequences, versions)


async def read_seen(connection: Connection) -> Seen:
    """Returns what the connection's transaction sees, all of it if it is a repeatable read."""
    return Seen.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))


async def iter_changed(
    connection: Connection, tenant_id: TenantId, *, after: datetime, unwanted: Sequence[str], limit: int, chunk: int = 500
) -> AsyncIterator[list[UserSequence]]:
    """Yields the sequences of users with events after a moment, which are the new ones, in lists of at most `chunk`; in bounded memory.

    Args:
        connection: In the tenant's transaction, which stays open meanwhile.
        tenant_id: The tenant.
        after: Events that occurred later are new.
        unwanted: Event types, lower case, that are left out.
        limit: New events at most; with more, the newest are, and those before them count as known.
        chunk: Users a list.
    """
    after = await connection.fetchval(_CUT, tenant_id, list(unwanted), after, limit) or after
    cursor = await connection.cursor(_CHANGED, tenant_id, list(unwanted), after)
    while rows := await cursor.fetch(chunk):
        found = (_oldest_first(row["sequence"]) for row in rows)
        yield [UserSequence(items, tuple(place for place, is_new in enumerate(marks) if is_new)) for items, marks in found]


def _oldest_first(sequence: str) -> tuple[tuple[ItemId, ...], list[Any]]:
    items, marks = orjson.loads(sequence)
    return tuple(map(ItemId, reversed(items))), marks[::-1]


def _weight(remembered: _Remembered) -> int:
    return len(remembered.items) + 10  # the entry itself
