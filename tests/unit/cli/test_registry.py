from __future__ import annotations

import importlib.util

import pytest
from click.testing import CliRunner

from server.cli.registry import train
from server.errors import FailedPreconditionError


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_asked_for_before_anything_is_started() -> None:
    """`--ray` without Ray ends at once, before a database is looked for, and names the extra to install."""
    result = CliRunner().invoke(train, ["--tenant", "demo", "--ray", "local"])
    assert isinstance(result.exception, FailedPreconditionError)
    assert "pip install 'aisle[ray]'" in result.exception.message
