"""How many threads numerical libraries may use in a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from server.settings import usable_cores

_PROGRAM = """
import atexit, os, sys
atexit.register(lambda: print(os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]))
from server.cli import main
main()
"""


def _said(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, f"{usable_cores()} {usable_cores()} PASSIVE"),
        ({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, "3 3 ACTIVE"),
        ({"OPENBLAS_NUM_THREADS": "5"}, f"{usable_cores()} 5 PASSIVE"),
    ],
)
def test_libraries_get_the_cores_there_are_unless_the_user_says_otherwise(variables: dict[str, str], expected: str) -> None:
    """A command sets the numbers of threads to the cores it may use, and leaves alone what the environment has."""
    assert _said("--version", **variables) == expected


def test_cores_are_those_of_the_affinity() -> None:
    """A process that is bound to one core counts one."""
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    program = f"{bound}; from server.settings import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1"
