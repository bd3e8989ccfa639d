"""Lists while the text encoder is saturated: RecommendItems at a steady pace, alone and beside 64 texts in flight.

p95 is what counts; processor time is left out of the second, since both kinds of calls share it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from aisle.v1 import embedding_service_pb2 as pb
from loadtest.bench.case import Case, Round
from loadtest.bench.cases import embed
from loadtest.bench.cases.recommend import asked, bodies
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Stand

_PACE = 20.0
"""Lists a second: far from what the server can do, so that p95 is its own and not that of a queue of lists."""
_USERS = 200
_LONGER_S = 2.0
"""Seconds by which the texts go on longer than the lists, which start a client process too."""
_ALONE = f"lists, {_PACE:g}/s"


def _alone(stand: Stand, turn: Round) -> Figures:
    asked(stand.server, bodies(_USERS, turn.salt, users=_USERS), 16, 60.0, once=True)  # their profiles are in memory
    return asked(stand.server, bodies(4000, turn.salt + _USERS, users=_USERS), 64, 2 * turn.seconds, rate=_PACE)


def _beside_texts(stand: Stand, turn: Round) -> Figures:
    server = stand.server
    asked(server, bodies(_USERS, turn.salt + 10_000, users=_USERS), 16, 60.0, once=True)
    texts = [pb.EmbedTextsRequest(texts=[text]).SerializeToString() for text in embed.texts(20_000, turn.salt)]
    seconds = 2 * turn.seconds + _LONGER_S
    with ThreadPoolExecutor(1) as beside:
        saturating = beside.submit(calls, server.grpc, texts, method=embed.METHOD, server=server.process, in_flight=64, seconds=seconds)
        found = asked(server, bodies(4000, turn.salt + 20_000, users=_USERS), 64, 2 * turn.seconds, rate=_PACE)
        saturating.result()
    return replace(found, cpu_us=0.0, parts={})


CASES = (
    Case(name=_ALONE, measure=_alone),
    Case(name=f"{_ALONE}, beside EmbedTexts @64", measure=_beside_texts, beside=_ALONE, p95_at_most=2.0),
)
