"""EmbedTexts, one text a call, beside raw ONNX Runtime on all cores."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cache, partial

from aisle.v1 import embedding_service_pb2 as pb
from loadtest.bench.case import IN_FLIGHT, Case, Round
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Stand
from server.demo import couples_with_journeys

METHOD = "/aisle.v1.EmbeddingService/EmbedTexts"
_RAW = f"raw x{len(os.sched_getaffinity(0))}"


@cache
def _openings() -> list[str]:
    items, _ = couples_with_journeys(1, 1, datetime.now(UTC))
    return [item.description.split(".")[0] for item in items]


def texts(count: int, salt: int) -> list[str]:
    """Returns texts of about 16 tokens that no cache has seen: openings of the demo catalogue, each with a number of its own."""
    openings = _openings()
    return [f"{openings[n % len(openings)]} {salt + n}" for n in range(count)]


def _embed(in_flight: int, stand: Stand, turn: Round) -> Figures:
    bodies = [pb.EmbedTextsRequest(texts=[text]).SerializeToString() for text in texts(4000, turn.salt)]
    server = stand.server
    return calls(server.grpc, bodies, method=METHOD, server=server.process, in_flight=in_flight, seconds=turn.seconds)


CASES = tuple(
    Case(
        name=f"EmbedTexts @{n}",
        measure=partial(_embed, n),
        beside=_RAW,
        rate_at_least=0.85 if n == 64 else 0.0,
        cpu_at_most=1.15 if n == 64 else 0.0,
    )
    for n in IN_FLIGHT
)
