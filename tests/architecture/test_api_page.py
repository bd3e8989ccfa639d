"""docs/api.md and the protos say the same."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from aisle.v1 import error_reason_pb2
from server import errors

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    """The committed page."""
    return (_ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_api_page_is_fresh(page: str) -> None:
    """The committed page is what `poe docs` writes."""
    fresh = runpy.run_path(str(_ROOT / "docs" / "generate.py"))["api_page"]()
    assert page == fresh, "run `poe docs`"


def test_every_error_class_has_a_documented_reason(page: str) -> None:
    """Each class of server.errors names a reason of the proto, and each reason but UNIMPLEMENTED, which the doors give, has a class."""
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AisleError)]
    reasons = {name for name, number in error_reason_pb2.ErrorReason.items() if number}
    assert {kind.reason for kind in classes} == reasons - {"UNIMPLEMENTED"}
    assert all(f"| `{reason}` |" in page for reason in reasons)
