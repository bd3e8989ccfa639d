"""`python -m loadtest.bench.overload`: RecommendItems at three times what the server can do, with and without `AISLE_MAX_SLOWDOWN`.

Self-contained: starts two servers with every part and the demo tenant below `--data` (made at the first run, which takes minutes), one
without a limit and one with it. Quote the ratios; machines and their moods differ.

In each round: what a call takes on either while it is quiet (one at a time), what the one without a limit can do (16 in flight), then
calls that come at random at three times that rate, each with a deadline. Figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aisle.v1 import recommendation_service_pb2 as pb
from loadtest.bench.measure import BenchError, child

_METHOD = "/aisle.v1.RecommendationService/RecommendItems"
_READY = re.compile(r"aisle ready grpc=(\S+) http=\S+ key=(\S+)")
_ROOT = Path(__file__).resolve().parents[2]
_IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class _Server:
    address: str
    key: str

    def job(self, **values: Any) -> dict[str, Any]:
        """Returns a client's job, of lists that no cache has."""
        salt = random.randrange(10**9)  # noqa: S311  # a fresh number, no secret
        bodies = [
            pb.RecommendItemsRequest(
                user=f"users/couple-{n % 1000:06d}", max_results=20, context=pb.Context(page=f"/overload/{salt + n}")
            ).SerializeToString()
            for n in range(4000)
        ]
        encoded = [base64.b64encode(body).decode() for body in bodies]
        return {"address": self.address, "method": _METHOD, "metadata": [("x-api-key", self.key)], "bodies": encoded, **values}


@contextmanager
def _server(data: Path, slowdown: float) -> Iterator[_Server]:
    environment = os.environ | {
        "AISLE_DATA_DIR": str(data),
        "AISLE_GRPC_ADDRESS": "127.0.0.1:0",
        "AISLE_HTTP_ADDRESS": "127.0.0.1:0",
        "AISLE_MAX_SLOWDOWN": str(slowdown),
        "AISLE_RUNTIME": "local",
        "AISLE_DRAIN_S": "2",
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen"), os.environ.get("PYTHONPATH", "")]),
    }
    log = data / f"overload-{slowdown:g}.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "server", "up"], env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout
        try:
            for line in process.stdout:
                if found := _READY.search(line):
                    yield _Server(found[1], found[2])
                    break
            else:
                raise BenchError(f"the server did not start; see {log}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _round(servers: dict[str, _Server], *, seconds: float, times: float, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Returns the figures of one round by server: `quiet`, `capacity` in calls a second, `over`."""
    quiet = {name: child("client", server.job(in_flight=1, seconds=seconds)) for name, server in servers.items()}
    full = child("client", next(iter(servers.values())).job(in_flight=_IN_FLIGHT, seconds=seconds))
    capacity = full["count"] / full["wall_s"]
    over = {
        name: child("open_loop", server.job(rate=times * capacity, seconds=seconds, timeout_s=timeout_s))
        for name, server in reversed(servers.items())  # the one without a limit last: it has a backlog afterwards
    }
    return {name: {"quiet": quiet[name], "capacity": capacity, "over": over[name]} for name in servers}


def _cells(rounds: list[dict[str, Any]]) -> list[str]:
    """Returns a server's row."""

    def median(pick: Callable[[dict[str, Any], dict[str, Any]], float]) -> float:
        return statistics.median(pick(one, one["over"]) for one in rounds)

    return [
        f"{median(lambda one, _: one['quiet']['p95_ms']):.1f}",
        f"{median(lambda one, over: over['p50_ms'] / one['quiet']['p50_ms']):.2f}",
        f"{median(lambda one, over: over['p95_ms'] / one['quiet']['p95_ms']):.2f}",
        f"{median(lambda one, over: over['answered'] / over['wall_s'] / one['capacity']):.2f}",
        f"{median(lambda _, over: over['refused'] / over['sent']):.0%}",
        str(sum(one["over"]["late"] for one in rounds)),
        str(sum(sum(one["over"]["other"].values()) for one in rounds)),
    ]


def main() -> None:
    """Measures both servers and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="load as a multiple of what the server can do (default: %(default)s)")
    parser.add_argument("--slowdown", type=float, default=1.5, help="AISLE_MAX_SLOWDOWN of the second server (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=2.0, help="deadline of each call, in seconds (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "aisle-overload", help="folder that is kept for the next run"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.seconds, arguments.times, arguments.timeout) <= 0:
        parser.error("--rounds, --seconds, --times and --timeout must be above 0")
    free, limited = arguments.data / "free", arguments.data / "limited"
    free.mkdir(parents=True, exist_ok=True)
    if not limited.exists():
        with _server(free, 0):
            pass
        shutil.copytree(free, limited, ignore=lambda _, names: [name for name in names if name == "run"])
    with _server(free, 0) as one, _server(limited, arguments.slowdown) as other:
        servers = {"no limit": one, f"AISLE_MAX_SLOWDOWN={arguments.slowdown:g}": other}
        for server in servers.values():
            child("client", server.job(in_flight=1, seconds=arguments.seconds))  # warms up
        found = [
            _round(servers, seconds=arguments.seconds, times=arguments.times, timeout_s=arguments.timeout) for _ in range(arguments.rounds)
        ]
    figures = {name: [one[name] for one in found] for name in servers}
    table = Table("server", "p95 quiet, ms", "p50 / quiet", "p95 / quiet", "answered / capacity", "refused", "late", "other errors")
    for name, rounds in figures.items():
        table.add_row(name, *_cells(rounds))
    Console(width=130).print(table)
    behind = max(one["over"]["behind_ms"] for rounds in figures.values() for one in rounds)
    print(f"{arguments.times:g} times capacity, deadline {arguments.timeout:g} s; the client was at most {behind:.0f} ms behind.")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
