"""How many calls may run at once, found from how long they take.

A server that is given more than it can do answers everything late. This one measures what calls take while it is hardly used, and lets in
as many at once as keep them within a multiple of that: additive increase, multiplicative decrease, on the mean over short windows of the
time a call took divided by what its method takes when quiet. The ratio, not the time, so that methods as unlike as a look-up and a batch
of embeddings share one limit. A limit that was too high is tried again after two seconds, then four, then eight: few cores have
nothing between one call and two, and every try makes some answers late.

Sources: D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989), for the rule; the idea of
measuring the unloaded latency at a low concurrency now and then is that of Envoy's adaptive concurrency filter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 0.1
_WINDOW_CALLS = 10
_LONGEST_WINDOW_S = 2.0
_LOWER = 0.9
_LOWEST = 0.5
"""A window that was too slow multiplies the limit by what was allowed over what was taken, between these."""
_RAISE = 0.5
_FIRST_LIMIT = 2.0
_SHORTEST_HOLD_S = 2.0
_LONGEST_HOLD_S = 16.0
"""A limit that was too high is not tried again for so long, twice as long each time that it is found too high again."""
_QUIET_SHARE = 0.25
"""Calls during which at most this share of the limit ran, at least one, say what calls take when quiet."""
_QUIET_WEIGHT = 0.1
_PROBE_AFTER_S = 30.0
"""After so long without a quiet call, one call at a time runs until some have been seen."""
_PROBE_CALLS = 16
_LONGEST_PROBE_S = 2.0


@dataclass(slots=True)
class _Quiet:
    """What a method takes when hardly anything else runs."""

    mean_s: float
    calls: int

    def add(self, took_s: float) -> None:
        self.calls += 1
        self.mean_s += (took_s - self.mean_s) * max(1 / self.calls, _QUIET_WEIGHT)


@dataclass(frozen=True, slots=True)
class Permit:
    """A call that was let in."""

    given_s: float
    """When: on a busy event loop a call begins later than it was let in, and that counts."""
    crowds: int
    """Which crowd came last before it; -1 where it is itself in one."""
    fulls: int
    """How often all places were taken before it; -1 where it took the last."""


class ConcurrencyLimit:
    """The limit, and what moves it. One thread."""

    def __init__(self, *, slowdown: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins at a small limit.

        Args:
            slowdown: How many times its quiet time a call may take on average, above 1.
            most: The limit is never larger.
            clock: Seconds that only grow.
        """
        self._slowdown = slowdown
        self._most = float(most)
        self._clock = clock
        self._limit = min(_FIRST_LIMIT, self._most)
        self._running = 0
        self._crowds = self._fulls = 0
        self._methods: dict[str, _Quiet] = {}
        now = clock()
        self._window_s = now
        self._took_s = self._expected_s = 0.0
        self._calls = 0
        self._more_wanted = False
        self._changed_s = float("-inf")
        self._too_high = most + 1
        self._hold_s = _SHORTEST_HOLD_S
        self._quiet_s = now
        self._probe_s: float | None = None
        self._probed = 0

    @property
    def limit(self) -> int:
        """Calls that may run at once now, at least 1."""
        return 1 if self._probe_s is not None else max(1, int(self._limit))

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._running

    @property
    def free(self) -> bool:
        """Whether another call may start. Asking says that one wants to."""
        if self._running < self.limit:
            return True
        self._more_wanted = True
        if self._probe_s is None:
            self._crowds += 1  # others wait, so the event loop is busy: a time taken now is not a quiet one
        return False

    def start(self) -> Permit:
        """Counts a call that starts."""
        self._running += 1
        crowded, full = self._running > max(1, int(self._limit * _QUIET_SHARE)), self._running >= self.limit
        self._crowds += crowded
        self._fulls += full
        return Permit(self._clock(), -1 if crowded else self._crowds, -1 if full else self._fulls)

    def withdraw(self) -> None:
        """Takes a start back: the call was given up before it began."""
        self._running -= 1

    def end(self, method: str, permit: Permit, *, answered: bool) -> None:
        """Counts a call that ended.

        Args:
            method: Any name; calls of one name take alike.
            permit: What `start` returned.
            answered: False for a call that failed or was given up. A short time then says nothing; one beyond what is allowed says that
                calls come too late.
        """
        self._running -= 1
        now = self._clock()
        took_s = now - permit.given_s
        known = self._methods.get(method)
        if answered or (known is not None and took_s > self._slowdown * known.mean_s):
            quiet, full = answered and permit.crowds == self._crowds, permit.fulls != self._fulls
            self._learn(method, took_s, quiet=quiet, counts=full and permit.given_s >= self._changed_s)
        elapsed_s = now - self._window_s
        if (elapsed_s >= _WINDOW_S and self._calls >= _WINDOW_CALLS) or elapsed_s >= _LONGEST_WINDOW_S:
            self._adapt(now)

    def _learn(self, method: str, took_s: float, *, quiet: bool, counts: bool) -> None:
        """Learns from one call: what its method takes when quiet, and whether the limit is right.

        A call during which places stood empty, or which began under another limit, says nothing of this one.
        """
        known = self._methods.get(method)
        if known is None:
            self._methods[method] = _Quiet(took_s, 1)
            return
        if quiet:
            known.add(took_s)
            self._quiet_s = self._clock()
            self._probed += 1
        if counts:
            self._calls += 1
            self._took_s += took_s
            self._expected_s += known.mean_s

    def _adapt(self, now: float) -> None:
        if self._probe_s is not None:
            if self._probed >= _PROBE_CALLS or now - self._probe_s >= _LONGEST_PROBE_S:
                self._probe_s = None
                self._quiet_s = now
        elif self._calls:
            if self._took_s > self._slowdown * self._expected_s:
                self._lower(now)
            else:
                self._raise(now)
            if self._more_wanted and now - self._quiet_s >= _PROBE_AFTER_S:
                self._probe_s, self._probed = now, 0
        self._window_s = now
        self._took_s = self._expected_s = 0.0
        self._calls = 0
        self._more_wanted = False

    def _lower(self, now: float) -> None:
        self._hold_s = min(_LONGEST_HOLD_S, 2 * self._hold_s) if self.limit >= self._too_high else _SHORTEST_HOLD_S
        self._too_high = max(2, self.limit)
        self._limit = max(1.0, self._limit * max(_LOWEST, min(_LOWER, self._slowdown * self._expected_s / self._took_s)))
        self._changed_s = now

    def _raise(self, now: float) -> None:
        """Goes up where more wanted to come; at once to what has been good, to what was too high, and beyond, now and then."""
        if self.limit >= self._too_high:
            self._too_high = self.limit + 1
            self._hold_s = max(_SHORTEST_HOLD_S, self._hold_s / 2)
        raised = min(self._most, self._limit + _RAISE)
        if self._more_wanted and (raised < self._too_high or now - self._changed_s >= self._hold_s):
            self._limit = raised
            self._changed_s = now
