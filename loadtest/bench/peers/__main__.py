"""`python -m loadtest.bench.peers`: other servers with the same int8 text encoder, and other recommenders, beside Aisle in the same run.

Each peer is one file in `servers/`, written as its documentation shows, and runs in a virtual environment of its own, made when first
needed. In each round every peer is started, asked in turn with Aisle through the same kind of door with 1, 16 and 64 calls in flight, and
ended; the order of peers and of each pair changes. Ratios are formed within a pair; the table gives their medians. Needs a running server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from loadtest.bench.measure import BenchError, Figures
from loadtest.bench.peers.catalog import PEERS, Peer
from loadtest.bench.peers.environments import UnavailablePeerError
from loadtest.bench.peers.running import running
from loadtest.bench.peers.subjects import Aisle, demo_events, open_redis, peer_calls, vectors_agree
from server.cli.models import build_with_progress

IN_FLIGHT = (1, 16, 64)
ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "loadtest" / "README.md"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


@dataclass(frozen=True, slots=True)
class Pair:
    """A peer and Aisle, measured one after the other."""

    aisle: Figures
    peer: Figures


Found = dict[tuple[str, int], list[Pair]]
"""By peer and calls in flight, one a round."""


def measured(first: Callable[[], Figures], second: Callable[[], Figures]) -> Pair:
    """Returns the figures of Aisle (first) and of a peer (second), measured in a random order."""
    if random.random() < 0.5:  # noqa: S311  # which goes first is no secret
        aisle = first()
        return Pair(aisle, second())
    peer = second()
    return Pair(first(), peer)


def _round(peers: list[Peer], aisle: Aisle, environ: dict[str, str], arguments: argparse.Namespace, found: Found) -> dict[str, str]:
    """Measures each peer once; returns those that could not be, with the reason."""
    skipped: dict[str, str] = {}
    for peer in random.sample(peers, len(peers)):
        print(f"{peer.name} …", file=sys.stderr, flush=True)
        try:
            with running(peer, arguments.cache, environ, aisle.sample(peer.kind)) as server:
                if peer.kind == "embed" and peer.requirements:
                    vectors_agree(peer, server.port, aisle)
                for n in IN_FLIGHT:
                    theirs = peer_calls(peer, server, aisle, in_flight=n, seconds=arguments.seconds)
                    ours = partial(aisle.calls, peer, in_flight=n, seconds=arguments.seconds)
                    found[peer.name, n].append(measured(ours, theirs))
        except (UnavailablePeerError, BenchError) as error:
            skipped[peer.name] = " ".join(str(error).split())
            print(f"{peer.name} left out: {skipped[peer.name]}", file=sys.stderr)
    return skipped


def lines(peers: list[Peer], found: Found, skipped: dict[str, str]) -> list[str]:
    """Returns the table in Markdown, Aisle over peer: a rate above 1 is faster, a p50 or CPU below 1 better."""
    rows = ["| peer | in flight | rate, Aisle : peer | p50, Aisle : peer | CPU each, Aisle : peer | first |", "|---|---|---|---|---|---|"]
    for peer in peers:
        for n in IN_FLIGHT:
            pairs = found.get((peer.name, n))
            if not pairs:
                continue
            rate, p50, cpu = (
                statistics.median(getattr(one.aisle, field) / getattr(one.peer, field) for one in pairs)
                for field in ("rps", "p50_ms", "cpu_us")
            )
            rows.append(f"| {peer.name} | {n} | {rate:.2f} | {p50:.2f} | {cpu:.2f} | {'Aisle' if rate > 1 else peer.name} |")
    return [*rows, *(f"| {name} | | left out: {reason[:160]} | | | |" for name, reason in skipped.items())]


def written_between_markers(text: str, table: list[str]) -> str:
    """Returns a page with what lies between the two markers replaced.

    Raises:
        BenchError: The page has no such markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"the page has no {BEGIN} and {END}; put them where the table belongs")
    return "\n".join([before + BEGIN, "", *table, "", END + after])


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [peer.name for peer in PEERS]
    cache = Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser() / "peers"
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PEER", help=f"some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of the peers' environments (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", action="store_true", help="put the table into loadtest/README.md")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are ended, too
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen"), os.environ.get("PYTHONPATH", "")])
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    aisle = Aisle(encoder)
    found: Found = defaultdict(list)
    skipped: dict[str, str] = {}
    peers = [peer for peer in PEERS if peer.name in arguments.only]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aisle-peers-")))
        environ = {"PEER_MODEL": str(encoder.onnx), "PEER_TOKENIZER": str(encoder.tokenizer)}
        if any(peer.kind == "recommend" for peer in peers):
            environ["PEER_EVENTS"] = str(demo_events(folder / "events.npz"))
            environ["PEER_REDIS"] = stack.enter_context(open_redis(folder))
        for number in range(arguments.rounds):
            print(f"Round {number + 1} of {arguments.rounds}", file=sys.stderr)
            left = [peer for peer in peers if peer.name not in skipped]
            skipped |= _round(left, aisle, environ, arguments, found)
    table = lines(peers, found, skipped)
    Console(width=150).print("\n".join(table), highlight=False, markup=False)
    print("Medians over rounds of the ratio within a pair. Rate above 1, p50 and CPU below 1: Aisle is ahead.")
    if arguments.json:
        figures = {f"{name} @{n}": [asdict(one) for one in pairs] for (name, n), pairs in found.items()}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.write:
        cores, rounds, day = len(os.sched_getaffinity(0)), arguments.rounds, datetime.now(UTC)
        busy = f"load average at the end {os.getloadavg()[0]:.1f} on {cores} cores"
        note = f"{day:%Y-%m-%d}, `--rounds {rounds} --seconds {arguments.seconds:g}`, {busy}:"
        README.write_text(written_between_markers(README.read_text(), [note, "", *table]))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
