"""The table, the slopes and the plot of finished sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.growth.measure import Size

Points = Sequence[tuple[Size, Mapping[str, Any]]]

_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#444444", "#008b8b", "#b03060", "#556b2f", "#8b4513")
_WIDTH, _HEIGHT, _MARGIN, _LEGEND = 760, 420, 60, 330


def table(points: Points) -> str:
    """Returns markdown: a row a stage, a column a size, in order of events, then items."""
    heads = [f"{size.events:,} events, {size.items:,} items" for size, _ in points]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(points)]
    for stage in _names(points, "stages"):
        cells = [_stage_cell(found["stages"].get(stage)) for _, found in points]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    for call in _names(points, "serving_us"):
        cells = [f"{found['serving_us'][call]:,.0f} us" if call in found["serving_us"] else "-" for _, found in points]
        lines.append(f"| {call} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def slopes(points: Points, axis: str) -> dict[str, float]:
    """Returns the slope of log(processor seconds) over log(size) of each stage by least squares; of serving, of its time.

    1 is linear growth, 2 quadratic. What has no two sizes is left out.

    Args:
        points: That differ along `axis`.
        axis: `events` or `items`.
    """
    found: dict[str, float] = {}
    for name, series in _series(points, axis).items():
        sizes, costs = np.log([size for size, _ in series]), np.log([max(cost, 1e-6) for _, cost in series])
        if len(np.unique(sizes)) > 1:
            found[name] = float(np.polyfit(sizes, costs, 1)[0])
    return found


def plot(points: Points, axis: str) -> str:
    """Returns an SVG of processor seconds over the axis, both logarithmic; empty if there are no two sizes."""
    series = {name: line for name, line in _series(points, axis).items() if len({size for size, _ in line}) > 1}
    if not series:
        return ""
    sizes = np.log10([size for line in series.values() for size, _ in line])
    costs = np.log10([max(cost, 1e-6) for line in series.values() for _, cost in line])
    low_x, high_x, low_y, high_y = np.floor(sizes.min()), np.ceil(sizes.max()), np.floor(costs.min()), np.ceil(costs.max())

    def place(size: float, cost: float) -> tuple[float, float]:
        x = _MARGIN + (np.log10(size) - low_x) / max(high_x - low_x, 1) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (np.log10(max(cost, 1e-6)) - low_y) / max(high_y - low_y, 1) * (_HEIGHT - 2 * _MARGIN)
        return float(x), float(y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + _LEGEND} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{axis}</text>',
        f'<text x="{_MARGIN}" y="24">processor seconds</text>',
    ]
    for power in range(int(low_x), int(high_x) + 1):
        x, y = place(10.0**power, 10.0**low_y)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{10**power:,}</text>')
    for power in range(int(low_y), int(high_y) + 1):
        x, y = place(10.0**low_x, 10.0**power)
        parts.append(f'<path d="M{x:.0f} {y:.0f}H{_WIDTH - _MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">1e{power}</text>')
    for number, (name, line) in enumerate(sorted(series.items())):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in sorted(line)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_WIDTH - _MARGIN + 10}" y="{_MARGIN + 20 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _stage_cell(cost: Mapping[str, float] | None) -> str:
    return "-" if cost is None else f"{cost['cpu_seconds']:,.1f} s, {cost['peak_mb']:,.0f} MiB"


def _names(points: Points, kind: str) -> list[str]:
    return list(dict.fromkeys(name for _, found in points for name in found[kind]))


def _series(points: Points, axis: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for size, found in points:
        costs = {name: cost["cpu_seconds"] for name, cost in found["stages"].items()}
        costs |= {name: taken / 1e6 for name, taken in found["serving_us"].items()}
        for name, cost in costs.items():
            series.setdefault(name, []).append((float(getattr(size, axis)), cost))
    return series
