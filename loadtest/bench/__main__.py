"""`python -m loadtest.bench`: EmbedTexts and RecommendItems beside raw ONNX Runtime and an empty gRPC echo.

All in turn within each round, each in a process of its own, so that the machine's moods meet all alike. Quote the ratios, not the rates.
Needs a running server on this machine, found as by `python -m loadtest`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from aisle.v1 import embedding_service_pb2, recommendation_service_pb2
from loadtest.bench.echo import METHOD as ECHO_METHOD
from loadtest.bench.measure import BenchError, Figures, calls, listening_process, raw
from server.cli.models import build_with_progress
from server.demo import couples_with_journeys

IN_FLIGHT = (1, 16, 64)
_EMBED = "/aisle.v1.EmbeddingService/EmbedTexts"
_RECOMMEND = "/aisle.v1.RecommendationService/RecommendItems"


@contextmanager
def _echo_server() -> Iterator[tuple[str, psutil.Process]]:
    with subprocess.Popen([sys.executable, "-m", "loadtest.bench.echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdin
        port = child.stdout.readline().strip()
        if not port:
            raise BenchError("the echo server did not start")
        yield f"127.0.0.1:{port}", psutil.Process(child.pid)
        child.stdin.close()


def _texts(count: int, salt: int) -> list[str]:
    """Returns texts of about 16 tokens that no cache has seen: openings of the demo catalogue, each with a number of its own."""
    items, _ = couples_with_journeys(1, 1, datetime.now(UTC))
    return [f"{items[n % len(items)].description.split('.')[0]} {salt + n}" for n in range(count)]


def _cases(address: str, echo: tuple[str, psutil.Process], seconds: float, salt: int) -> dict[str, Callable[[], Figures]]:
    """Returns what to measure, by name; the salt makes the texts new in each round."""
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    texts = _texts(4000, salt)
    server = listening_process(address)
    key = os.environ.get("AISLE_KEY", "")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    embed = [embedding_service_pb2.EmbedTextsRequest(texts=[text]).SerializeToString() for text in texts]
    # Contexts nobody asked in before: a list from the cache would measure the cache.
    recommend = [
        recommendation_service_pb2.RecommendItemsRequest(
            user=f"users/couple-{n % 1000:06d}", max_results=50, context=recommendation_service_pb2.Context(page=f"/bench/{salt + n}")
        ).SerializeToString()
        for n in range(4000)
    ]
    cores = len(os.sched_getaffinity(0))
    cases: dict[str, Callable[[], Figures]] = {
        f"raw x{threads}": partial(raw, str(encoder.onnx), str(encoder.tokenizer), texts, threads=threads, seconds=seconds)
        for threads in sorted({1, cores})
    }
    for n in IN_FLIGHT:
        cases[f"echo @{n}"] = partial(calls, echo[0], ECHO_METHOD, [b"x" * 1024], server=echo[1], in_flight=n, seconds=seconds)
        cases[f"EmbedTexts @{n}"] = partial(calls, address, _EMBED, embed, server=server, in_flight=n, seconds=seconds, metadata=metadata)
        cases[f"RecommendItems @{n}"] = partial(
            calls, address, _RECOMMEND, recommend, server=server, in_flight=n, seconds=seconds, metadata=metadata
        )
    return cases


def _median(rounds: list[dict[str, Figures]], pick: Callable[[dict[str, Figures]], float]) -> float:
    return statistics.median(pick(found) for found in rounds)


def _ratios(name: str, rounds: list[dict[str, Figures]]) -> tuple[str, str]:
    """Returns the two ratios of a case to its limit, medians over rounds: rates, and CPU for each answer."""
    kind, _, n = name.partition(" @")
    if kind == "EmbedTexts":
        limit = next(reversed([one for one in rounds[0] if one.startswith("raw")]))
    elif kind == "RecommendItems":
        limit = f"echo @{n}"
    else:
        return "", ""
    rate = _median(rounds, lambda found: found[name].rps / found[limit].rps)
    cost = _median(rounds, lambda found: found[name].cpu_us / found[limit].cpu_us)
    return f"{rate:.2f} of {limit}", f"{cost:.2f} x {limit}"


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0")
    address = os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051")
    rounds: list[dict[str, Figures]] = []
    with _echo_server() as echo:
        for number in range(arguments.rounds):
            cases = _cases(address, echo, arguments.seconds, random.randrange(10**9))  # noqa: S311  # a fresh number, no secret
            order = random.sample(list(cases), len(cases))
            found = {
                name: cases[name]() for name in track(order, f"Round {number + 1} of {arguments.rounds}", console=Console(stderr=True))
            }
            rounds.append({name: found[name] for name in cases})
    table = Table("case", "per second", "p50 ms", "CPU us each", "rate", "CPU")
    figures: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for name in rounds[0]:
        rps, p50_ms, cpu_us = (statistics.median(values) for values in zip(*(astuple(one[name]) for one in rounds), strict=True))
        table.add_row(name, f"{rps:.0f}", f"{p50_ms:.2f}", f"{cpu_us:.0f}", *_ratios(name, rounds))
        figures[name] = [asdict(one[name]) for one in rounds]
    Console(width=110).print(table)
    print("rate and CPU: medians over rounds of the ratio within a round. raw: 16 texts a batch, each text counted; its p50 is a batch's.")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
