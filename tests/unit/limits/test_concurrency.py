"""The concurrency limit on a simulated server whose capacity is known."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from server.limits.concurrency import ConcurrencyLimit, Permit

_SERVICE_S = 0.015


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the second half of a simulation came to."""

    slowdown: float
    """Mean time of a call, divided by what it takes alone."""
    tail: float
    """The 95th percentile of the same."""
    throughput: float
    """Answers, as a share of what the server can do."""
    refused: float
    """Share of calls."""
    limit: float


@dataclass(slots=True)
class _Running:
    left_s: float
    """Alone."""
    permit: Permit


def simulate(*, cores: float, load: float, slowdown: float, seconds: float, service: Callable[[float], float] = lambda _: 1.0) -> Outcome:
    """Runs a server that shares `cores` processors among its calls, with Poisson arrivals at `load` times what it can do."""
    rng = random.Random(7)
    now = 0.0
    limit = ConcurrencyLimit(slowdown=slowdown, most=1024, clock=lambda: now)
    running: list[_Running] = []
    arrival = 0.0
    took: list[float] = []
    limits: list[float] = []
    came = 0
    while now < seconds:
        speed = min(1.0, cores / len(running)) if running else 1.0
        first = min(running, key=lambda one: one.left_s, default=None)
        end = now + first.left_s / speed if first else float("inf")
        passed = min(arrival, end) - now
        for one in running:
            one.left_s -= passed * speed
        now += passed
        if first is not None and end <= arrival:
            running.remove(first)
            limit.end("m", first.permit, answered=True)
            if now > seconds / 2:
                took.append((now - first.permit.given_s) / (_SERVICE_S * service(now)))
                limits.append(limit.limit)
        else:
            arrival = now + rng.expovariate(load * cores / (_SERVICE_S * service(now)))
            came += now > seconds / 2
            if limit.free:
                running.append(_Running(_SERVICE_S * service(now) * rng.uniform(0.7, 1.3), limit.start()))
    possible = seconds / 2 * cores / (_SERVICE_S * service(seconds))
    return Outcome(
        statistics.mean(took), statistics.quantiles(took, n=20)[-1], len(took) / possible, 1 - len(took) / came, statistics.mean(limits)
    )


@pytest.mark.parametrize("cores", [1, 1.5, 4, 8])
@pytest.mark.parametrize("slowdown", [1.5, 2.0])
def test_three_times_too_much_is_answered_at_full_rate_and_in_time(cores: float, slowdown: float) -> None:
    """At three times its capacity a server of any size answers nearly what it can, each call about as late as was allowed.

    One core that may not take two at once stands idle until the next call comes: here nobody waits.
    """
    found = simulate(cores=cores, load=3, slowdown=slowdown, seconds=90)
    assert found.throughput > (0.7 if cores == 1 else 0.8)
    assert found.slowdown < slowdown
    assert found.tail < slowdown * 1.5


def test_a_limit_that_was_too_high_is_seldom_tried_again() -> None:
    """One core that can only take one call at once in time spends a twentieth of an overload, or less, with two."""
    found = simulate(cores=1, load=3, slowdown=1.5, seconds=90)
    assert found.limit < 1.05


def test_a_lightly_loaded_server_refuses_next_to_nothing() -> None:
    """At 30 % load on 4 cores, fewer than 1 % are refused."""
    assert simulate(cores=4, load=0.3, slowdown=1.5, seconds=60).refused < 0.01


def test_a_server_that_became_slower_is_not_strangled() -> None:
    """When calls suddenly take three times as long, under lasting overload, what is quiet is learned anew and the rate recovers."""
    found = simulate(cores=2, load=3, slowdown=1.5, seconds=240, service=lambda now: 3.0 if now > 20 else 1.0)
    assert found.throughput > 0.85
    assert found.slowdown < 1.5 * 1.25


def test_an_idle_limit_does_not_grow() -> None:
    """One call at a time, for ever, leaves the limit where it began: a later burst must not find an unbounded door."""
    now = 0.0
    limit = ConcurrencyLimit(slowdown=1.5, most=1024, clock=lambda: now)
    before = limit.limit
    for _ in range(10_000):
        assert limit.free
        permit = limit.start()
        now += 0.015
        limit.end("m", permit, answered=True)
    assert limit.limit == before


def test_quick_failures_teach_nothing() -> None:
    """Calls that fail at once move no limit, and none is left running."""
    now = 0.0
    limit = ConcurrencyLimit(slowdown=1.5, most=1024, clock=lambda: now)
    before = limit.limit
    for _ in range(1000):
        now += 0.05
        permit = limit.start()
        now += 0.001
        limit.end("m", permit, answered=False)
    assert (limit.limit, limit.running) == (before, 0)


def test_calls_given_up_late_lower_the_limit() -> None:
    """When every call runs into its deadline, nothing is answered and yet the limit comes down."""
    now = 0.0
    limit = ConcurrencyLimit(slowdown=1.5, most=1024, clock=lambda: now)
    permit = limit.start()
    now += 0.015
    limit.end("m", permit, answered=True)
    for _ in range(200):
        running = [limit.start() for _ in range(limit.limit)]
        now += 2.0
        for one in running:
            limit.end("m", one, answered=False)
    assert limit.limit == 1
