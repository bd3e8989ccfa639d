"""The knee of latency against load, and its picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loadtest.knee import Level, knee, picture

_LOADS = [2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0]


def test_the_knee_is_where_a_flat_curve_turns_up() -> None:
    """Flat to 24 users and steep after: the knee is at 24."""
    assert knee(_LOADS, [10, 10, 10, 11, 12, 80, 220, 360]) == 4


def test_a_straight_line_and_a_flat_one_have_no_knee() -> None:
    """Latency that grows as load does, or not at all, turns nowhere."""
    assert knee(_LOADS, [5 * load for load in _LOADS]) is None
    assert knee(_LOADS, [7.0] * 8) is None
    assert knee([1.0, 2.0], [1.0, 9.0]) is None


def test_lengths_must_agree() -> None:
    """A missing latency is an error, not another knee."""
    with pytest.raises(ValueError, match="2 loads and 1 latencies"):
        knee([1.0, 2.0], [1.0])


@given(st.integers(2, 12), st.integers(2, 8), st.floats(1.0, 1e3), st.floats(0.01, 100))
def test_units_do_not_move_the_knee(flat: int, steep: int, base: float, scale: float) -> None:
    """A curve flat for some levels and steep after has its knee at the last flat one, whatever the units of load and latency."""
    loads = [scale * (n + 1) for n in range(flat + steep)]
    latencies = [base] * flat + [base + base * (n + 1) for n in range(steep)]
    assume(all(a < b for a, b in zip(latencies[flat:], latencies[flat + 1 :], strict=False)))
    assert knee(loads, latencies) == flat - 1


def test_the_picture_is_xml_with_three_curves_and_the_knee() -> None:
    """The SVG parses, draws p50, p95 and p99, and marks the knee with its load; a title is escaped."""
    levels = [Level(load, load * 2, p95 / 2, p95, p95 * 2) for load, p95 in zip(_LOADS, [10, 10, 10, 11, 12, 80, 220, 360], strict=True)]
    root = ET.fromstring(picture("mixed <1>", levels))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 3
    words = [one.text or "" for one in root.findall(f"{space}text")]
    assert "knee: 24 users, 48/s" in words
    assert "mixed <1>" in words
