"""What a command loads before it does anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def test_commands_on_the_database_do_not_load_tritons_client() -> None:
    """`aisle keys`, `tenants` and `migrate` come up without it and without FAISS: half a second each."""
    program = "import sys, server.cli.admin; print(sorted({'tritonclient', 'faiss', 'onnxruntime'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
