"""The peers' harness, with a small HTTP server in a peer's place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtest.bench.measure import BenchError, Figures
from loadtest.bench.peers.__main__ import Pair, lines, written_between_markers
from loadtest.bench.peers.catalog import PEERS, SERVERS, Peer
from loadtest.bench.peers.environments import UnavailablePeerError, environment
from loadtest.bench.peers.running import ask, filled_in, http_calls, running, session

_ROOT = Path(__file__).resolve().parents[3]
_SERVER = """
import os, subprocess
subprocess.run(["sh", "-c", "sleep 300 &"])  # whose parent has ended
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if b"bad" in text else 200)
        if b"chunk" in text:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"7\\r\\n{\\"vecto\\r\\n8\\r\\nr\\": [4]}\\r\\n0\\r\\n\\r\\n")
        else:
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b'{"vector": [3]}')
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PEER_PORT"])), Handler).serve_forever()
"""
# pip is in every new environment, so nothing is fetched.
_PEER = Peer("small", "embed", ("pip",), ("{bin}/python", "server.py"), files={"server.py": _SERVER})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets child processes import what the tests can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for environments."""
    return tmp_path_factory.mktemp("peers")


def test_a_peer_is_installed_started_measured_and_ended(cache: Path) -> None:
    """Its own Python runs it once it answers rightly, both kinds of body are read, a failure stops the measurement, nothing is left."""
    with running(_PEER, cache, {}, "a") as server:
        assert Path(server.process.cmdline()[0]).is_relative_to(cache)
        assert ask(server.port, _PEER.request(server.port, "chunk")) == {"vector": [4]}
        requests = [_PEER.request(server.port, text) for text in ("a", "chunk")]
        found = http_calls(server.port, requests, server=server.process, in_flight=3, seconds=0.5)
        assert min(found.rps, found.p50_ms) > 0
        assert found.cpu_us >= 0  # the kernel counts in hundredths of a second
        assert {"sleep"} < {process.name() for process in session(server.process.pid)}
        with pytest.raises(BenchError, match="HTTP 503"):
            http_calls(server.port, [_PEER.request(server.port, "bad")], server=server.process, in_flight=1, seconds=0.2)
    assert not psutil.pid_exists(server.process.pid)
    assert not session(server.process.pid)


def test_a_peer_that_ends_at_its_start_says_why(cache: Path) -> None:
    """The last error of its log is the reason for which it is left out."""
    broken = Peer("small", "embed", ("pip",), ("{bin}/python", "-c", "raise SystemExit('no such model: Error')"))
    with pytest.raises(UnavailablePeerError, match="ended with 1 at its start: no such model"), running(broken, cache, {}, "a"):
        pass


def test_what_cannot_be_installed_is_said_and_not_left_half_made(tmp_path: Path) -> None:
    """The error of pip is the reason, and no folder remains that a later run would take for whole."""
    with pytest.raises(UnavailablePeerError, match="pip: "):
        environment(tmp_path, "none", (str(tmp_path / "no-such-wheel.whl"),))
    assert list(tmp_path.iterdir()) == []


def test_ports_are_filled_in_as_numbers() -> None:
    """A settings file gets numbers where it names ports."""
    assert filled_in('{"a": "{port}", "b": "{port+2}"}', Path("/x"), 5) == '{"a": 5, "b": 7}'
    assert filled_in("{bin}/python", Path("/x"), 5) == "/x/python"


def test_every_peer_is_pinned_and_has_its_file() -> None:
    """Requirements name one version, and the program that a peer's command starts is in the folder."""
    for peer in PEERS:
        assert all("==" in one or one == "uvloop<0.22" for one in peer.requirements), peer.name
    text = " ".join([*(part for peer in PEERS for part in (*peer.command, *peer.files.values()))])
    programs = [file.stem for file in SERVERS.glob("*.py") if file.stem not in {"__init__", "text"}]
    assert all(program in text for program in programs)


def test_the_table_says_who_is_first_and_who_was_left_out() -> None:
    """Ratios are Aisle over peer, medians over rounds; a peer that is ahead is named, and one left out has its reason."""
    slow, fast = Figures(10, 8.0, 100), Figures(20, 4.0, 50)
    fastapi, litserve, bento = PEERS[:3]
    table = lines(
        [fastapi, litserve], {(fastapi.name, 1): [Pair(fast, slow)], (litserve.name, 1): [Pair(slow, fast)]}, {bento.name: "no wheel"}
    )
    assert table[2:] == [
        "| FastAPI | 1 | 2.00 | 0.50 | 0.50 | Aisle |",
        "| LitServe | 1 | 0.50 | 2.00 | 2.00 | LitServe |",
        "| BentoML | | left out: no wheel | | | |",
    ]


def test_the_table_replaces_what_stood_between_the_markers() -> None:
    """Writing twice leaves one table and the rest of the page; a page without markers is refused."""
    page = "a\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nb\n"
    once = written_between_markers(page, ["x"])
    assert once == "a\n<!-- peers: begin -->\n\nx\n\n<!-- peers: end -->\nb\n"
    assert written_between_markers(once, ["x"]) == once
    with pytest.raises(BenchError, match="put them where"):
        written_between_markers("none", ["x"])
