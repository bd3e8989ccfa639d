"""LitServe: batches of up to 32 after at most 2 ms. Started as a program.

Source: lightning.ai/docs/litserve, "LitAPI" and "Batching". Parameters have to be named `request` and `output`.
"""

from __future__ import annotations

import os
from typing import Any

import litserve
from text import Encoder


class EmbedApi(litserve.LitAPI):  # type: ignore[misc]  # of another environment
    """Texts to vectors."""

    def setup(self, device: str) -> None:
        """Loads the model once in each worker."""
        del device
        self.encoder = Encoder()

    def decode_request(self, request: dict[str, str]) -> str:
        """Takes the text out of the body."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """Keeps texts as they are; the default would make arrays of them."""
        return inputs

    def predict(self, texts: list[str]) -> Any:
        """Embeds a batch."""
        return self.encoder.embed(texts)

    def unbatch(self, output: Any) -> Any:
        """One row a request."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        """Makes JSON of a row."""
        return {"vector": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(EmbedApi(max_batch_size=32, batch_timeout=0.002, api_path="/embed"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="warning")
