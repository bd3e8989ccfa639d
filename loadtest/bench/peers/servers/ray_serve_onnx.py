"""Ray Serve: one replica with `@serve.batch`, and no access log, as the others have none. Started as a program; ends when its input closes.

Source: docs.ray.io, "Dynamic request batching", "Serve a text generator with request batching" and "Monitor your application".
"""

from __future__ import annotations

import os
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from text import Encoder

QUIET = {"log_level": "WARNING", "enable_access_log": False}


@serve.deployment(  # type: ignore[untyped-decorator]
    num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1}, logging_config=QUIET
)
class Embedder:
    """Texts to vectors."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)  # type: ignore[untyped-decorator]
    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Embeds a batch."""
        rows: list[list[float]] = self.encoder.embed(texts).tolist()
        return rows

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answers one request."""
        body = await request.json()
        return {"vector": await self.embed(body["text"])}


if __name__ == "__main__":
    # 100 MB of shared memory instead of a third of the machine's: replies go another way.
    ray.init(
        include_dashboard=False, num_cpus=1, object_store_memory=100_000_000, logging_level="warning", _temp_dir=os.environ["PEER_FOLDER"]
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])}, logging_config=QUIET)
    serve.run(Embedder.bind(), route_prefix="/embed")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()
