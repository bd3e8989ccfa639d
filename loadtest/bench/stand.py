"""What is measured: a server with embedded parts, a temporary data folder and the demo tenant, and the empty echo server beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtest.bench.measure import BenchError
from server.embedded.folders import running_instance

ROOT = Path(__file__).resolve().parents[2]
_START_S = 600.0
_STOP_S = 40.0
_AFTER_START_S = 4.0
"""What a start leaves to do in the background, such as loading catalogues and writing snapshots, is not a call's."""
_READY = re.compile(r"(?:aisle|gateway) ready (?:grpc=(\S+) )?http=http://(\S+)")


@dataclass(frozen=True, slots=True)
class Server:
    """A serving process tree."""

    grpc: str
    """Empty for a stand-alone gateway."""
    http: str
    process: psutil.Process


@dataclass(frozen=True, slots=True)
class Stand:
    """Everything that stands ready for a case."""

    server: Server
    echo: Server
    """Only its gRPC door."""
    encoder_files: tuple[Path, Path]
    """The text encoder's model and tokenizer."""
    parts: Mapping[str, str]
    """AISLE_DATABASE_URL, AISLE_REDIS_URL and AISLE_TRITON_URL of the server's embedded parts, for servers of a case's own."""

    @contextmanager
    def serve(self, *arguments: str, **settings: str) -> Iterator[Server]:
        """Runs another `aisle serve` on the same parts, whose time is counted apart from theirs."""
        with tempfile.TemporaryDirectory(prefix="aisle-bench-") as folder:
            doors = {"AISLE_GRPC_ADDRESS": f"127.0.0.1:{free_port()}", "AISLE_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
            with running(["serve", *arguments], {**self.parts, **doors, "AISLE_DATA_DIR": folder, **settings}) as server:
                time.sleep(_AFTER_START_S)
                yield server

    @contextmanager
    def gateway(self) -> Iterator[Server]:
        """Runs `aisle gateway` in front of the server. Who comes through it needs a key: only this machine's own callers do without."""
        with running(["gateway", "--upstream", self.server.grpc, "--http-port", "0"], {}) as door:
            yield door

    def key(self, scopes: str) -> str:
        """Returns a new key of the demo tenant.

        Raises:
            BenchError: None can be made.
        """
        command = [sys.executable, "-m", "server", "keys", "create", "--tenant", "demo", "--scopes", scopes, "--json"]
        done = subprocess.run(command, env=_environment(self.parts), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`aisle keys create` failed: {done.stderr.strip()[-300:]}")
        return str(json.loads(done.stdout)["key"])


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen"), str(ROOT / "clients" / "python")])
    return {**os.environ, "PYTHONPATH": path, **settings}


def free_port() -> int:
    """Returns a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(arguments: Sequence[str], settings: Mapping[str, str]) -> Iterator[Server]:
    """Runs `aisle …` until the block ends, in a session of its own so that the kernel shares the cores evenly with the client.

    Raises:
        BenchError: It is not ready within ten minutes.
    """
    environment = _environment(settings)
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "server", *arguments], env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            until = time.monotonic() + _START_S
            while True:
                said.seek(0)
                text = said.read()
                if ready := _READY.search(text):
                    break
                if child.poll() is not None or time.monotonic() > until:
                    raise BenchError(f"`aisle {' '.join(arguments)}` did not start:\n{text[-2000:]}")
                time.sleep(0.1)
            yield Server(ready[1] or "", ready[2], psutil.Process(child.pid))
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def echoing() -> Iterator[Server]:
    """Runs the echo server until the block ends."""
    with subprocess.Popen([sys.executable, "-m", "loadtest.bench.echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdin
        port = child.stdout.readline().strip()
        if not port:
            raise BenchError("the echo server did not start")
        yield Server(f"127.0.0.1:{port}", "", psutil.Process(child.pid))
        child.stdin.close()


@contextmanager
def standing(encoder_files: tuple[Path, Path]) -> Iterator[Stand]:
    """Starts all of it, in about two minutes, most of which trains the demo tenant's bundle."""
    with ExitStack() as stack:
        echo = stack.enter_context(echoing())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aisle-bench-")))
        settings = {"AISLE_DATA_DIR": str(folder), "AISLE_GRPC_ADDRESS": "127.0.0.1:0", "AISLE_HTTP_ADDRESS": "127.0.0.1:0"}
        server = stack.enter_context(running(["up"], {**settings, "AISLE_LOCAL_TENANT": "demo"}))
        instance = running_instance(folder)
        if instance is None:
            raise BenchError(f"the server that was started on {folder} is gone")
        urls = {f"AISLE_{name.upper()}": str(getattr(instance.parts, name)) for name in ("database_url", "redis_url", "triton_url")}
        yield Stand(server, echo, encoder_files, urls)
