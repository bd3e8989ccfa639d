"""`python -m loadtest.bench.gpu`: the index's search with its vectors on an NVIDIA GPU, beside the same without it and the GPU's limit.

Vectors lie in clusters, queries are means of four. Both ways search one view of one index in this process, in turn. Without the GPU FAISS
uses one thread; `OPENBLAS_NUM_THREADS=1` holds NumPy to one as well. A search includes scoring the survivors exactly. The limit is the time
in which the GPU reads all half-precision vectors once at `--bandwidth`. GPU MiB is what this process added, FAISS's scratch space included.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import faiss
import numpy as np
from rich.console import Console
from rich.progress import track

from server.domain import Item, ItemId
from server.retrieval.gpu import gpu_works
from server.retrieval.index import ItemIndex
from server.retrieval.vector_rows import FloatArray, IntArray
from server.retrieval.view import IndexView

_K = 100
_CLUSTERS = 2000
_AT_ONCE = 50_000
_HALF_BYTES = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """One way of searching with one size of batch."""

    p50_ms: float
    """A whole batch's, in milliseconds."""
    recall: float
    """Mean recall@100 against the exact product."""


def filled(count: int, dimension: int, *, seed: int = 0) -> ItemIndex:
    """Returns an index of clustered vectors, with codes if it is large, on the GPU if there is one. Takes a minute for a million."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((_CLUSTERS, dimension), np.float32)
    index = ItemIndex(dimension, background=False)
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        vectors = centres[rng.integers(0, _CLUSTERS, size)] + 0.5 * rng.standard_normal((size, dimension), np.float32)
        index.upsert([Item(item_id=ItemId(f"i{first + place}"), title="") for place in range(size)], vectors)
    index.maintain()
    return index


def without_gpu(view: IndexView) -> IndexView:
    """Returns the same moment, its codes scanned on the CPU."""
    return replace(view, codes=replace(view.codes, gpu=None)) if view.codes else view


def exact_best(view: IndexView, queries: FloatArray) -> IntArray:
    """Returns the k best rows of each query by the matrix product, (B, k), in no order. One query at a time: S scores are held."""
    vectors = view.store.vectors.part(0, view.slots)
    return np.array([view.store.rows[np.argpartition(-(vectors @ query), _K)[:_K]] for query in queries], np.int64)


def measured(views: Sequence[IndexView], queries: FloatArray, right: IntArray, *, batch: int, rounds: int) -> list[Figures]:
    """Returns each view's figures, the views searched in turn over all queries.

    Args:
        views: Ways of searching one index.
        queries: (B, D), B a multiple of `batch`.
        right: (B, k), rows that exact search finds.
        batch: Queries a search.
        rounds: Passes over the queries; one more is made first and not counted.
    """
    times: list[list[float]] = [[] for _ in views]
    hits: list[list[float]] = [[] for _ in views]
    for counted in [False] + [True] * rounds:
        for first in range(0, len(queries), batch):
            for place, view in enumerate(views):
                started = time.perf_counter()
                found = view.search_now(queries[first : first + batch], _K)
                if counted:
                    times[place].append(1000 * (time.perf_counter() - started))
                    wanted = right[first : first + batch]
                    hits[place] += [float(np.isin(one, rows).mean()) for one, rows in zip(wanted, found.rows, strict=True)]
    return [Figures(statistics.median(one), statistics.mean(hit)) for one, hit in zip(times, hits, strict=True)]


def _nvidia_smi(field: str) -> str:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _lines(count: int, dimension: int, arguments: argparse.Namespace) -> Iterator[str]:
    before = int(_nvidia_smi("memory.used"))
    view = filled(count, dimension).view()
    if view.codes is None or view.codes.gpu is None:
        yield f"| {count:,} x {dimension} | exact: below the index's limits, or no codes reach its recall | | | | | | |"
        return
    rng = np.random.default_rng(1)
    queries = np.stack([view.vectors(rng.integers(0, count, 4)).mean(axis=0) for _ in range(arguments.queries)])
    right = exact_best(view, queries)
    limit_ms = count * dimension * _HALF_BYTES / arguments.bandwidth / 1e9
    for batch in arguments.batch:
        whole = len(queries) // batch * batch
        gpu, cpu = measured((view, without_gpu(view)), queries[:whole], right[:whole], batch=batch, rounds=arguments.rounds)
        held = int(_nvidia_smi("memory.used")) - before
        yield (
            f"| {count:,} x {dimension} | {batch} | {gpu.p50_ms:.2f} | {cpu.p50_ms:.2f} | {limit_ms:.2f} | {limit_ms / gpu.p50_ms:.2f} "
            f"| {gpu.recall:.3f}, {cpu.recall:.3f} | {held:,} |"
        )


def _size(text: str) -> tuple[int, int]:
    count, dimension = (int(part) for part in text.split("x"))
    if count <= _K or dimension < 1:
        raise ValueError
    return count, dimension


def main() -> None:
    """Prints the table in Markdown; exits with the reason where FAISS can use no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(100_000, 1536), (1_000_000, 256)], metavar="ROWSxNUMBERS")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="queries a search (default: 1 32)")
    parser.add_argument("--queries", type=int, default=128, help="different queries (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes over the queries (default: %(default)s)")
    parser.add_argument("--bandwidth", type=float, default=3.0, help="what the GPU reads, in TB/s (default: %(default)s, an H100's)")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.bandwidth <= 0 or not 1 <= min(arguments.batch) <= max(arguments.batch) <= arguments.queries:
        parser.error("--rounds must be at least 1, --bandwidth above 0, and --batch between 1 and --queries")
    if not gpu_works():
        sys.exit("bench: FAISS can use no NVIDIA GPU here; docs/gpu.md says which build can")
    print(f"{_nvidia_smi('name')}, driver {_nvidia_smi('driver_version')}, FAISS {faiss.__version__}, NumPy {np.__version__}\n")
    print("| vectors | batch | GPU ms | CPU ms | limit ms | limit / GPU | recall@100 GPU, CPU | GPU MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for count, dimension in track(arguments.sizes, "Sizes", console=Console(stderr=True)):
        for line in _lines(count, dimension, arguments):
            print(line, flush=True)


if __name__ == "__main__":
    main()
