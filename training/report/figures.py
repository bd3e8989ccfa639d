"""Pictures as SVG: bars with intervals, and lines. Colours follow the reader's light or dark theme.

Each picture has a title and a description for those who do not see it, and shows no more than the table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
Value = tuple[float, float, float]
"""A value, and the ends of its interval."""

_WIDTH, _HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 56
_DASHES = ("", "6 4", "2 3", "10 4 2 4", "1 5")
SERIES = len(_DASHES)
"""Series that can be told apart."""

STYLE = """
.figure {
  color-scheme: light dark; --ink: #23252b; --line: #d9d4cb;
  --s0: #0b5fa5; --s1: #b84a00; --s2: #2c6e49; --s3: #8a3b82; --s4: #6b6f78
}
@media (prefers-color-scheme: dark) {
  .figure { --ink: #ece8e1; --line: #45423d; --s0: #6db8f2; --s1: #f2a25f; --s2: #8fd0a8; --s3: #d99bd2; --s4: #b5b8bf }
}
.figure text { font: 12px system-ui, sans-serif; fill: var(--ink) }
.figure .head { font-size: 14px; font-weight: 600 }
.figure .grid { stroke: var(--line); stroke-width: 1 }
.figure .axis, .figure .whisker { stroke: var(--ink); stroke-width: 1.2 }
.figure .guide { stroke: var(--ink); stroke-dasharray: 3 4; stroke-width: 1 }
.figure .s0 { fill: var(--s0); stroke: var(--s0) }
.figure .s1 { fill: var(--s1); stroke: var(--s1) }
.figure .s2 { fill: var(--s2); stroke: var(--s2) }
.figure .s3 { fill: var(--s3); stroke: var(--s3) }
.figure .s4 { fill: var(--s4); stroke: var(--s4) }
.figure .path { fill: none; stroke-width: 2 }
"""
"""Style sheet of all pictures: once in a page, or inside a picture that stands alone."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture."""

    key: str
    """Unique in its page; letters, digits and hyphens."""
    title: str
    svg: str

    def standalone(self) -> str:
        """Returns the picture as a file of its own."""
        head, rest = self.svg.split(">", 1)
        return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}\n'


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def bars(key: str, title: str, x_label: str, y_label: str, groups: Sequence[str], series: Mapping[str, Sequence[Value | None]]) -> Figure:
    """Returns one bar a group and series, with its interval; None leaves a gap.

    Args:
        key: See `Figure`.
        title: Above the picture.
        x_label: Of the groups.
        y_label: Of the values, with their unit.
        groups: At least one.
        series: Name -> a value for each group; at most `SERIES`.
    """
    ends = [end for row in series.values() for value in row if value is not None for end in value]
    scale = _value_scale([0.0, *ends])
    room = (_WIDTH - _LEFT - _RIGHT) / len(groups)
    width = room * 0.8 / max(len(series), 1)
    marks = []
    for place, label in enumerate(groups):
        left = _LEFT + place * room + room * 0.1
        marks.append(_text(left + room * 0.4, _HEIGHT - _BOTTOM + 18, label, anchor="middle"))
        for number, row in enumerate(series.values()):
            value = row[place]
            if value is not None:
                marks.append(_bar(left + number * width, width * 0.9, scale, value, number))
    marks.append(_line(_LEFT, scale.at(0), _WIDTH - _RIGHT, scale.at(0), "axis"))
    return _figure(key, title, x_label, y_label, list(series), _grid(scale) + marks)


def lines(
    key: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[Point]],
    *,
    diagonal: bool = False,
) -> Figure:
    """Returns each series as a line with a dot at every point.

    Args:
        key: See `Figure`.
        title: Above the picture.
        x_label: Of the horizontal axis, with its unit.
        y_label: Of the vertical axis, with its unit.
        series: Name -> points, x ascending; at most `SERIES`, at least one point in all.
        diagonal: Whether to draw where both are equal; the axes then share a scale.
    """
    across = [x for points in series.values() for x, _ in points]
    up = [y for points in series.values() for _, y in points]
    if diagonal:
        across = up = [0.0, *across, *up]
    scale, ticks = _value_scale(up), _ticks(min(across), max(across))
    wide = _Scale(ticks[0], ticks[-1], _LEFT, _WIDTH - _RIGHT)
    marks = [_text(wide.at(tick), _HEIGHT - _BOTTOM + 18, _number(tick), anchor="middle") for tick in ticks]
    if diagonal:
        least, most = max(wide.low, scale.low), min(wide.high, scale.high)
        marks.append(_line(wide.at(least), scale.at(least), wide.at(most), scale.at(most), "guide"))
    for number, points in enumerate(series.values()):
        path = " ".join(f"{wide.at(x):.1f},{scale.at(y):.1f}" for x, y in points)
        marks.append(f'<polyline class="s{number} path" stroke-dasharray="{_DASHES[number]}" points="{path}"/>')
        marks += [f'<circle class="s{number}" cx="{wide.at(x):.1f}" cy="{scale.at(y):.1f}" r="3"/>' for x, y in points]
    return _figure(key, title, x_label, y_label, list(series), _grid(scale) + marks)


def _figure(key: str, title: str, x_label: str, y_label: str, names: Sequence[str], marks: Sequence[str]) -> Figure:
    about = f"{y_label} by {x_label}" + (f" for {', '.join(names)}" if len(names) > 1 else "") + ". The table beside it has the numbers."
    legend, left = [], float(_LEFT)
    for number, name in enumerate(names if len(names) > 1 else ()):
        legend += [f'<rect class="s{number}" x="{left:.0f}" y="26" width="10" height="10"/>', _text(left + 15, 35, name)]
        left += 30 + 7 * len(name)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    body = [
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-about">{escape(about)}</desc>',
        f'<text class="head" x="{_LEFT}" y="16">{escape(title)}</text>',
        *legend,
        *marks,
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, x_label, anchor="middle"),
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">{escape(y_label)}</text>',
    ]
    head = f'<svg class="figure" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-labelledby="{key}-title {key}-about">'
    return Figure(key, title, "\n".join([head, *body, "</svg>"]))


def _bar(left: float, width: float, scale: _Scale, value: Value, number: int) -> str:
    top, bottom = sorted((scale.at(value[0]), scale.at(0)))
    middle = left + width / 2
    bar = f'<rect class="s{number}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'
    if value[1] == value[2]:
        return bar
    return bar + _line(middle, scale.at(value[1]), middle, scale.at(value[2]), "whisker")


def _value_scale(values: Sequence[float]) -> _Scale:
    ticks = _ticks(min(values), max(values))
    return _Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)


def _grid(scale: _Scale) -> list[str]:
    marks = []
    for tick in _ticks(scale.low, scale.high):
        marks += [
            _line(_LEFT, scale.at(tick), _WIDTH - _RIGHT, scale.at(tick), "grid"),
            _text(_LEFT - 6, scale.at(tick) + 4, _number(tick), anchor="end"),
        ]
    return marks


def _ticks(low: float, high: float) -> list[float]:
    """Returns round numbers, about five, that hold low and high between the first and the last."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # one value, to the eye
        high = low + (abs(low) if abs(low) > 1e-9 else 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
