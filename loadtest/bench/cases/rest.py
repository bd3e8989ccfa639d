"""The same kept lists by HTTP with JSON, in the same process and through a gateway that stands alone, beside gRPC."""

from __future__ import annotations

from functools import partial

from loadtest.bench.case import IN_FLIGHT, Case, Round
from loadtest.bench.cases.recommend import asked, bodies, requests
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Server, Stand

_KEPT = 200


def _rest(in_flight: int, stand: Stand, turn: Round, door: Server | None = None, key: str = "") -> Figures:
    server, wanted = stand.server, requests(_KEPT, turn.salt)
    asked(server, bodies(_KEPT, turn.salt), 16, 60.0, once=True)
    paths = [f"/v1/{one.user}:recommendItems" for one in wanted]
    content = [f'{{"maxResults": 50, "context": {{"page": "{one.context.page}"}}}}'.encode() for one in wanted]
    address, between = (server.http, None) if door is None else (door.http, door.process)
    return calls(
        address,
        content,
        paths=paths,
        server=server.process,
        in_flight=in_flight,
        seconds=turn.seconds,
        between=between,
        metadata=[("x-api-key", key)] if key else (),
    )


def _gateway(in_flight: int, stand: Stand, turn: Round) -> Figures:
    """Asks `aisle gateway` in front of the server, with the time of both."""
    with stand.gateway() as door:
        return _rest(in_flight, stand, turn, door, stand.key("recommend"))


CASES = (
    *(Case(name=f"REST, L1 @{n}", measure=partial(_rest, n), beside=f"RecommendItems L1 @{n}", cpu_at_most=0.6) for n in IN_FLIGHT),
    *(Case(name=f"gateway, L1 @{n}", measure=partial(_gateway, n), beside=f"RecommendItems L1 @{n}", cpu_at_most=2.5) for n in IN_FLIGHT),
)
