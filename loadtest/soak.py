"""`python -m loadtest.soak`: a steady mixed load for half an hour; memory must not grow and p95 must not drift.

Like `python -m loadtest.chaos` it makes its own parts, tenant and server and removes them at the end. For two minutes before those asked
for, callers call four times as often: caches, histories and allocators, all bounded, get as full as they otherwise would in eight minutes.
Then, and after a fifth of the time at the callers' own pace, it judges the slope of the server's resident memory (Theil-Sen, below 1 MB a
minute), p95 of reads in the last third against the first (below 1.5 times, the machine's noise being what it is), failed calls (none) and
acknowledged events (none lost). Exit 1 where one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.chaos.load import Answer, Load
from loadtest.chaos.measure import missing_events, p95
from loadtest.chaos.stage import COUPLES, Layout, Stage, StageError, open_stage
from server.errors import AisleError
from server.telemetry import configure_logging

_LAYOUT = Layout(workers=1)
_PARTS = {"triton": "tritonserver", "postgres": "postgres", "redis": "redis-server"}
_SAMPLE_S = 2.0
_FILL_S = 120.0
_FILL_PACE = 0.25
"""Of the callers' own, while what is bounded fills."""
_WARM_UP = 0.2
"""Share of the time that is not judged either: what the filling left behind is let go."""
_SLOPE_MB = 1.0
_DRIFT = 1.5


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in MB at one moment, in seconds since the start."""

    at: float
    server: float
    """Resident."""
    triton: float
    """A part's own pages and its share of those that several of its processes map. Printed, not judged: that is not our code."""
    postgres: float
    redis: float


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak came to. Megabytes are 10^6 bytes."""

    minutes: float
    calls: int
    failed: int
    per_second: float
    p95_ms: float
    drift: float
    """95th percentile of reads in the last third of the judged time, to that in the first."""
    server_mb: float
    server_mb_per_minute: float
    parts_mb_per_minute: dict[str, float]
    acknowledged: int
    lost: int

    def faulty(self) -> list[str]:
        """Returns what is not as it must be, one line each."""
        judged = [
            (self.calls > 0, "no load"),
            (not self.failed, f"{self.failed} of {self.calls} calls failed"),
            (not self.lost, f"{self.lost} acknowledged events are not in the table"),
            (
                self.server_mb_per_minute < _SLOPE_MB,
                f"memory grows by {self.server_mb_per_minute:.2f} MB a minute, the limit is {_SLOPE_MB:g}",
            ),
            (self.drift < _DRIFT, f"p95 of the last third is {self.drift:.2f} times that of the first, the limit is {_DRIFT:g}"),
        ]
        return [line for fine, line in judged if not fine]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Returns the median of the slopes between all pairs of points; 0 for fewer than two. One step or one outlier does not move it far.

    Source: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968), 1379-1389.
    """
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(points, 2) if later[0] != earlier[0]]
    return statistics.median(slopes) if slopes else 0.0


def judged(answers: Sequence[Answer], memory: Sequence[Memory], *, began: float, seconds: float, lost: int, acknowledged: int) -> Soak:
    """Returns what a soak of `seconds` from `began` came to; `answers`, those before it too, and `memory` in the order of time."""
    warm = seconds * _WARM_UP
    reads = [(one.began - began, one.seconds) for one in answers if one.kind == "read" and one.began - began >= warm]
    third = (seconds - warm) / 3
    first = p95([took for at, took in reads if at < warm + third])
    last = p95([took for at, took in reads if at >= seconds - third])
    # 600 points are 180,000 pairs, which is enough.
    thinned = [one for one in memory if one.at >= warm][:: max(1, len(memory) // 600)]
    return Soak(
        minutes=seconds / 60,
        calls=len(answers),
        failed=sum(bool(one.error) for one in answers),
        per_second=sum(one.began >= began for one in answers) / seconds,
        p95_ms=p95([took for _, took in reads]) * 1000,
        drift=last / first if first else float("inf"),
        server_mb=memory[-1].server if memory else 0.0,
        server_mb_per_minute=slope([(one.at / 60, one.server) for one in thinned]),
        parts_mb_per_minute={part: slope([(one.at / 60, getattr(one, part)) for one in thinned]) for part in _PARTS},
        acknowledged=acknowledged,
        lost=lost,
    )


def main() -> None:
    """Soaks and prints what it came to."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=8, help="concurrent callers, one in four by HTTP (default: %(default)s)")
    parser.add_argument("--pace", type=float, default=0.4, help="least seconds between two actions of a caller (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures, with the memory at each moment")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.callers < 4 or arguments.pace < 0:
        parser.error("--minutes must be above 0, --callers at least 4, --pace not negative")
    configure_logging("error")
    try:
        code = asyncio.run(_run(arguments))
    except KeyboardInterrupt:
        code = 130
    except (StageError, AisleError) as error:
        Console(stderr=True).print(f"soak: {error}", style="red", markup=False)
        code = 1
    sys.exit(code)


async def _run(arguments: argparse.Namespace) -> int:
    seconds = arguments.minutes * 60
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("soak", total=seconds)
        async with open_stage(_LAYOUT, say=lambda line: progress.update(task, description=line)) as stage:
            load = Load(stage.addresses, callers=arguments.callers, pace_s=arguments.pace, couples=COUPLES, items=stage.items)
            memory: list[Memory] = []
            async with load.running():
                progress.update(task, description="filling")
                load.pace_s = arguments.pace * _FILL_PACE
                await asyncio.sleep(_FILL_S)
                load.pace_s = arguments.pace
                began = time.monotonic()
                while (at := time.monotonic() - began) < seconds:
                    memory.append(_memory(stage, at))
                    progress.update(task, completed=at, description=f"soak, {memory[-1].server:.0f} MB")
                    await asyncio.sleep(min(_SAMPLE_S, seconds - at))
            acknowledged = {event_id for _, event_id in load.acknowledged}
            missing, _ = await missing_events(stage, acknowledged, excused=frozenset())
    soak = judged(load.answers, memory, began=began, seconds=seconds, lost=len(missing), acknowledged=len(acknowledged))
    if arguments.json:
        arguments.json.write_text(json.dumps({**asdict(soak), "memory": [asdict(one) for one in memory]}))
    _print(soak, load.answers)
    return 1 if soak.faulty() else 0


def _memory(stage: Stage, at: float) -> Memory:
    server = sum(process.memory_info().rss for process in stage.servers[0].processes())
    parts = {part: sum(_share(process) for process in stage.family(program)) / 1e6 for part, program in _PARTS.items()}
    return Memory(at, server / 1e6, **parts)


def _share(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # a backend that ended
        return 0


def _print(soak: Soak, answers: Sequence[Answer]) -> None:
    console = Console(width=140, highlight=False)
    console.print(
        f"{soak.minutes:g} minutes, {soak.calls} calls ({soak.per_second:.0f} a second, {len(os.sched_getaffinity(0))} cores), "
        f"{soak.failed} failed, p95 of reads {soak.p95_ms:.0f} ms, last third {soak.drift:.2f} times the first"
    )
    parts = ", ".join(f"{part} {rate:+.2f}" for part, rate in soak.parts_mb_per_minute.items())
    console.print(
        f"server {soak.server_mb:.0f} MB, {soak.server_mb_per_minute:+.2f} MB a minute ({parts}); "
        f"{soak.acknowledged} events acknowledged, {soak.lost} lost"
    )
    for line in sorted({one.error for one in answers if one.error})[:6]:
        console.print(line, markup=False)
    for line in soak.faulty():
        console.print(line, style="red", markup=False)


if __name__ == "__main__":
    main()
