from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.report.figures import bars, lines

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = st.floats(-1e6, 1e6, allow_nan=False)


def _marks(text: str, kind: str) -> list[ET.Element]:
    return ET.fromstring(text).findall(f".//{_SVG}{kind}")


@given(st.lists(st.tuples(_NUMBER, _NUMBER, _NUMBER).map(lambda ends: tuple(sorted(ends))), min_size=1, max_size=6))
def test_bars_stay_inside_the_picture(values: list[tuple[float, float, float]]) -> None:
    """Whatever the values, every bar is drawn whole, one for each."""
    rows = [(middle, low, high) for low, middle, high in values]
    figure = bars("k", "T", "x", "y", [str(place) for place in range(len(rows))], {"s": rows})
    found = _marks(figure.standalone(), "rect")
    assert len(found) == len(rows)
    for bar in found:
        assert float(bar.attrib["y"]) >= 40
        assert float(bar.attrib["y"]) + float(bar.attrib["height"]) <= 270


@given(st.lists(st.tuples(_NUMBER, _NUMBER), min_size=1, max_size=8), st.booleans())
def test_points_stay_inside_the_picture(points: list[tuple[float, float]], diagonal: bool) -> None:  # noqa: FBT001
    """One dot a point, none outside the axes."""
    figure = lines("k", "T", "x", "y", {"s": sorted(points)}, diagonal=diagonal)
    found = _marks(figure.standalone(), "circle")
    assert len(found) == len(points)
    assert all(60 <= float(dot.attrib["cx"]) <= 750 and 40 <= float(dot.attrib["cy"]) <= 270 for dot in found)


def test_a_picture_says_what_it_shows() -> None:
    """Title, axes and series are text, names cannot break out of it, and a gap is no bar."""
    figure = bars("k", "Title & more", "x axis", "y axis", ["<a>", "b"], {"one": [(1, 1, 1), None], "two": [(2, 1, 3), (1, 0, 2)]})
    tree = ET.fromstring(figure.standalone())
    texts = [element.text for element in tree.iter(f"{_SVG}text")]
    assert {"Title & more", "x axis", "y axis", "<a>", "one", "two"} <= set(texts)
    labels = tree.attrib["aria-labelledby"].split()
    assert [tree.find(f"*[@id='{label}']") is not None for label in labels] == [True, True]
    assert len(_marks(figure.standalone(), "rect")) == 3 + 2


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_one_value_has_an_axis(value: float) -> None:
    """Equal ends give a scale all the same."""
    assert len(_marks(lines("k", "T", "x", "y", {"s": [(value, value)]}).standalone(), "circle")) == 1
