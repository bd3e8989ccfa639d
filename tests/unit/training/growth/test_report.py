from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from training.growth.__main__ import main
from training.growth.measure import Size
from training.growth.report import plot, slopes, table


def _found(seconds: float) -> dict[str, object]:
    stage = {"seconds": seconds, "cpu_seconds": seconds, "peak_mb": 100.0}
    return {"users": 5, "stages": {"counting": stage}, "serving_us": {"sparse fold-in": 20.0}}


_POINTS = [(Size(1000, 40), _found(2.0)), (Size(10_000, 400), _found(200.0))]


def test_the_slope_is_the_power_of_growth() -> None:
    """A hundred times the seconds for ten times the events are quadratic; what stays the same has slope 0."""
    assert slopes(_POINTS, "events") == {"counting": pytest.approx(2.0), "sparse fold-in": pytest.approx(0.0, abs=1e-9)}


def test_one_size_has_no_slope_and_no_plot() -> None:
    """Growth needs two sizes."""
    assert slopes(_POINTS[:1], "events") == {}
    assert not plot(_POINTS[:1], "events")


def test_the_table_has_a_row_a_stage() -> None:
    """Sizes are columns; times and memory stand in the cells."""
    lines = table(_POINTS).splitlines()
    assert lines[2] == "| counting | 2.0 s, 100 MiB | 200.0 s, 100 MiB |"
    assert lines[3] == "| sparse fold-in | 20 us | 20 us |"


def test_the_plot_is_an_svg_with_a_line_a_stage() -> None:
    """It parses, and names what it draws."""
    root = ET.fromstring(plot(_POINTS, "events"))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert "counting" in "".join(root.itertext())


@pytest.mark.parametrize("sizes", ["many", "10", "1000,-5"])
def test_a_wrong_size_is_named(sizes: str, tmp_path: Path) -> None:
    """Sizes that are no whole numbers from 100 are refused, with what to give."""
    result = CliRunner().invoke(main, ["--sizes", sizes, "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "sizes:" in result.output
    assert "give a list such as 10000,100000" in result.output
