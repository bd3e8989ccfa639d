"""Where latency begins to rise faster than load: the knee of a convex, rising curve, and its picture.

Source: V. Satopaa, J. Albrecht, D. Irwin, B. Raghavan, "Finding a Kneedle in a Haystack", ICDCS Workshops 2011. Their curve is concave,
ours is mirrored as they say. Points are measured medians of whole stages and few, so they are not smoothed by a spline first.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 48, 56
_LABEL = 34
"""Least distance between two labels under the axis."""
_COLOURS = {"p50": "#2b6cb0", "p95": "#c05621", "p99": "#97266d"}


@dataclass(frozen=True, slots=True)
class Level:
    """One load and what it came to."""

    load: float
    """Users at once."""
    rate: float
    """Calls answered a second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float


_ROUNDING = 1e-9
"""Differences this small are no differences: shares of the same axis are divided by lengths in other units."""


def knee(loads: Sequence[float], latencies: Sequence[float], *, sensitivity: float = 1.0) -> int | None:
    """Returns the place of the knee, or None where the curve has none, as a straight line has not.

    Args:
        loads: Rising, at least three.
        latencies: As many.
        sensitivity: Kneedle's S: how many average steps the difference must fall after its peak. Larger finds fewer knees.
    """
    if len(loads) != len(latencies):
        raise ValueError(f"{len(loads)} loads and {len(latencies)} latencies")
    if len(loads) < 3 or max(latencies) <= min(latencies):
        return None
    span, height = loads[-1] - loads[0], max(latencies) - min(latencies)
    x = [(load - loads[0]) / span for load in loads]
    y = [(latency - min(latencies)) / height for latency in latencies]
    # Convex and rising: the knee is where the curve lies farthest below the diagonal.
    below = [a - b for a, b in zip(x, y, strict=True)]
    step = sensitivity / (len(x) - 1)
    for place in range(1, len(below) - 1):
        if below[place] <= 0 or below[place] < below[place - 1] or below[place] <= below[place + 1]:
            continue
        threshold = below[place] - step
        for later in range(place + 1, len(below)):
            if later < len(below) - 1 and below[later] > below[later - 1] and below[later] >= below[place]:
                break  # a higher peak follows: it decides
            if below[later] <= threshold + _ROUNDING:
                return place
    return None


def picture(title: str, levels: Sequence[Level]) -> str:
    """Returns an SVG of p50, p95 and p99 against load, with the knee of p95 marked. Needs at least two levels."""
    top = max(level.p99_ms for level in levels) * 1.08 or 1.0
    first, last = levels[0].load, levels[-1].load

    def at(load: float, ms: float) -> tuple[float, float]:
        across = _LEFT + (load - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - ms / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{html.escape(title)}</text>',
    ]
    for n in range(5):
        ms = top * n / 4
        _, y = at(first, ms)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{ms:.0f} ms</text>')
    labelled = -1.0 * _LABEL
    for level in levels:
        x, y = at(level.load, 0)
        if x - labelled < _LABEL:
            continue
        labelled = x
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{level.load:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{y + 33:.1f}" text-anchor="middle" fill="#718096">{level.rate:.0f}/s</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">users, and calls answered a second</text>')
    for place, (name, colour) in enumerate(_COLOURS.items()):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(level.load, getattr(level, f"{name}_ms")) for level in levels))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT - 110 + place * 38}" y="22" fill="{colour}">{name}</text>')
    found = knee([level.load for level in levels], [level.p95_ms for level in levels])
    if found is not None:
        x, y = at(levels[found].load, levels[found].p95_ms)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#2d3748" stroke-dasharray="4 4"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="#2d3748" stroke-width="2"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{_TOP + 12}">knee: {levels[found].load:g} users, {levels[found].rate:.0f}/s</text>')
    return "\n".join([*parts, "</svg>", ""])
