"""A parent process that runs embedded parts, and what is left of its family once it is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.embedded import Parts

_ROOT = Path(__file__).parents[3]


@dataclass
class Host:
    """A process that runs embedded parts, and all of its descendants at the time it became ready."""

    process: subprocess.Popen[str]
    parts: Parts
    family: list[psutil.Process]

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=40)

    def survivors(self, *, timeout_s: float = 25.0) -> list[str]:
        """Returns what is left of the family after its grace."""
        _, alive = psutil.wait_procs(self.family, timeout=timeout_s)
        return [f"{process.pid} {process.name()}" for process in alive]


StartHost = Callable[..., Host]


def start_process(data_dir: Path, options: dict[str, object]) -> subprocess.Popen[str]:
    """Starts `host.py`, which prints its parts in one line when they answer."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("host.py")), str(data_dir), json.dumps(options, default=str)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=_ROOT,
    )


def ready_host(process: subprocess.Popen[str]) -> Host:
    """Waits until the parts of a started process answer."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    record = json.loads(line)
    repository = record.pop("triton_repository")
    notes = tuple(record.pop("notes"))
    parts = Parts(**record, triton_repository=Path(repository) if repository else None, notes=notes)
    return Host(process, parts, psutil.Process(process.pid).children(recursive=True))
