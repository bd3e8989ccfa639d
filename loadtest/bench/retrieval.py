"""`python -m loadtest.bench.retrieval`: cost, recall and memory of vector search against the size of the catalogue.

Generated catalogues (`generated`) of 1536 numbers an item, k = 100, one query at a time on one thread, as the server searches. Recall is
against exact search among the vectors as they were generated, before they were packed. Filters keep 1 %: by a price that is spread
evenly, and by a category of whole clusters. "exact" is the product of one query with all vectors in float32, read from memory: the time of
40,000 of them in proportion. A slope is that of the logarithm of CPU time over that of the size: 0 is independent of it, 1 proportional.

Then, on the smallest catalogue that has codes, searches go on while half of the items are written anew on another thread, which extends
codes and drops dead slots, and codes are learned again: the latency of these searches beside that of the same before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from loadtest.bench.generated import FloatArray, Generated, IntArray
from server.domain import Item, ItemId
from server.domain.ranking import VECTOR_DIMENSIONS
from server.priority import step_back
from server.retrieval.filters import Filter, compile_filter
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import learned
from server.retrieval.view import IndexView
from training.report.figures import lines

_K = 100
_PRICES = 100
_EXACT_ROWS = 40_000
_BATCH = 32
FILTERS = {"none": "", "1 % spread": "price < 1", "1 % of clusters": 'categories:"g7"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One catalogue. Milliseconds of one query, but for the batch."""

    items: int
    form: str
    recall: dict[str, float]
    """By filter: mean recall@100."""
    p50_ms: dict[str, float]
    p95_ms: dict[str, float]
    cpu_ms: dict[str, float]
    batch_cpu_ms: float
    """Of a query among 32."""
    exact_ms: float
    learn_s: float
    vector_bytes: float
    """An item's vector and codes."""
    process_bytes: float
    """What the process grew by, an item: metadata, columns, filters and room for growth included."""


class Truth:
    """The best items of each query under each filter, gathered as blocks come by."""

    def __init__(self, queries: FloatArray, filters: Sequence[str]) -> None:
        self._queries = queries
        self._best = {name: (np.full((len(queries), _K), -np.inf, np.float32), np.full((len(queries), _K), -1)) for name in filters}

    def add(self, first: int, vectors: FloatArray, passing: dict[str, IntArray]) -> None:
        """Takes a block; `passing` has the places in it that pass each filter."""
        scores = self._queries @ vectors.T
        for name, places in passing.items():
            values, rows = self._best[name]
            values = np.concatenate([values, scores[:, places]], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(first + places, (len(rows), len(places)))], axis=1)
            keep = np.argpartition(-values, _K - 1, axis=1)[:, :_K]
            self._best[name] = np.take_along_axis(values, keep, axis=1), np.take_along_axis(rows, keep, axis=1)

    def recall(self, name: str, place: int, found: IntArray) -> float:
        """Returns the share of a query's best items that were found."""
        wanted = self._best[name][1][place]
        wanted = wanted[wanted >= 0]
        return float(np.isin(wanted, found).mean()) if len(wanted) else 1.0


def filled(source: Generated, truth: Truth) -> ItemIndex:
    """Returns an index of all items, and fills the truth. Row n is item n."""
    index = ItemIndex(VECTOR_DIMENSIONS, background=False)
    groups = source.cluster_of % _PRICES
    for first, vectors in track(source.blocks(), "Items", total=-(-source.count // 10_000), console=Console(stderr=True)):
        numbers = np.arange(first, first + len(vectors))
        index.upsert(
            [
                Item(item_id=ItemId(f"i{n}"), title=f"Item {n}", price=float(n % _PRICES), categories=(f"g{groups[n]}",))
                for n in numbers.tolist()
            ],
            vectors,
        )
        passing = {
            "none": np.arange(len(vectors)),
            "1 % spread": np.flatnonzero(numbers % _PRICES < 1),
            "1 % of clusters": np.flatnonzero(groups[numbers] == 7),
        }
        truth.add(first, vectors, passing)
    return index


def form(view: IndexView) -> str:
    """Returns how a view is searched, in words."""
    if view.codes is None:
        return "exact"
    codes, setting = view.codes, view.codes.setting
    how = f"{codes.prefix.dimensions} numbers in {codes.base.code_size} B, {codes.lists} lists, {setting.probed:.3g} probed"
    return f"{how}, {setting.expansion} k scored"


def timed(view: IndexView, queries: FloatArray, where: Filter | None) -> tuple[list[float], float, list[IntArray]]:
    """Returns each query's milliseconds, the mean of its CPU milliseconds, and the rows found."""
    times, rows = [], []
    for query in queries[:8]:
        view.search_now(query, _K, where=where)  # the filter's mask is made, and memory is warm
    spent = time.thread_time()
    for query in queries:
        started = time.perf_counter()
        rows.append(view.search_now(query, _K, where=where).rows[0])
        times.append(1000 * (time.perf_counter() - started))
    return times, 1000 * (time.thread_time() - spent) / len(queries), rows


def exact_ms(view: IndexView, query: FloatArray) -> float:
    """Returns the CPU time of the product with all vectors, in float32."""
    count = min(view.slots, _EXACT_ROWS)
    vectors = np.array(view.store.vectors.part(0, count))
    times: list[float] = []
    for _ in range(7):
        started = time.thread_time()
        vectors @ query
        times.append(1000 * (time.thread_time() - started))
    return statistics.median(times) * view.slots / count


def measured(count: int, queries: int) -> tuple[Figures, ItemIndex]:
    """Returns the figures of one catalogue, and its index."""
    process = psutil.Process()
    before = process.memory_info().rss
    source = Generated(count)
    asked = source.queries(queries, 1)
    truth = Truth(asked, list(FILTERS))
    index = filled(source, truth)
    for query in source.queries(512, 2):
        index.view().store.note_query(query)  # what settings are measured with, as searches would leave them
    spent = time.thread_time()
    index.maintain()
    learn_s = time.thread_time() - spent
    view = index.view()
    recall, p50, p95, cpu = {}, {}, {}, {}
    for name, expression in FILTERS.items():
        times, cpu[name], rows = timed(view, asked, compile_filter(expression) if expression else None)
        p50[name], p95[name] = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        recall[name] = statistics.mean(truth.recall(name, place, found) for place, found in enumerate(rows))
    spent = time.thread_time()
    for first in range(0, len(asked) - _BATCH + 1, _BATCH):
        view.search_now(asked[first : first + _BATCH], _K)
    batch = 1000 * (time.thread_time() - spent) / (len(asked) // _BATCH * _BATCH)
    codes = view.codes.slot_bytes if view.codes else 0.0
    figures = Figures(
        items=count,
        form=form(view),
        recall=recall,
        p50_ms=p50,
        p95_ms=p95,
        cpu_ms=cpu,
        batch_cpu_ms=batch,
        exact_ms=exact_ms(view, asked[0]),
        learn_s=learn_s,
        vector_bytes=view.store.vectors.slot_bytes + codes,
        process_bytes=(process.memory_info().rss - before) / count,
    )
    return figures, index


def during_work(index: ItemIndex, queries: FloatArray, seconds: float) -> tuple[list[float], list[float], list[str]]:
    """Returns milliseconds of searches before and during background work, and what was done meanwhile.

    Searches come every 5 ms at most, each from this thread. Half of the items are written anew, so that slots are dropped, codes extended
    and learned again.
    """
    view = index.view()
    items, half = list(view)[: len(view) // 2], len(view) // 2
    done: list[str] = []

    def write() -> None:
        step_back()  # as the index's own thread does
        for first in range(0, half, 500):
            part = items[first : first + 500]
            index.upsert(part, view.vectors(view.rows_of([one.item_id for one in part])))
            index.maintain()
            time.sleep(0.002)
        done.append(f"{half:,} items written, dead slots dropped, codes extended")
        learned(index.view())
        done.append("codes learned again")

    def searched(goes_on: Callable[[], bool]) -> list[float]:
        times: list[float] = []
        while goes_on():
            query = queries[len(times) % len(queries)]
            started = time.perf_counter()
            index.search_now(query, _K)
            times.append(1000 * (time.perf_counter() - started))
            time.sleep(max(0.0, 0.005 - times[-1] / 1000))
        return times

    end = time.monotonic() + seconds
    quiet = searched(lambda: time.monotonic() < end)
    worker = threading.Thread(target=write)
    worker.start()
    busy = searched(worker.is_alive)
    worker.join()
    return quiet, busy, done


def slope(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Returns by which power of the size a cost grows, by least squares over logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(found: Sequence[Figures]) -> list[str]:
    """Returns the figures in Markdown."""
    head = [
        "items",
        "searched through",
        "filter",
        "recall@100",
        "p50 ms",
        "p95 ms",
        "CPU ms",
        "exact / CPU",
        "of 32, CPU ms",
        "learned in s",
    ]
    rows = ["| " + " | ".join([*head, "kB an item, process"]) + " |", "|" + "---|" * (len(head) + 1)]
    for one in found:
        for name in FILTERS:
            first = name == "none"
            cells = [
                f"{one.items:,}" if first else "",
                one.form if first else "",
                name,
                f"{one.recall[name]:.4f}",
                f"{one.p50_ms[name]:.2f}",
                f"{one.p95_ms[name]:.2f}",
                f"{one.cpu_ms[name]:.2f}",
                f"{one.exact_ms / one.cpu_ms[name]:.1f}",
                f"{one.batch_cpu_ms:.2f}" if first else "",
                f"{one.learn_s:.0f}" if first else "",
                f"{one.vector_bytes / 1000:.2f}, {one.process_bytes / 1000:.2f}" if first else "",
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Prints the table, the slopes and the latency during background work; writes the figures and the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="items (default: 10000 100000 1000000)")
    parser.add_argument("--queries", type=int, default=192, help="different queries (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of searches before background work (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--picture", type=Path, help="file for the picture of cost against size, SVG")
    arguments = parser.parse_args()
    if min(arguments.sizes) < 1000 or arguments.queries < _BATCH or arguments.seconds <= 0:
        parser.error(f"--sizes must be at least 1000 each, --queries at least {_BATCH} and --seconds above 0")
    found: list[Figures] = []
    work: tuple[list[float], list[float], list[str]] | None = None
    for count in sorted(arguments.sizes):
        figures, index = measured(count, arguments.queries)
        found.append(figures)
        print("\n".join(table([figures])), flush=True)
        if work is None and index.view().codes is not None:
            work = during_work(index, Generated(count).queries(64, 3), arguments.seconds)
        del index
    print()
    print("\n".join(table(found)))
    if len(found) > 1:
        sizes = [one.items for one in found]
        slopes = ", ".join(f"{name} {slope(sizes, [one.cpu_ms[name] for one in found]):.2f}" for name in FILTERS)
        print(f"\nslopes of CPU time by filter: {slopes}; of exact search {slope(sizes, [one.exact_ms for one in found]):.2f}")
    if work is not None:
        (quiet, busy, done) = work
        (before, during) = (statistics.quantiles(one, n=20)[-1] for one in (quiet, busy))
        print(f"\np95 {before:.2f} ms before, {during:.2f} ms ({during / before:.2f} times) during: {', '.join(done)}")
        print(f"p50 {statistics.median(quiet):.2f} and {statistics.median(busy):.2f} ms, {len(quiet)} and {len(busy)} searches")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    if arguments.picture:
        points = {name: [(float(np.log10(one.items)), one.cpu_ms[name]) for one in found] for name in FILTERS}
        picture = lines("retrieval-growth", "Search cost against the catalogue", "items, log10", "CPU ms a query", points)
        arguments.picture.write_text(picture.standalone())


if __name__ == "__main__":
    main()
