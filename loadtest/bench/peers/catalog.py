"""The peers: what each installs, how it is started, what it is asked and where its answer lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_MODEL = ("onnxruntime==1.31.1", "tokenizers==0.23.3")
_WEB = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")


@dataclass(frozen=True, slots=True)
class Peer:
    """One server that is measured beside Aisle."""

    name: str
    kind: Literal["embed", "recommend"]
    requirements: tuple[str, ...]
    """Pinned; none: it runs in Aisle's own environment."""
    command: tuple[str, ...]
    """Started in the folder of the peers' files, or in its own where it has `files`. `{bin}` and `{port}` are filled in."""
    path: str = "/embed"
    body: Callable[[str], Any] = lambda text: {"text": text}
    answer: Callable[[Any], Sequence[float]] = lambda reply: reply["vector"]
    """The vector of a reply's JSON, or its items."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Settings files, by name, that its start needs."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def request(self, port: int, subject: str) -> bytes:
        """Returns a whole HTTP/1.1 request for a text, or for a user's number."""
        if self.kind == "recommend":
            return f"GET {self.path}{subject} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        return post(port, self.path, self.body(subject))


def post(port: int, path: str, body: Any, headers: str = "") -> bytes:
    """Returns a whole HTTP/1.1 request with a JSON body; `headers` are whole lines."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


def _mlserver_settings() -> dict[str, str]:
    settings = {"debug": False, "host": "127.0.0.1", "http_port": "{port}", "parallel_workers": 1, "metrics_port": "{port+1}"}
    settings["grpc_port"] = "{port+2}"
    model = {"name": "embedder", "implementation": "mlserver_onnx.Embedder", "max_batch_size": 32, "max_batch_time": 0.002}
    return {"settings.json": json.dumps(settings), "model-settings.json": json.dumps(model)}


def _infer(text: str) -> Any:
    return {"inputs": [{"name": "texts", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "str"}, "data": [text]}]}


PEERS = (
    Peer("FastAPI", "embed", (*_WEB, *_MODEL), ("{bin}/uvicorn", "fastapi_onnx:app", "--port", "{port}", "--log-level", "warning")),
    Peer("LitServe", "embed", ("litserve==0.2.19", *_MODEL), ("{bin}/python", "litserve_onnx.py")),
    Peer(
        "BentoML",
        "embed",
        ("bentoml==1.4.39", *_MODEL),
        ("{bin}/bentoml", "serve", "bentoml_onnx:Embedder", "--host", "127.0.0.1", "--port", "{port}"),
        body=lambda text: {"texts": [text]},
        answer=lambda reply: reply[0],
        environment={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Peer(
        "MLServer",
        "embed",
        ("mlserver==1.7.1", "uvloop<0.22", *_MODEL),
        ("{bin}/mlserver", "start", "."),
        path="/v2/models/embedder/infer",
        body=_infer,
        answer=lambda reply: reply["outputs"][0]["data"],
        files=_mlserver_settings(),
    ),
    Peer(
        "Ray Serve",
        "embed",
        ("ray[serve]==2.60.0", *_MODEL),
        ("{bin}/python", "ray_serve_onnx.py"),
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everywhere: a node that is its own cluster, on 127.0.0.1
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        },
    ),
    Peer("Triton", "embed", (), ("{bin}/python", "-m", "loadtest.bench.peers.servers.triton_direct")),
    Peer(
        "implicit",
        "recommend",
        ("implicit==0.7.3", *_WEB),
        ("{bin}/uvicorn", "implicit_als:app", "--port", "{port}", "--log-level", "warning"),
        path="/recommend/",
        answer=lambda reply: reply["items"],
    ),
    Peer(
        "NumPy and Redis",
        "recommend",
        ("numpy==2.4.6", "scipy==1.17.1", "redis[hiredis]==8.1.0", *_WEB),
        ("{bin}/uvicorn", "numpy_redis:app", "--port", "{port}", "--log-level", "warning"),
        path="/recommend/",
        answer=lambda reply: reply["items"],
    ),
)

SERVERS = Path(__file__).resolve().parent / "servers"
