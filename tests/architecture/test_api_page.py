"""docs/api.md and the protos say the same."""

from __future__ import annotations

import runpy
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def test_api_page_is_fresh() -> None:
    """The committed page is what `poe docs` writes."""
    fresh = runpy.run_path(str(_ROOT / "docs" / "generate.py"))["api_page"]()
    assert (_ROOT / "docs" / "api.md").read_text(encoding="utf-8") == fresh, "run `poe docs`"
