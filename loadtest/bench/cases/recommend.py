"""RecommendItems of 50 items: computed, from the process's own cache, and from Redis, beside the empty method.

A miss is a list with a context that nobody asked in before, of users who were here a moment ago. For L2 the lists are made by another
process on the same Redis, whose own time is not counted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aisle.v1 import recommendation_service_pb2 as pb
from loadtest.bench.case import IN_FLIGHT, Case, Round
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Server, Stand

METHOD = "/aisle.v1.RecommendationService/RecommendItems"
_USERS = 1000
_KEPT = 200
"""Lists that are asked for again and again."""
_LISTS_A_SECOND = 300
"""Lists made for the second level, for each second of a measurement."""


def requests(count: int, salt: int, *, users: int = _USERS) -> list[pb.RecommendItemsRequest]:
    """Returns requests of the demo couples in turn, each with a context of its own."""
    return [
        pb.RecommendItemsRequest(user=f"users/couple-{n % users:06d}", max_results=50, context=pb.Context(page=f"/bench/{salt + n}"))
        for n in range(count)
    ]


def bodies(count: int, salt: int, *, users: int = _USERS) -> list[bytes]:
    """Returns the same as bytes."""
    return [request.SerializeToString() for request in requests(count, salt, users=users)]


def asked(server: Server, content: Sequence[bytes], in_flight: int, seconds: float, *, rate: float = 0.0, once: bool = False) -> Figures:
    """Measures RecommendItems of one server."""
    return calls(server.grpc, content, method=METHOD, server=server.process, in_flight=in_flight, seconds=seconds, rate=rate, once=once)


def _miss(in_flight: int, stand: Stand, turn: Round) -> Figures:
    asked(stand.server, bodies(_KEPT, turn.salt, users=_KEPT), 16, 60.0, once=True)  # their profiles are in memory
    return asked(stand.server, bodies(20_000, turn.salt + _KEPT, users=_KEPT), in_flight, turn.seconds)


def _first_level(in_flight: int, stand: Stand, turn: Round) -> Figures:
    kept = bodies(_KEPT, turn.salt)
    asked(stand.server, kept, 16, 60.0, once=True)
    return asked(stand.server, kept, in_flight, turn.seconds)


def _second_level(stand: Stand, turn: Round) -> Figures:
    """Asks a process that knows the users, but not the lists, for lists that another has put into Redis, each once."""
    made = bodies(int(_LISTS_A_SECOND * turn.seconds), turn.salt, users=_KEPT)
    asked(stand.server, made, 16, 60.0, once=True)
    with stand.serve() as other:
        asked(other, bodies(_KEPT, turn.salt + len(made), users=_KEPT), 16, 60.0, once=True)
        return asked(other, made, 16, 60.0, once=True)


CASES = (
    *(Case(name=f"RecommendItems miss @{n}", measure=partial(_miss, n), beside=f"echo @{n}", cpu_at_most=6.0) for n in IN_FLIGHT),
    *(Case(name=f"RecommendItems L1 @{n}", measure=partial(_first_level, n), beside=f"echo @{n}", cpu_at_most=1.3) for n in IN_FLIGHT),
    Case(name="RecommendItems L2 @16", measure=_second_level, beside="echo @16", cpu_at_most=1.7),
)
