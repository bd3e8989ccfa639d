from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).resolve().parents[3] / ".ci" / "audit.py"
_ADVISORY = {
    "id": "GHSA-1234",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "Broken.",
    "affected": [
        {
            "package": {"name": "leftover", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class _Service:
    """A service of advisories on loopback: PyPI's page for the probe, OSV's query for the audit."""

    def __init__(self) -> None:
        self.page = (200, json.dumps({"vulnerabilities": []}).encode())
        self.answer: dict[str, Any] = {}
        self.silent = threading.Event()
        self.ended = threading.Event()
        self.url = ""


@pytest.fixture
def service() -> Iterator[_Service]:
    """A running one, which knows of nothing."""
    state = _Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class's name
            self._send(*state.page)

        def do_POST(self) -> None:  # the base class's name
            self.rfile.read(int(self.headers["content-length"]))
            if state.silent.is_set():
                state.ended.wait(60)
            self._send(200, json.dumps(state.answer).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    state.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with one installed package, `leftover` 1.0."""
    folder = tmp_path / "leftover-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: leftover\nVersion: 1.0\n")
    (folder / "RECORD").write_text("")
    (folder / "INSTALLER").write_text("pip\n")
    return tmp_path


def _audit(url: str, installed: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(_SCRIPT), *options, "--probe", f"{url}/pypi/pip/json", "--path", str(installed)]
    done = subprocess.run([*command, "-s", "osv", "--osv-url", f"{url}/v1/query"], capture_output=True, text=True, check=False, timeout=150)
    return done.returncode, done.stdout + done.stderr


def test_an_audit_without_a_finding_passes_and_says_how_many(service: _Service, installed: Path) -> None:
    """Where the service knows nothing bad, the exit code is 0."""
    assert _audit(service.url, installed) == (0, "audit of dependencies: 1 packages, no known vulnerability\n")


def test_a_vulnerable_version_fails_and_is_named_with_its_fix(service: _Service, installed: Path) -> None:
    """A known vulnerability is told with package, version, advisory and the version that mends it; exit 1."""
    service.answer = {"vulns": [_ADVISORY]}
    assert _audit(service.url, installed) == (1, "audit of dependencies: leftover 1.0: GHSA-1234, fixed in 1.1\n")


@pytest.mark.parametrize(
    ("page", "words"), [((404, b""), "answers 404"), ((200, b"<html>"), "than JSON"), ((200, b"{}"), "without advisories")]
)
def test_a_mirror_without_advisories_is_skipped_and_named(service: _Service, installed: Path, page: tuple[int, bytes], words: str) -> None:
    """Where something answers that is no such service, the audit is skipped with the reason; with --required that fails."""
    service.page = page
    code, output = _audit(service.url, installed)
    assert (code, "skipped" in output, words in output) == (0, True, True), output
    code, output = _audit(service.url, installed, "--required")
    assert (code, "impossible" in output) == (1, True), output


def test_no_network_is_skipped_and_named(installed: Path) -> None:
    """Where nothing listens, the audit is skipped with the reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, output = _audit(f"http://127.0.0.1:{free.getsockname()[1]}", installed)
    assert (code, "skipped" in output, "refused" in output) == (0, True, True), output


def test_a_service_that_hangs_does_not_hang_the_check(service: _Service, installed: Path) -> None:
    """A service that answers the probe and then nothing is given up after the time that the audit may take."""
    service.silent.set()
    code, output = _audit(service.url, installed, "--seconds", "3")
    assert (code, "skipped" in output) == (0, True), output


def test_a_fault_of_the_tool_is_no_skip(service: _Service, installed: Path) -> None:
    """Where the service answers and pip-audit fails all the same, the check fails and shows its words."""
    code, output = _audit(service.url, installed, "--no-such-option")
    assert (code, "no-such-option" in output) == (1, True), output
