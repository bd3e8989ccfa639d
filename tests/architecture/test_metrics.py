"""The metrics that operators read about are those that there are."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import REGISTRY

import server.telemetry

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_every_metric_is_documented_and_no_other() -> None:
    """docs/operations.md names each family of `server.telemetry`, and no `aisle_` metric that is never written."""
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("aisle_")}
    documented = {name.removesuffix("_total") for name in re.findall(r"`(aisle_[a-z0-9_]+)[`{]", _DOCUMENT.read_text())}
    assert server.telemetry
    assert ours == documented - {"aisle_app", "aisle_changes"}
