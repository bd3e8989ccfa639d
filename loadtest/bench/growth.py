"""`python -m loadtest.bench.growth`: what a user costs as histories, users and tenants grow.

Starts a server of its own with the demo tenant. Three scales, one after the other:

- history: users with so many events over a year. Reading such a profile, applying one more event (with what item-to-item counts need
  to know, the user not remembered), and a computed list of 50.
- profiles: the same for users of five events each, in a database of so many of them.
- tenants: servers that start on a database of so many tenants of 100 items each, and then answer each tenant once.

All costs are processor time: of this process and PostgreSQL for reading and applying, which are called without a server, of the server and
all its parts for lists. A slope is the power with which a cost grows, by least squares on logarithms: 0 does not grow, 1 is proportional.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import psutil

from aisle.v1 import recommendation_service_pb2 as pb
from loadtest.bench.cases.recommend import METHOD
from loadtest.bench.measure import calls, cpu_s, total_cpu_s
from loadtest.bench.stand import ROOT, Stand, standing
from loadtest.bench.table import write_between
from server.cli.models import build_with_progress
from server.domain import Event, EventId, Item, ItemId, TenantId, UserId
from server.domain.ranking import VIEW_DIMENSIONS
from server.retrieval.vectors import UNWANTED
from server.store import Database, open_database
from server.store.events import apply_events
from server.store.items import items_without_vector, set_text_vectors, upsert_items
from server.store.keys import create_key
from server.store.profiles import get_profile
from server.store.sequences import RecentSequences, read_applied
from server.store.tenants import create_tenant

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- growth: begin -->", "<!-- growth: end -->"
_DEMO = TenantId("demo")
_USERS = 10
"""Users of each length of history."""
_EVENTS = 5
"""Events of each user of a database of many."""
_TENANT_ITEMS = 100
_TIMES = 400
"""How often each reading and applying is measured: the kernel counts processor time in hundredths of a second."""
_SECONDS = 4.0
_DAYS = 360

_START, _ASKED, _MEMORY = "start, CPU s", "start and each tenant asked once, CPU s", "memory after that, MB"

# Users g-SCALE-0 and on, their events spread over the last 360 days, made in the database: a million events go in within a minute.
_EVENTS_OF = """
WITH made AS (
    SELECT 'g-' || $2 || '-' || u AS user_id, 'g-' || $2 || '-' || u || '-' || n AS event_id, u, n
    FROM generate_series($3::int, $4::int - 1) AS u, generate_series(1, $5::int) AS n
), known AS (INSERT INTO event_keys (tenant_id, event_id) SELECT $1, event_id FROM made)
INSERT INTO events (tenant_id, event_id, user_id, anonymous_id, item_id, event_type, occur_time, value, session_id, properties)
SELECT $1, event_id, user_id, '', ($6::text[])[1 + (u::bigint * 7919 + n * 104729) % cardinality($6::text[])], 'view',
    now() - interval '1 day' * $7 * n / $5, 1, '', '{}' FROM made
"""
_PROFILES_OF = """
INSERT INTO user_personalization_profiles (tenant_id, user_id, engagement_history, version)
SELECT $1, 'g-' || $2 || '-' || u, jsonb_build_object('view', $5::int), 1 FROM generate_series($3::int, $4::int - 1) AS u
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one size of a scale cost: label -> figure, in the unit of its column."""

    size: int
    figures: dict[str, float]


class Bench:
    """One run, on a server with the demo tenant."""

    def __init__(self, stand: Stand, database: Database, items: Sequence[str], text_model: str) -> None:
        self._stand = stand
        self._database = database
        self._items = list(items)
        self._text_model = text_model
        self._salt = itertools.count()

    async def history(self, lengths: Sequence[int]) -> list[Row]:
        """Measures users of each length of history."""
        for length in lengths:
            await self._make(f"h{length}", 0, _USERS, length)
        await self._settle()
        return [Row(length, await self._costs([f"g-h{length}-{n}" for n in range(_USERS)])) for length in lengths]

    async def profiles(self, counts: Sequence[int]) -> list[Row]:
        """Measures users of few events in a database of each number of them; the list is of users not seen before."""
        found = []
        for before, count in itertools.pairwise([0, *counts]):
            await self._make("p", before, count, _EVENTS)
            await self._settle()
            some = np.random.default_rng(count).integers(before, count, 300)
            found.append(Row(count, await self._costs([f"g-p-{n}" for n in some.tolist()])))
        return found

    async def tenants(self, counts: Sequence[int]) -> list[Row]:
        """Measures servers that start on each number of tenants."""
        found, keys = [], list[str]()
        for count in counts:
            keys += [await self._tenant(n) for n in range(len(keys), count)]
            found.append(Row(count, await asyncio.to_thread(self._started, keys)))
        return found

    async def _make(self, scale: str, first: int, end: int, events: int) -> None:
        """Makes users `first` to `end` (exclusive) of a scale, at most a million events a transaction."""
        months = sorted({(datetime.now(UTC) - timedelta(days=days)).date().replace(day=1) for days in range(0, _DAYS + 1, 20)})
        step = max(1, 1_000_000 // events)
        for start in range(first, end, step):
            async with self._database.tenant(_DEMO) as connection:
                await connection.execute("SELECT aisle_event_partitions($1::date[])", months)
                block = (_DEMO, scale, start, min(end, start + step), events)
                await connection.execute(_EVENTS_OF, *block, self._items, _DAYS)
                await connection.execute(_PROFILES_OF, *block)

    async def _settle(self) -> None:
        async with self._database.system() as connection:
            await connection.execute("ANALYZE events, event_keys, user_personalization_profiles")

    async def _costs(self, users: Sequence[str]) -> dict[str, float]:
        turns = itertools.cycle(users)

        async def read() -> None:
            async with self._database.tenant(_DEMO) as connection:
                assert await get_profile(connection, _DEMO, UserId(next(turns)))

        async def apply() -> None:
            event = Event(
                event_id=EventId(uuid.uuid4().hex),
                user_id=UserId(next(turns)),
                item_id=ItemId(self._items[0]),
                event_type="view",
                occur_time=datetime.now(UTC),
            )
            async with self._database.tenant(_DEMO) as connection:
                applied = await apply_events(connection, _DEMO, [event])
                await read_applied(connection, _DEMO, applied, unwanted=UNWANTED, recent=RecentSequences())

        return {
            "profile read, us": await self._each(read),
            "event applied, us": await self._each(apply),
            "list computed, us": await asyncio.to_thread(self._lists, users),
        }

    async def _each(self, work: Callable[[], Awaitable[None]]) -> float:
        """Returns the processor time of one, in microseconds."""
        for _ in range(_TIMES // 10):
            await work()
        before = self._spent()
        for _ in range(_TIMES):
            await work()
        return (self._spent() - before) / _TIMES * 1e6

    def _spent(self) -> float:
        return time.process_time() + cpu_s(self._stand.server.process)["postgres"]

    def _lists(self, users: Sequence[str]) -> float:
        def bodies(count: int) -> list[bytes]:
            return [
                pb.RecommendItemsRequest(
                    user=f"users/{user}", max_results=50, context=pb.Context(page=f"/growth/{next(self._salt)}")
                ).SerializeToString()
                for user in itertools.islice(itertools.cycle(users), count)
            ]

        server = self._stand.server
        calls(server.grpc, bodies(len(users)), method=METHOD, server=server.process, in_flight=4, seconds=60, once=True)
        return calls(server.grpc, bodies(20_000), method=METHOD, server=server.process, in_flight=4, seconds=_SECONDS).cpu_us

    async def _tenant(self, number: int) -> str:
        """Makes a tenant with items and their vectors; returns a key of it."""
        tenant_id, random = TenantId(f"growth-{number}"), np.random.default_rng(number)
        async with self._database.system() as connection:
            await create_tenant(connection, tenant_id)
        async with self._database.tenant(tenant_id) as connection:
            await upsert_items(connection, [Item(item_id=ItemId(f"i{n}"), title=f"Item {n}", price=float(n)) for n in range(_TENANT_ITEMS)])
            waiting = await items_without_vector(connection, self._text_model, _TENANT_ITEMS)
            vectors = random.standard_normal((len(waiting), VIEW_DIMENSIONS)).astype("<f4")
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            await set_text_vectors(connection, self._text_model, [(one, row.tobytes()) for one, row in zip(waiting, vectors, strict=True)])
            key, _ = await create_key(connection, ["recommend"])
        return key

    def _started(self, keys: Sequence[str]) -> dict[str, float]:
        with self._stand.serve() as server:
            ready_s = total_cpu_s(server.process)
            with grpc.insecure_channel(server.grpc) as channel:
                ask: Callable[..., bytes] = channel.unary_unary(METHOD)
                body = pb.RecommendItemsRequest(user="users/anyone", max_results=5).SerializeToString()
                for key in keys:
                    ask(body, timeout=60, metadata=(("authorization", f"Bearer {key}"),))
            return {
                _START: ready_s,
                _ASKED: total_cpu_s(server.process),
                _MEMORY: _memory_bytes(server.process) / 1e6,
            }


def _memory_bytes(process: psutil.Process) -> float:
    """Returns the memory that a process tree alone uses."""
    return float(sum(one.memory_full_info().uss for one in [process, *process.children(recursive=True)]))


def slope(rows: Sequence[Row], figure: str) -> float:
    """Returns the power with which a figure grows with the size: the least-squares line through the logarithms."""
    sizes = [math.log(row.size) for row in rows]
    return float(np.polyfit(sizes, [math.log(row.figures[figure]) for row in rows], 1)[0]) if len(rows) > 1 else math.nan


def markdown(title: str, rows: Sequence[Row]) -> str:
    """Returns a table: a line for each figure, a column for each size, the slope last."""
    lines = [f"| {title} | {' | '.join(f'{row.size:,}' for row in rows)} | slope |", "|---|" + "---:|" * (len(rows) + 1)]
    for figure in rows[0].figures:
        cells = [f"{row.figures[figure]:,.0f}" if row.figures[figure] >= 100 else f"{row.figures[figure]:.2f}" for row in rows]
        lines.append(f"| {figure} | {' | '.join(cells)} | {round(slope(rows, figure), 2) + 0.0:.2f} |")  # no -0.00
    return "\n".join(lines)


def a_tenant(rows: Sequence[Row]) -> str:
    """Returns what each further tenant takes, from the first size to the last; empty for one size."""
    first, last = rows[0], rows[-1]
    if first is last:
        return ""
    more = {name: (last.figures[name] - first.figures[name]) / (last.size - first.size) for name in (_MEMORY, _ASKED)}
    return f"A tenant of {_TENANT_ITEMS} items more takes {more[_MEMORY]:.1f} MB and {1000 * more[_ASKED]:.0f} ms of processor time."


async def _measured(stand: Stand, text_model: str, arguments: argparse.Namespace) -> str:
    async with open_database(stand.parts["AISLE_DATABASE_URL"], max_connections=2) as database:
        async with database.tenant(_DEMO) as connection:
            items = [str(row["item_id"]) for row in await connection.fetch("SELECT item_id FROM items WHERE content_type = ''")]
        bench = Bench(stand, database, items, text_model)
        tables = []
        for name, measure in (("history", bench.history), ("profiles", bench.profiles), ("tenants", bench.tenants)):
            rows = await measure(getattr(arguments, name))
            added = [markdown(_TITLES[name], rows), *([a_tenant(rows)] if name == "tenants" else [])]
            print(*added, sep="\n", flush=True)
            tables += added
    load = os.getloadavg()[2]
    about = f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores, {load:.1f} processes ready to run on average meanwhile"
    return "\n\n".join([f"{about}{f' ({arguments.beside})' if arguments.beside else ''}.", *tables])


_TITLES = {"history": "events of a user", "profiles": "profiles in the database", "tenants": "tenants"}


def sizes_of(text: str) -> list[int]:
    """Returns the whole numbers of a list with commas, which must rise."""
    found = [int(one) for one in text.split(",")]
    if not found or found[0] < 1 or found != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers above 0, each greater than the one before")
    return found


def main() -> None:
    """Measures, prints the tables and writes them into the document."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--history", type=sizes_of, default=[10, 100, 1000, 10_000], help="events of a user")
    parser.add_argument("--profiles", type=sizes_of, default=[1000, 10_000, 100_000, 1_000_000], help="profiles in the database")
    parser.add_argument("--tenants", type=sizes_of, default=[1, 20, 200], help="tenants")
    parser.add_argument("--beside", default="", metavar="TEXT", help="what else ran meanwhile, to be told with the figures")
    parser.add_argument("--print-only", action="store_true", help="leave the document as it is")
    arguments = parser.parse_args()
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    with standing((encoder.onnx, encoder.tokenizer)) as stand:
        text = asyncio.run(_measured(stand, encoder.version, arguments))
    if not arguments.print_only:
        write_between(DOCUMENT, BEGIN, END, f"{text}\n")
        print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    main()
