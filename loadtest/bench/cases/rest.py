"""The same kept lists by HTTP with JSON in the same process, beside gRPC."""

from __future__ import annotations

from functools import partial

from loadtest.bench.case import IN_FLIGHT, Case, Round
from loadtest.bench.cases.recommend import asked, bodies, requests
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Stand

_KEPT = 200


def _rest(in_flight: int, stand: Stand, turn: Round) -> Figures:
    server, wanted = stand.server, requests(_KEPT, turn.salt)
    asked(server, bodies(_KEPT, turn.salt), 16, 60.0, once=True)
    paths = [f"/v1/{one.user}:recommendItems" for one in wanted]
    content = [f'{{"maxResults": 50, "context": {{"page": "{one.context.page}"}}}}'.encode() for one in wanted]
    return calls(server.http, content, paths=paths, server=server.process, in_flight=in_flight, seconds=turn.seconds)


CASES = tuple(Case(name=f"REST, L1 @{n}", measure=partial(_rest, n), beside=f"RecommendItems L1 @{n}", cpu_at_most=0.6) for n in IN_FLIGHT)
