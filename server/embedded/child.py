"""One embedded server: started behind a guard, asked whether it answers, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from server.errors import UnavailableError
from server.telemetry import PART_RESTARTS, PART_UP, logger

_GUARD = Path(__file__).with_name("guard.py")
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 10.0
_STEADY_S = 30.0
"""A server that answered this long starts again from the shortest pause, in seconds."""
_PROBE_EVERY_S = 5.0
_PROBE_TIMEOUT_S = 2.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_LOG_TAIL_BYTES = 16_384
_COMPLAINT = re.compile(r"^E\d{4} |\b(?:error|fatal|panic|cannot|unrecognized)\b", re.IGNORECASE)
_log = logger(__name__)


@dataclass(frozen=True)
class ServerSpec:
    """How one server is run."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    prepare: Callable[[], None]
    """Removes what a killed predecessor left behind. Called before every start."""
    answers: Callable[[], Awaitable[bool]]
    """Returns whether the server answers a real request now. An exception counts as no."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    """Time between the stop signal and SIGKILL, in seconds."""
    ready_s: float = 60.0
    """Time the server may take until it answers, in seconds. Recovery after a crash counts."""
    step: int = 0
    """Levels of niceness below this process, so that the kernel prefers it where both want a core."""
    uid: int = -1
    gid: int = -1


@dataclass(frozen=True)
class Guarded:
    """A running guard and Aisle's end of its pipe."""

    process: asyncio.subprocess.Process
    control_fd: int

    async def stop(self) -> int:
        """Has the guard end its server, and returns the exit code once the last descendant is gone."""
        with contextlib.suppress(OSError):
            os.close(self.control_fd)
        return await self.process.wait()


async def start_guarded(spec: ServerSpec, *, lock_fd: int) -> Guarded:
    """Starts the server of `spec` behind a guard. Its output is appended to the log."""
    spec.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if spec.log_path.exists() and spec.log_path.stat().st_size > _LOG_LIMIT_BYTES:
        spec.log_path.replace(spec.log_path.with_suffix(".old.log"))
    read_fd, write_fd = os.pipe()
    order = {
        "argv": list(spec.argv),
        "control_fd": read_fd,
        "lock_fd": lock_fd,
        "parent": os.getpid(),
        "stop_signal": int(spec.stop_signal),
        "grace_s": spec.grace_s,
        "step": spec.step,
        "uid": spec.uid,
        "gid": spec.gid,
    }
    try:
        with spec.log_path.open("ab") as log_file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(_GUARD),
                json.dumps(order),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=dict(spec.environment),
                cwd="/",
                pass_fds=[descriptor for descriptor in (read_fd, lock_fd) if descriptor >= 0],
                # A terminal's Ctrl-C goes to Aisle alone, which then stops its servers in order.
                start_new_session=True,
            )
    except BaseException:
        os.close(write_fd)
        raise
    finally:
        os.close(read_fd)
    return Guarded(process, write_fd)


def log_tail(path: Path, *, start: int, lines: int = 2) -> str:
    """Returns what a log says since the byte `start` as one line: its complaints, or else its last lines."""
    with contextlib.suppress(OSError), path.open("rb") as log_file:
        log_file.seek(max(start, path.stat().st_size - _LOG_TAIL_BYTES))
        text = [line.strip() for line in log_file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        complaints = [line for line in text if _COMPLAINT.search(line)]
        return " | ".join((complaints or text)[-lines:])[:600]
    return ""


class Child:
    """A server that is kept running while entered. Entering waits until it answers."""

    def __init__(self, spec: ServerSpec, *, lock_fd: int) -> None:
        self._spec = spec
        self._lock_fd = lock_fd
        self._guarded: Guarded | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the server.

        Raises:
            UnavailableError: It ended, or did not answer in time. The message holds the end of its log.
        """
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{self._spec.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._stop()

    async def _start(self) -> None:
        spec = self._spec
        await asyncio.to_thread(spec.prepare)
        log_start = spec.log_path.stat().st_size if spec.log_path.exists() else 0
        self._guarded = await start_guarded(spec, lock_fd=self._lock_fd)
        patience = time.monotonic() + spec.ready_s
        while not await self._answers():
            code = self._guarded.process.returncode
            if code is not None:
                raise UnavailableError(
                    spec.name, f"ended with code {code} while starting: {log_tail(spec.log_path, start=log_start)} ({spec.log_path})"
                )
            if time.monotonic() > patience:
                raise UnavailableError(
                    spec.name, f"does not answer after {spec.ready_s:g} s: {log_tail(spec.log_path, start=log_start)} ({spec.log_path})"
                )
            await asyncio.sleep(0.02)
        PART_UP.labels(spec.name).set(1)

    async def _stop(self) -> None:
        PART_UP.labels(self._spec.name).set(0)
        if self._guarded is not None:
            guarded, self._guarded = self._guarded, None
            await asyncio.shield(guarded.stop())

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._spec.answers()
        except Exception:  # noqa: BLE001  # a server that fails a probe, in whatever way, does not answer; its keeper must go on
            return False

    async def _keep(self) -> None:
        """Starts the server again whenever it ends, with pauses that double while it does not stay up."""
        backoff_s = _FIRST_BACKOFF_S
        name = self._spec.name
        while True:
            since = time.monotonic()
            code = await self._watch()
            if time.monotonic() - since > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.warning("part ended", part=name, code=code, restart_in_s=round(backoff_s, 2), log=str(self._spec.log_path))
            ended = time.monotonic()
            await self._stop()
            PART_RESTARTS.labels(name).inc()
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, not a secret
            backoff_s = min(_LONGEST_BACKOFF_S, 2 * backoff_s)
            try:
                await self._start()
                _log.info("part is back", part=name, after_s=round(time.monotonic() - ended, 1))
            except (UnavailableError, OSError) as error:
                _log.warning("part does not start", part=name, error=str(error))

    async def _watch(self) -> int:
        """Returns the guard's exit code once it ends; until then keeps `aisle_part_up` true to what the server does."""
        if self._guarded is None:
            return -1
        ended = asyncio.ensure_future(self._guarded.process.wait())
        try:
            while True:
                done, _ = await asyncio.wait({ended}, timeout=_PROBE_EVERY_S)
                if done:
                    return ended.result()
                PART_UP.labels(self._spec.name).set(float(await self._answers()))
        finally:
            ended.cancel()
