"""Where a command's log lines go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = """
import sys
import click
from server import cli
from server.telemetry import logger

@click.command
def told() -> None:
    logger("x").warning("runtime left out")
    click.echo("{}")

sys.argv = ["aisle", "told"]
cli._LazyGroup.get_command = lambda self, context, name: told
cli.main()
"""


def test_a_warning_on_the_way_leaves_the_result_alone() -> None:
    """A command that logs a warning, as a busy inference runtime makes it, prints its JSON on stdout and the line on stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
    assert "runtime left out" in done.stderr
