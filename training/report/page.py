"""The report as one self-contained page: no script, no network, light or dark as the reader's screen is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from training.report.figures import STYLE
from training.report.sections import sections

_TEMPLATES = Path(__file__).with_name("templates")


def render_page(report: Mapping[str, Any], *, title: str) -> str:
    """Returns the page of a report as `ModelReport.to_json` gives it."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(title=title, sections=sections(report), figure_style=STYLE)
