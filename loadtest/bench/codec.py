"""`python -m loadtest.bench.codec`: the gateway's JSON codec against `google.protobuf.json_format`, 100-item messages.

Times are CPU of this process, the best of several turns, each side in turn. Quote the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from aisle.v1 import event_service_pb2, item_service_pb2, recommendation_service_pb2
from server.gateway.codec import Codec, parse_json

_ROUNDS = 15
_CALLS = 10


def messages() -> dict[str, Message]:
    """Returns the messages by name: a ranked list, one with reasons, a page of the catalogue, a batch of events."""
    ranked = recommendation_service_pb2.RecommendItemsResponse(decision="decisions/01a2", rung=recommendation_service_pb2.Ladder.FULL)
    explained = recommendation_service_pb2.RecommendItemsResponse(decision="decisions/01a2")
    page = item_service_pb2.ListItemsResponse()
    events = event_service_pb2.IngestEventsRequest()
    for place in range(100):
        name, score = f"items/vendor-{place:05d}", 1 / (place + 1.3)
        ranked.items.add(item=name, score=score, probability=score / 50)
        reasons = explained.items.add(item=name, score=score, probability=score / 50).reasons
        for source in ("semantic", "item_to_item"):
            reasons.add(source=source, contribution=score / 3, text="Like the venues you saved")
        item = page.items.add(
            name=name, title="Quinta da Serra", description="A garden over the river. " * 6, categories=["venue", "garden"]
        )
        item.price, item.currency = 100 + place / 3, "EUR"
        item.create_time.FromSeconds(1_767_225_600 + place)
        item.attributes.update({"city": "Porto", "capacity": 120, "indoor": True})
        event = events.events.add(event_id=f"e-{place}", user="users/u", item=name, event_type="view", value=1.5)
        event.occur_time.FromMilliseconds(1_767_225_600_123 + place)
    return {"ranked list": ranked, "with reasons": explained, "catalogue page": page, "events": events}


def best_us(*calls: Callable[[], object]) -> list[float]:
    """Returns each call's best CPU time in microseconds, the calls taken in turn."""
    best = [float("inf")] * len(calls)
    for _ in range(_ROUNDS):
        for index, call in enumerate(calls):
            started = time.process_time_ns()
            for _ in range(_CALLS):
                call()
            best[index] = min(best[index], (time.process_time_ns() - started) / _CALLS / 1000)
    return best


def _row(codec: Codec, name: str, message: Message) -> list[str]:
    body = codec.encode(message)

    def decode() -> None:
        codec.decode(parse_json(body), type(message)())

    ours, compact, default, ours_read, theirs_read = best_us(
        lambda: codec.encode(message),
        lambda: json_format.MessageToJson(message, indent=None),
        lambda: json_format.MessageToJson(message),
        decode,
        lambda: json_format.Parse(body, type(message)()),
    )
    write = [f"{ours:,.0f}", f"{compact / ours:.1f}x", f"{default / ours:.1f}x"]
    return [name, f"{len(body):,}", *write, f"{ours_read:,.0f}", f"{theirs_read / ours_read:.1f}x"]


def main() -> None:
    """Prints the table."""
    table = Table(title="JSON codec against json_format, CPU")
    for column in ("message", "bytes", "write us", "vs compact", "vs default (indented)", "read us", "vs Parse"):
        table.add_column(column, justify="left" if column == "message" else "right")
    codec = Codec(descriptor_pool.Default())
    for name, message in messages().items():
        table.add_row(*_row(codec, name, message))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
