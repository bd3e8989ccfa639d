"""IngestEvents, acknowledged when Redis has them on disk: one event a call, and a hundred. An answer is a call, not an event."""

from __future__ import annotations

from functools import partial

from aisle.v1 import event_service_pb2 as pb
from loadtest.bench.case import Case, Round
from loadtest.bench.measure import Figures, calls
from loadtest.bench.stand import Stand

METHOD = "/aisle.v1.EventService/IngestEvents"
_USERS = 200


def _ingest(events: int, stand: Stand, turn: Round) -> Figures:
    """Writes for users of the bench's own, so that the couples' lists stay as they are."""
    bodies = [
        pb.IngestEventsRequest(
            events=[
                pb.Event(
                    event_id=f"bench-{turn.salt}-{n}-{e}",
                    user=f"users/bench-{(n + e) % _USERS:04d}",
                    item="items/venue-porto-001",
                    event_type="view",
                )
                for e in range(events)
            ]
        ).SerializeToString()
        for n in range(20_000 // events)
    ]
    server = stand.server
    return calls(server.grpc, bodies, method=METHOD, server=server.process, in_flight=16, seconds=turn.seconds)


CASES = (
    Case(name="IngestEvents of 1 @16", measure=partial(_ingest, 1), beside="echo @16", rate_at_least=0.5),
    Case(name="IngestEvents of 100 @16", measure=partial(_ingest, 100), beside="IngestEvents of 1 @16", rate_at_least=0.7),
)
