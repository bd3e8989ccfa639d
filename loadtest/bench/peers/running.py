"""Starts a peer, waits until it answers rightly, measures it in turn with Aisle, and ends it with its whole session."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.bench.measure import BenchError, Figures, total_cpu_s
from loadtest.bench.peers.catalog import SERVERS, Peer
from loadtest.bench.peers.environments import UnavailablePeerError, environment
from loadtest.bench.peers.http_loop import read_reply

_START_S = 180
_REPLY_S = 30


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that answers."""

    process: psutil.Process
    port: int


def free_ports(count: int) -> int:
    """Returns the first of `count` neighbouring loopback ports that nobody listened on a moment ago."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000)  # noqa: S311  # two runs at once should not meet
        with suppress(OSError):
            sockets = [socket.create_server(("127.0.0.1", first + n)) for n in range(count)]
            for one in sockets:
                one.close()
            return first
    raise BenchError("no neighbouring ports are free between 20000 and 32000")


def ask(port: int, request: bytes) -> Any:
    """Returns the JSON of one reply.

    Raises:
        ConnectionError: Nobody answers, or not with 200 and JSON.
    """

    async def once() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            writer.write(request)
            return await asyncio.wait_for(read_reply(reader), _REPLY_S)
        finally:
            writer.close()

    try:
        code, body = asyncio.run(once())
    except (OSError, TimeoutError) as error:
        raise ConnectionError(str(error)) from error
    if code != 200:
        raise ConnectionError(f"HTTP {code}: {body[:200]!r}")
    try:
        return json.loads(body)
    except ValueError:
        raise ConnectionError(f"no JSON: {body[:200]!r}") from None


def filled_in(text: str, bin_folder: Path, port: int) -> str:
    """Returns a command's or a settings file's text with `{bin}`, `{port}` and `{port+N}` replaced; a port in quotes becomes a number."""

    def number(match: re.Match[str]) -> str:
        return str(port + int(match[1] or 0))

    return re.sub(r'"?\{port(\+\d)?\}"?', number, text).replace("{bin}", str(bin_folder))


@contextmanager
def running(peer: Peer, cache: Path, environ: Mapping[str, str], sample: str) -> Iterator[Running]:
    """Runs a peer for the block. `sample` is a text, or a user's number, that it must answer before the block begins.

    Raises:
        UnavailablePeerError: It cannot be installed, does not start, or does not answer rightly within three minutes.
    """
    bin_folder = Path(sys.executable).parent
    if peer.requirements:
        bin_folder = environment(cache, peer.name.lower().replace(" ", "-"), peer.requirements) / "bin"
    port = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="aisle-peer-") as temporary:
        folder = Path(temporary)
        for name, content in peer.files.items():
            (folder / name).write_text(filled_in(content, bin_folder, port))
        log = folder / "log"
        where = os.environ["PYTHONPATH"] if not peer.requirements else str(SERVERS)
        values = {**os.environ, **environ, **peer.environment, "PEER_PORT": str(port), "PEER_FOLDER": temporary, "PYTHONPATH": where}
        command = [filled_in(one, bin_folder, port) for one in peer.command]
        cwd = folder if peer.files else SERVERS if peer.requirements else None
        values["OMP_NUM_THREADS"] = values["OPENBLAS_NUM_THREADS"] = "1"
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, cwd=cwd, env=values, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        try:
            process = psutil.Process(child.pid)
            found = _triton_port(child, log) if not peer.requirements else _answering(peer, child, port, sample, log)
            yield Running(process, found)
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asks a peer to end, and ends what is left of its session after ten seconds, in whatever process groups."""
    if child.stdin:
        child.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(3)
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(10)
    left = session(child.pid)
    child.kill()
    child.wait()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for one in left:
            with suppress(psutil.NoSuchProcess):
                end(one)
        left = psutil.wait_procs(left, timeout=5)[1]


def session(leader: int) -> list[psutil.Process]:
    """Returns the processes of the session that a process began, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line or "ERROR" in line), lines[-1] if lines else "it said nothing")


def _answering(peer: Peer, child: subprocess.Popen[bytes], port: int, sample: str, log: Path) -> int:
    until, reason = time.monotonic() + _START_S, "never asked"
    while time.monotonic() < until:
        if child.poll() is not None:
            raise UnavailablePeerError(f"ended with {child.returncode} at its start: {_tail(log)}")
        try:
            # Some answer an error, or nothing that fits, until their workers are there: only a right answer counts.
            peer.answer(ask(port, peer.request(port, sample)))[0]
        except (ConnectionError, KeyError, TypeError, IndexError) as error:
            reason = str(error)
            time.sleep(0.5)
        else:
            return port
    raise UnavailablePeerError(f"no right answer within {_START_S} s: {reason}; {_tail(log)}")


def _triton_port(child: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and child.poll() is None:
        if found := re.search(r"^127\.0\.0\.1:(\d+)$", log.read_text(errors="replace"), re.MULTILINE):
            return int(found[1])
        time.sleep(0.5)
    raise UnavailablePeerError(f"did not start: {_tail(log)}")


def http_calls(port: int, requests: Sequence[bytes], *, server: psutil.Process, in_flight: int, seconds: float) -> Figures:
    """Measures an HTTP server; the counterpart of `measure.calls`.

    Raises:
        BenchError: A reply was not 200, a connection broke, or nothing was answered.
    """
    job = {"host": "127.0.0.1", "port": port, "in_flight": in_flight, "seconds": seconds}
    job["requests"] = [base64.b64encode(one).decode() for one in requests]
    before = total_cpu_s(server)
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench.peers.http_loop"], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"http_loop failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found = json.loads(done.stdout)
    if found["errors"] or not found["count"]:
        raise BenchError(f"port {port}: {found['errors'] or 'answered nothing'}")
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], (total_cpu_s(server) - before) / found["count"] * 1e6)
