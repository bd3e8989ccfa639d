"""The conformance table of docs/gateway.md."""

from __future__ import annotations

import runpy
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = runpy.run_path(str(_ROOT / "docs" / "gateway_table.py"))


def test_every_feature_has_a_test_and_every_mark_a_feature() -> None:
    """The table claims nothing that no test shows, and no test shows what it does not claim."""
    assert _MODULE["marked_tests"]().keys() == _MODULE["FEATURES"].keys()


def test_the_table_is_that_of_the_marked_tests() -> None:
    """The committed table is what `python docs/gateway_table.py` writes when all marked tests pass, as they do in this suite."""
    page = _MODULE["PAGE"].read_text(encoding="utf-8")
    shown = page.partition(_MODULE["BEGIN"])[2].partition(_MODULE["END"])[0].strip()
    assert shown == _MODULE["table"](_MODULE["marked_tests"]())
