"""FastAPI: a plain `def` endpoint, which FastAPI runs in its thread pool, and a response model. Started by `uvicorn fastapi_onnx:app`.

Source: fastapi.tiangolo.com, "First steps", "Response model", "Concurrency and async / await".
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel
from text import Encoder

app = FastAPI()
encoder = Encoder()


class Request(BaseModel):
    """A text."""

    text: str


class Reply(BaseModel):
    """Its vector."""

    vector: list[float]


@app.post("/embed")
def embed(request: Request) -> Reply:
    """Embeds one text."""
    return Reply(vector=encoder.embed([request.text])[0].tolist())
