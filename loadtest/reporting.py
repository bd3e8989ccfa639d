"""The end of a run: a table, the rungs, a line, thresholds, a picture. Importing it is enough: it listens to Locust's events.

Also exports the run to Prometheus where AISLE_LOAD_METRICS_PORT names a port, for `deploy/grafana/load.json`.
"""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path
from typing import Any

from locust import events
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from rich.console import Console
from rich.table import Table

from loadtest import knee, scenarios
from loadtest.doors import rungs, tokens

REGISTRY = CollectorRegistry()
"""The load generator's metrics; the server's are elsewhere."""
_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CALL_SECONDS = Histogram(
    "aisle_load_call_seconds", "Time of one call as its caller saw it", ["door", "method"], buckets=_BUCKETS_S, registry=REGISTRY
)
FAILED = Counter("aisle_load_failed_total", "Calls that failed", ["door", "method"], registry=REGISTRY)
USERS = Gauge("aisle_load_users", "Users at this moment", registry=REGISTRY)

scenario: scenarios.Scenario | None = None
"""Set by `scenario_file.py`; None for the plain load."""


class _Run:
    """What is counted while it runs, one place for each stage of the scenario."""

    def __init__(self) -> None:
        self.began = 0.0
        self.took_ms: list[array[float]] = []
        self.failed = 0

    def stage(self) -> int:
        """Returns the place of the stage that runs; the last one's after the end."""
        if scenario is None:
            return 0
        found = scenario.stage_at(time.monotonic() - self.began)
        return len(scenario.stages) - 1 if found is None else found


_run = _Run()


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    _run.began, _run.failed = time.monotonic(), 0
    _run.took_ms = [array("d") for _ in range(len(scenario.stages) if scenario else 1)]
    port = os.environ.get("AISLE_LOAD_METRICS_PORT")
    if port:
        USERS.set_function(lambda: environment.runner.user_count)
        start_http_server(int(port), addr="127.0.0.1", registry=REGISTRY)


@events.request.add_listener
def _count(request_type: str, name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
    door = "grpc" if request_type == "grpc" else "rest"
    CALL_SECONDS.labels(door, name).observe(response_time / 1000)
    if exception is not None:
        FAILED.labels(door, name).inc()
        _run.failed += 1
    if _run.took_ms:
        _run.took_ms[_run.stage()].append(response_time)


def _levels(run: scenarios.Scenario) -> list[knee.Level]:
    """Returns what each number of users came to, in rising order. Stages of equal numbers count together."""
    by_users: dict[int, tuple[list[float], float]] = {}
    for place, took in enumerate(_run.took_ms):
        values, seconds = by_users.get(run.users_of(place), ([], 0.0))
        by_users[run.users_of(place)] = [*values, *took], seconds + run.stages[place].share * run.seconds
    return [
        knee.Level(users, len(took) / seconds, *(scenarios.percentile(took, share) for share in (0.5, 0.95, 0.99)))
        for users, (took, seconds) in sorted(by_users.items())
        if took
    ]


def _table(environment: Any, console: Console) -> None:
    table = Table("door", "method", "calls", "errors", "RPS", "p50 ms", "p95 ms", "p99 ms")
    total = environment.stats.total
    for entry in [*sorted(environment.stats.entries.values(), key=lambda one: (one.method, one.name)), total]:
        if not entry.num_requests:
            continue
        percentiles = [f"{entry.get_response_time_percentile(share):.0f}" for share in (0.5, 0.95, 0.99)]
        name = "all" if entry is total else entry.name
        door = "" if entry is total else "grpc" if entry.method == "grpc" else "rest"
        table.add_row(door, name, str(entry.num_requests), str(entry.num_failures), f"{entry.total_rps:.1f}", *percentiles)
    console.print(table)
    for error in environment.stats.errors.values():
        console.print(f"{error.occurrences} x {error.name}: {error.error}", style="red", markup=False)
    console.print(f"rungs: {', '.join(f'{rung} {count}' for rung, count in rungs.most_common()) or 'none seen'}", highlight=False)
    console.print(f"lists after an event: {tokens['seen']} saw it, {tokens['unseen']} said they did not", highlight=False)


@events.quitting.add_listener
def _report(environment: Any, **_: Any) -> None:
    """Prints the table; any failure, a run without a call, and a crossed threshold make the exit code 1."""
    console = Console(width=110)
    _table(environment, console)
    total = environment.stats.total
    if total.num_failures or not total.num_requests:
        environment.process_exit_code = 1
    took = [value for stage in _run.took_ms for value in stage]
    outcome = scenarios.Outcome(len(took), _run.failed, took, total.last_request_timestamp - total.start_time if took else 0.0)
    console.print(scenarios.one_line(scenario.name if scenario else "load", outcome), highlight=False, soft_wrap=True)
    if scenario is None:
        return
    _draw(scenario, console)
    sentences = scenarios.crossed(scenario.thresholds, outcome)
    for sentence in sentences:
        console.print(f"threshold crossed: {sentence}", style="red", highlight=False, soft_wrap=True)
    environment.process_exit_code = 1 if sentences else 0


def _draw(run: scenarios.Scenario, console: Console) -> None:
    folder, levels = Path(os.environ["AISLE_LOAD_REPORT"]), _levels(run)
    if len(levels) < 2:
        return
    file = folder / "latency.svg"
    file.write_text(knee.picture(f"{run.name}: latency against load", levels), encoding="utf-8")
    found = knee.knee([level.load for level in levels], [level.p95_ms for level in levels])
    if found is None:
        where = f"no knee up to {levels[-1].load:g} users"
    else:
        where = f"knee of p95 at {levels[found].load:g} users, {levels[found].rate:.0f} calls/s, {levels[found].p95_ms:.0f} ms"
    console.print(f"{where}; {file}", highlight=False, soft_wrap=True)
