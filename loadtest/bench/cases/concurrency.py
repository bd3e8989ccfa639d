"""Many at once: a thousand in flight, two workers beside one, and three times as many calls as can be answered."""

from __future__ import annotations

from functools import partial

from loadtest.bench.case import Case, Round
from loadtest.bench.cases.recommend import asked, bodies
from loadtest.bench.measure import Figures
from loadtest.bench.stand import Server, Stand

_SLOWDOWN = "1.25"
"""AISLE_MAX_SLOWDOWN of the servers for overload."""
_IN_FLIGHT = 16
"""With which the server without a limit shows what it can do."""


def _thousand(stand: Stand, turn: Round, server: Server | None = None) -> Figures:
    """500 calls a second for twice the time, at most 1,000 at once; one in four asks for a list that nobody has asked for before."""
    kept, new = bodies(200, turn.salt), bodies(20_000, turn.salt + 200)
    content = [new[n] if n % 4 == 0 else kept[n % len(kept)] for n in range(int(1000 * turn.seconds))]
    return asked(server or stand.server, content, 1000, 2 * turn.seconds, rate=500)


def _thousand_of_two(stand: Stand, turn: Round) -> Figures:
    """The same of two workers, which know the users already."""
    with stand.serve("--workers", "2") as server:
        asked(server, bodies(400, turn.salt), 16, turn.seconds)
        return _thousand(stand, turn, server)


def _workers(count: int, stand: Stand, turn: Round) -> Figures:
    with stand.serve("--workers", str(count)) as server:
        asked(server, bodies(400, turn.salt), 16, turn.seconds)
        return asked(server, bodies(20_000, turn.salt + 400), 64, turn.seconds)


def _limited(times: float, stand: Stand, turn: Round) -> Figures:
    """Asks a server that limits its concurrency for one list at a time, or for so many times what a server can do, open loop."""
    with stand.serve(AISLE_MAX_SLOWDOWN=_SLOWDOWN) as server:
        quiet = asked(server, bodies(20_000, turn.salt), 1, turn.seconds)  # and the limit learns what a call takes
        if not times:
            return quiet
        capacity = asked(stand.server, bodies(20_000, turn.salt + 20_000), _IN_FLIGHT, turn.seconds).rps
        return asked(server, bodies(20_000, turn.salt + 40_000), 1000, 2 * turn.seconds, rate=times * capacity)


CASES = (
    Case(name="mixed lists, 500/s", measure=_thousand),
    Case(name="2 workers, mixed lists, 500/s", measure=_thousand_of_two),
    Case(name="1 worker, miss @64", measure=partial(_workers, 1)),
    Case(name="2 workers, miss @64", measure=partial(_workers, 2), beside="1 worker, miss @64"),
    Case(name="limited, one at a time", measure=partial(_limited, 0.0)),
    Case(name="limited, load of 3", measure=partial(_limited, 3.0), beside="limited, one at a time", p95_at_most=2.0),
)
