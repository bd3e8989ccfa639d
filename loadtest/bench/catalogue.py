"""`python -m loadtest.bench.catalogue`: what a list costs end to end as the catalogue grows.

Starts a server of its own, and for each size a tenant with so many items whose texts' vectors are generated (`generated`), users who walked
among them (`training.growth.generate`), and a bundle trained from both as `aisle train` does it, but for the transformer, which is trained
for one epoch. Then another server answers for that tenant: RecommendItems of 50 of users with histories, in contexts that nobody asked in
before, half of the items kept by a filter, with features, ranker and decision record. Echo is the empty method in the same minutes.

Rows and arrays are made in the database, since texts of a million items are an hour's work for the encoder on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from aisle.v1 import recommendation_service_pb2 as pb
from loadtest.bench.cases.recommend import METHOD
from loadtest.bench.echo import METHOD as EMPTY
from loadtest.bench.generated import Generated
from loadtest.bench.growth import DOCUMENT, Row, markdown, sizes_of
from loadtest.bench.measure import BenchError, Figures, calls, total_cpu_s
from loadtest.bench.stand import Server, Stand, standing
from loadtest.bench.table import write_between
from server.cli.models import build_with_progress
from server.domain import Item, ItemId, TenantId, UserId
from server.domain.ids import BundleId
from server.domain.ranking import VIEW_DIMENSIONS
from server.store import Database, open_database
from server.store.bundles import promote_bundle, register_bundle
from server.store.items import items_without_vector, set_text_vectors, upsert_items
from server.store.tenants import create_tenant
from training.bundle import train
from training.data import Interactions, RawEvents
from training.growth.generate import EVENT_TYPES, generate
from training.pipeline import SequenceTask, ThisProcess
from training.views.sequential.fit import Sequential

BEGIN, END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"
_EVENTS = 200_000
_DAYS = 60
_PRICES = 100
_CITIES = 50
_USERS = 200
_LEAST_EVENTS = 10
"""Of each user who asks."""
_PAGE = 5000
_Page = TypeVar("_Page")
_SETTLED_S = 5.0
"""An index that uses less than a tenth of a core for so long has nothing left to learn."""
_SETTLE_LIMIT_S = 1800.0

_INSERT_EVENTS = """
WITH made AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
        AS given (event_id, user_id, item_id, event_type, occur_time)
), known AS (INSERT INTO event_keys (tenant_id, event_id) SELECT $1, event_id FROM made)
INSERT INTO events (tenant_id, event_id, user_id, anonymous_id, item_id, event_type, occur_time, value, session_id, properties)
SELECT $1, event_id, user_id, '', item_id, event_type, occur_time, 1, '', '{}' FROM made
"""


class OneEpoch(ThisProcess):
    """Trains the transformer for one epoch: what it costs to ask is the same after forty."""

    def fit_sequential(
        self, interactions: Interactions, task: SequenceTask, *, held_out: Interactions | None = None, epochs: int | None = None
    ) -> Sequential | None:
        """Trains here."""
        del epochs
        return super().fit_sequential(interactions, task, held_out=held_out, epochs=1)


class Made:
    """A catalogue of generated items and the events of its users; the same each time.

    Args:
        count: N items.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.tenant_id = TenantId(f"catalogue-{count}")
        self._vectors = Generated(count)
        self._events = generate(_EVENTS, count)

    def items(self) -> Iterator[list[Item]]:
        """Yields the items, some thousand at a time."""
        groups = self._vectors.cluster_of
        for first in range(0, self.count, _PAGE):
            yield [
                Item(
                    item_id=_item_id(n),
                    title=f"Item {n}",
                    categories=(f"group {groups[n] % 100}",),
                    price=float(n % _PRICES),
                    attributes={"city": f"City {groups[n] % _CITIES}"},
                )
                for n in range(first, min(first + _PAGE, self.count))
            ]

    def text_vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Returns float32, (N, 384), of length 1."""
        vectors = np.empty((self.count, VIEW_DIMENSIONS), np.float32)
        for first, block in self._vectors.blocks():
            vectors[first : first + len(block)] = block[:, :VIEW_DIMENSIONS]
        return vectors

    def users(self) -> list[str]:
        """Returns users who have done enough to be known."""
        return [f"u{user}" for user in np.flatnonzero(np.diff(self._events.starts) >= _LEAST_EVENTS)[:_USERS].tolist()]

    def events(self, now: datetime) -> RawEvents:
        """Returns the events, those of all users spread over the last days."""
        order = np.argsort(self._events.times, kind="stable")
        times = np.empty(len(order))
        times[order] = np.linspace(-_DAYS * 86400.0, -60.0, len(order)) + now.timestamp()
        return RawEvents(
            tuple(UserId(f"u{user}") for user in self._events.users.tolist()),
            tuple(_item_id(row) for row in self._events.items.tolist()),
            tuple(EVENT_TYPES[kind] for kind in self._events.kinds.tolist()),
            times,
        )


def _item_id(number: int) -> ItemId:
    return ItemId(f"i{number:07}")


def _trained(count: int, text_model: str, folder: Path, now: datetime) -> tuple[BundleId, Path, dict[str, Any]]:
    made = Made(count)
    items = [item for page in made.items() for item in page]
    vectors = {item.item_id: vector for item, vector in zip(items, made.text_vectors(), strict=True)}
    found = train(
        made.events(now), vectors, items=items, tenant_id=made.tenant_id, text_model=text_model, directory=folder, engine=OneEpoch()
    )
    return found.bundle_id, found.directory, dict(found.manifest)


async def fill(database: Database, made: Made, text_model: str) -> None:
    """Makes the tenant with its items, their vectors, its events and its bundle."""
    now = datetime.now(UTC)
    async with database.system() as connection:
        await create_tenant(connection, made.tenant_id)
    for page in _told(made.items(), "items", -(-made.count // _PAGE)):
        async with database.tenant(made.tenant_id) as connection:
            await upsert_items(connection, page)
    vectors = made.text_vectors()
    for _ in _told(range(0, made.count, _PAGE), "vectors of their texts", -(-made.count // _PAGE)):
        async with database.tenant(made.tenant_id) as connection:
            waiting = await items_without_vector(connection, text_model, _PAGE)
            rows = [(one, vectors[int(one.item.item_id[1:])].astype("<f4").tobytes()) for one in waiting]
            await set_text_vectors(connection, text_model, rows)
    del vectors
    events = made.events(now)
    months = sorted({(now - timedelta(days=days)).date().replace(day=1) for days in range(0, _DAYS + 31, 20)})
    async with database.tenant(made.tenant_id) as connection:
        await connection.execute("SELECT aisle_event_partitions($1::date[])", months)
        ids = [f"e{n}" for n in range(len(events.users))]
        times = [datetime.fromtimestamp(one, UTC) for one in events.times.tolist()]
        await connection.execute(_INSERT_EVENTS, made.tenant_id, ids, events.users, events.items, events.kinds, times)
    print(f"training on {made.count:,} items", flush=True)
    with tempfile.TemporaryDirectory(prefix="aisle-bundle-") as folder:
        # In a process of its own, which gives all of its memory back.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            work = asyncio.get_running_loop().run_in_executor(pool, _trained, made.count, text_model, Path(folder), now)
            bundle_id, directory, manifest = await work
        print(f"{bundle_id}: ranker {manifest['ranking'].get('kind')}, fusion {manifest['fusion']}", flush=True)
        async with database.tenant(made.tenant_id) as connection:
            await register_bundle(connection, bundle_id, directory, manifest)
            await promote_bundle(connection, bundle_id)
    async with database.system() as connection:
        await connection.execute("ANALYZE items, events, event_keys")


def _told(pages: Iterable[_Page], what: str, total: int) -> Iterable[_Page]:
    return track(pages, what, total=total, console=Console(stderr=True))


class Lists:
    """Requests for lists of one tenant, none like another."""

    def __init__(self, made: Made) -> None:
        self._users = made.users()
        self._salt = itertools.count()

    def bodies(self, count: int) -> list[bytes]:
        """Returns so many requests of users in turn, half of the items kept by the filter."""
        return [
            pb.RecommendItemsRequest(
                user=f"users/{user}",
                max_results=50,
                filter=f"price < {_PRICES // 2}",
                context=pb.Context(page=f"/catalogue/{next(self._salt)}"),
            ).SerializeToString()
            for user in itertools.islice(itertools.cycle(self._users), count)
        ]


def measured(stand: Stand, made: Made, *, seconds: float, rounds: int) -> dict[str, float]:
    """Returns what lists of the tenant cost, by the label of the figure."""
    lists = Lists(made)
    with stand.serve(AISLE_LOCAL_TENANT=made.tenant_id) as server:
        parts = stand.server.process  # PostgreSQL, Redis and Triton are its children

        def ask(count: int, in_flight: int, *, most_s: float, once: bool = False) -> Figures:
            bodies = lists.bodies(count)
            return calls(
                server.grpc, bodies, method=METHOD, server=parts, between=server.process, in_flight=in_flight, seconds=most_s, once=once
            )

        loaded_s = _ready(server, lists)
        spent_s = total_cpu_s(server.process)
        ask(_USERS, 4, most_s=300.0, once=True)
        alone, together, echo = [], [], []
        for _ in range(rounds):
            alone.append(ask(5000, 1, most_s=seconds))
            together.append(ask(20_000, 16, most_s=seconds))
            echo.append(calls(stand.echo.grpc, [b"x" * 1024], method=EMPTY, server=stand.echo.process, in_flight=16, seconds=seconds))
        return {
            "1 in flight, p50, ms": _median([one.p50_ms for one in alone]),
            "1 in flight, p95, ms": _median([one.p95_ms for one in alone]),
            "CPU of a list, 16 in flight, us": _median([one.cpu_us for one in together]),
            "of it the server, us": _median([one.parts["server"] for one in together]),
            "times the empty call": _median([mine.cpu_us / empty.cpu_us for mine, empty in zip(together, echo, strict=True)]),
            "first list after the start, s": loaded_s,
            "start and learning the index, CPU s": spent_s,
            "memory of the server, MB": _memory_bytes(server.process) / 1e6,
        }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _memory_bytes(process: psutil.Process) -> float:
    return float(sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)]))


def _ready(server: Server, lists: Lists) -> float:
    """Waits until lists are whole and nothing is learned any more; returns seconds until the first list.

    Raises:
        BenchError: That takes longer than half an hour.
    """
    started, loaded_s = time.monotonic(), 0.0
    with grpc.insecure_channel(server.grpc) as channel:
        ask = channel.unary_unary(METHOD, response_deserializer=pb.RecommendItemsResponse.FromString)
        while not loaded_s:
            if time.monotonic() - started > _SETTLE_LIMIT_S:
                raise BenchError("the catalogue was not loaded within half an hour")
            try:
                reply = ask(lists.bodies(1)[0], timeout=_SETTLE_LIMIT_S)
            except grpc.RpcError:  # it is still being loaded
                time.sleep(1.0)
                continue
            if reply.rung == pb.Ladder.FULL:
                loaded_s = time.monotonic() - started
    while True:
        before = total_cpu_s(server.process)
        time.sleep(_SETTLED_S)
        if total_cpu_s(server.process) - before < 0.1 * _SETTLED_S:
            return loaded_s
        if time.monotonic() - started > _SETTLE_LIMIT_S:
            raise BenchError("the index was not learned within half an hour")


async def _run(stand: Stand, text_model: str, arguments: argparse.Namespace) -> str:
    catalogues = [Made(count) for count in arguments.sizes]
    for made in catalogues:
        async with open_database(stand.parts["AISLE_DATABASE_URL"], max_connections=2) as database:
            await fill(database, made, text_model)
    rows = []
    for made in catalogues:
        figures = await asyncio.to_thread(measured, stand, made, seconds=arguments.seconds, rounds=arguments.rounds)
        rows.append(Row(made.count, figures))
        print(markdown("items of the catalogue", rows), flush=True)
    load = os.getloadavg()[1]
    about = f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores, {load:.1f} processes ready to run in the last minutes."
    return f"{about}\n\n{markdown('items of the catalogue', rows)}"


def main() -> None:
    """Measures, prints the table and writes it into the document."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.catalogue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=sizes_of, default=[10_000, 100_000, 1_000_000], help="items of the catalogue")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print-only", action="store_true", help="leave the document as it is")
    arguments = parser.parse_args()
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    with standing((encoder.onnx, encoder.tokenizer)) as stand:
        text = asyncio.run(_run(stand, encoder.version, arguments))
    if not arguments.print_only:
        write_between(DOCUMENT, BEGIN, END, f"{text}\n")
        print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    main()
