"""The scenarios: how many users at which moment, and what must hold. Pure: Locust's side is `scenario_file.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a scenario with one number of users."""

    share: float
    """Of the scenario's length, above 0; the shares of a scenario add up to 1."""
    users: float
    """Of the scenario's users, above 0; at least one user is left."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What must hold at the end; each that does not is a sentence and makes the exit code 1."""

    p95_ms: float = 200.0
    """Largest 95th percentile of all calls, in milliseconds."""
    p99_ms: float = 500.0
    """Largest 99th percentile of all calls, in milliseconds."""
    error_share: float = 0.0
    """Largest share of calls that may fail, 0 to 1."""
    drift: float = NEVER
    """Largest ratio of the last third's 95th percentile to the first third's."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load over time."""

    name: str
    seconds: int
    """Length unless asked otherwise."""
    users: int
    """Users at a stage's 1.0, unless asked otherwise."""
    pace_s: float
    """Least seconds from one step of a user's journey to the next: `users / pace_s` steps a second while the server keeps up."""
    stages: tuple[Stage, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)

    def users_at(self, elapsed_s: float) -> int | None:
        """Returns how many users there are after so many seconds, or None at the end."""
        stage = self.stage_at(elapsed_s)
        return None if stage is None else self.users_of(stage)

    def stage_at(self, elapsed_s: float) -> int | None:
        """Returns the place of the stage that runs after so many seconds, or None at the end."""
        until = 0.0
        for place, stage in enumerate(self.stages):
            until += stage.share * self.seconds
            if elapsed_s < until:
                return place
        return None

    def users_of(self, place: int) -> int:
        """Returns a stage's users."""
        return max(1, round(self.users * self.stages[place].users))


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("steady", 60, 16, 0.5, (Stage(1.0, 1.0),)),
        # A quarter of the users, all of them at once for a fifth of the time, then a quarter again: what was queued must drain.
        Scenario("spike", 60, 48, 0.5, (Stage(0.4, 0.25), Stage(0.2, 1.0), Stage(0.4, 0.25)), Thresholds(p95_ms=500.0, p99_ms=1000.0)),
        Scenario("soak", 1800, 12, 0.5, (Stage(1.0, 1.0),), Thresholds(drift=1.5)),
        # A staircase by both doors, for latency against load. It ends past saturation, so only failures are judged.
        Scenario(
            "mixed",
            96,
            64,
            0.25,
            tuple(Stage(1 / 8, n / 64) for n in (2, 4, 8, 16, 24, 32, 48, 64)),
            Thresholds(p95_ms=NEVER, p99_ms=NEVER),
        ),
    )
}


def adjusted(
    scenario: Scenario,
    *,
    seconds: int | None = None,
    users: int | None = None,
    p95_ms: float | None = None,
    p99_ms: float | None = None,
    error_share: float | None = None,
) -> Scenario:
    """Returns a scenario with what was asked for in place of its own values."""
    given = {"p95_ms": p95_ms, "p99_ms": p99_ms, "error_share": error_share}
    thresholds = replace(scenario.thresholds, **{name: value for name, value in given.items() if value is not None})
    return replace(scenario, seconds=seconds or scenario.seconds, users=users or scenario.users, thresholds=thresholds)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Times in milliseconds."""

    calls: int
    failed: int
    took_ms: Sequence[float]
    """Of every call, in the order in which they ended."""
    wall_s: float


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` of the values do not exceed (nearest rank); 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def crossed(thresholds: Thresholds, outcome: Outcome) -> list[str]:
    """Returns a sentence for each threshold that does not hold; none where all hold."""
    if not outcome.calls:
        return ["no call was made: is the server running?"]
    sentences = []
    share = outcome.failed / outcome.calls
    if share > thresholds.error_share:
        sentences.append(f"{outcome.failed} of {outcome.calls} calls failed ({share:.2%}); at most {thresholds.error_share:.2%} may")
    for name, at, limit in (("p95", 0.95, thresholds.p95_ms), ("p99", 0.99, thresholds.p99_ms)):
        if (found := percentile(outcome.took_ms, at)) > limit:
            sentences.append(f"{name} was {found:.0f} ms; at most {limit:.0f} ms is allowed")
    third = len(outcome.took_ms) // 3
    if third and thresholds.drift < NEVER:
        first, last = percentile(outcome.took_ms[:third], 0.95), percentile(outcome.took_ms[-third:], 0.95)
        if last > first * thresholds.drift:
            sentences.append(
                f"p95 drifted from {first:.0f} ms in the first third to {last:.0f} ms in the last; {thresholds.drift:g} times is allowed"
            )
    return sentences


def one_line(name: str, outcome: Outcome) -> str:
    """Returns a run on one line, in the words of ghz: count, total, rate, fastest, average, slowest, distribution, errors."""
    took = outcome.took_ms
    if not took:
        return f"{name}: no call in {outcome.wall_s:.1f} s"
    p50, p95, p99 = (percentile(took, share) for share in (0.5, 0.95, 0.99))
    mean = sum(took) / len(took)
    times = f"fastest {min(took):.1f}, average {mean:.1f}, p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, slowest {max(took):.1f} ms"
    return (
        f"{name}: {outcome.calls} calls in {outcome.wall_s:.1f} s, {outcome.calls / outcome.wall_s:.1f}/s, {times}, {outcome.failed} failed"
    )
