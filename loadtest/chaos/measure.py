"""Runs one fault under load and says what it came to."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.chaos.faults import Fault
from loadtest.chaos.load import Answer, Load
from loadtest.chaos.stage import Stage

_QUIET_S = 5.0
"""All is well again when this long no call failed or came down a rung, in seconds."""
_RECOVERY_S = 90.0
"""Longest wait for that, in seconds."""
_ARRIVAL_S = 60.0
"""Longest wait for acknowledged events to stand in the table, in seconds."""
_USUAL_SHARE = 0.05
"""Rungs with at least this share of lists before the fault are nothing unusual afterwards."""


@dataclass
class Result:
    """What one fault came to."""

    fault: str
    what: str
    skipped: str = ""
    reads: int = 0
    failed_reads: int = 0
    writes: int = 0
    refused_writes: int = 0
    rungs: dict[str, int] = field(default_factory=dict)
    p95_ratio: float = 0.0
    """95th percentile of reads from the injection on, to that before it."""
    recovery_s: float | None = None
    """Seconds from the end of the fault to the last unusual answer. None: never well again within the patience."""
    acknowledged: int = 0
    lost: int = 0
    deleted: int = 0
    """Acknowledged events that the fault itself deleted."""
    doubled: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    faulty: list[str] = field(default_factory=list)
    """What the run fails for."""

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


async def measured(name: str, fault: Fault, stage: Stage, load: Load, *, before_s: float, hold_s: float) -> Result:
    """Loads, injects, heals, waits until all is well again, and counts the acknowledged events in the table."""
    result = Result(name, what(type(fault)))
    start = time.monotonic()
    await asyncio.sleep(before_s)
    injected = time.monotonic()
    usual = usual_rungs(load.answers, since=start)
    try:
        await fault.inject()
        await asyncio.sleep(hold_s if fault.hold_s is None else fault.hold_s)
    finally:
        await fault.heal()
    healed = time.monotonic()
    result.recovery_s = await _recovery(load, usual, healed=healed)
    ended = time.monotonic()
    since = [one for one in load.answers if injected <= one.began + one.seconds <= ended]
    _count(result, since, [one for one in load.answers if start <= one.began < injected])
    await _count_events(result, fault, stage, [event_id for at, event_id in load.acknowledged if start <= at <= ended])
    result.faulty = faulty(result, type(fault))
    return result


def what(fault: type[Fault]) -> str:
    """Returns how a fault is brought about, in a few words."""
    return (fault.__doc__ or "").partition("\n")[0].rstrip(".")


def usual_rungs(answers: Iterable[Answer], *, since: float) -> set[str]:
    """Returns the rungs that lists stood on in steady state: those with a share worth the name."""
    rungs = Counter(one.rung for one in answers if one.rung and one.began >= since)
    return {"FULL"} | {rung for rung, count in rungs.items() if count >= _USUAL_SHARE * rungs.total()}


def unusual(answer: Answer, usual: set[str]) -> bool:
    """Returns whether a call failed or came down a rung.

    A list that did not see its own event within the 100 ms that it waits says STALE_VECTOR; on a busy machine that happens at any time.
    """
    late = answer.token and answer.rung == "STALE_VECTOR"
    return bool(answer.error) or bool(answer.rung and answer.rung not in usual and not late)


def last_unusual(answers: Iterable[Answer], usual: set[str], *, since: float) -> float:
    """Returns when the last unusual answer came; `since` where none did."""
    return max((one.began + one.seconds for one in answers if one.began + one.seconds > since and unusual(one, usual)), default=since)


async def _recovery(load: Load, usual: set[str], *, healed: float) -> float | None:
    """Returns the seconds from the end of the fault to the last unusual answer, or None when they do not cease."""
    while True:
        now = time.monotonic()
        last = last_unusual(load.answers, usual, since=healed)
        if now - last >= _QUIET_S and any(one.began >= now - _QUIET_S for one in load.answers):
            return last - healed
        if now - healed > _RECOVERY_S:
            return None
        await asyncio.sleep(0.25)


def _count(result: Result, since: Sequence[Answer], before: Sequence[Answer]) -> None:
    reads, writes = ([one for one in since if one.kind == kind] for kind in ("read", "write"))
    result.reads, result.writes = len(reads), len(writes)
    result.failed_reads = sum(bool(one.error) for one in reads)
    result.refused_writes = sum(bool(one.error) for one in writes)
    result.rungs = dict(Counter(one.rung for one in since if one.rung).most_common())
    result.errors = dict(Counter(f"{one.kind} {one.error}"[:160] for one in since if one.error).most_common(6))
    calm = p95([one.seconds for one in before if one.kind == "read"])
    result.p95_ratio = p95([one.seconds for one in reads]) / calm if calm else 0.0


def p95(seconds: Sequence[float]) -> float:
    """Returns the 95th percentile; 0 of fewer than two."""
    return statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else 0.0


async def _count_events(result: Result, fault: Fault, stage: Stage, acknowledged: Sequence[str]) -> None:
    ids = set(acknowledged)
    missing, result.doubled = await missing_events(stage, ids, excused=fault.excused)
    result.acknowledged = len(ids)
    result.lost, result.deleted = len(missing - fault.excused), len(missing & fault.excused)


async def missing_events(stage: Stage, ids: set[str], *, excused: AbstractSet[str]) -> tuple[set[str], int]:
    """Returns which ids do not come to stand in the `events` table, and how many stand there more than once.

    Waits as long as any but the excused are missing, a minute at most.
    """
    patience = time.monotonic() + _ARRIVAL_S
    while True:
        connection = await stage.connect_database()
        try:
            rows = await connection.fetch("SELECT event_id FROM events WHERE event_id = ANY($1)", list(ids))
        finally:
            await connection.close()
        stored = Counter(row["event_id"] for row in rows)
        missing = ids - stored.keys()
        if missing <= excused or time.monotonic() > patience:
            return missing, sum(count > 1 for count in stored.values())
        await asyncio.sleep(0.5)


def faulty(result: Result, fault: type[Fault]) -> list[str]:
    """Returns what is not as it must be, one line each."""
    found = []
    if result.lost:
        found.append(f"{result.lost} acknowledged events are not in the table")
    if result.doubled:
        found.append(f"{result.doubled} events are in the table more than once")
    if not result.reads or not result.writes:
        found.append("no load")
    if result.failed_reads > fault.read_limit * result.reads:
        found.append(f"{result.failed_reads} of {result.reads} reads failed, the limit is {fault.read_limit:.0%}")
    if result.refused_writes > fault.write_limit * result.writes:
        found.append(f"{result.refused_writes} of {result.writes} writes failed, the limit is {fault.write_limit:.0%}")
    if result.recovery_s is None:
        found.append(f"not well again within {_RECOVERY_S:g} s")
    return found
