"""`/embeddings` and `/models`, with OpenAI's bodies and errors."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import numpy as np
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from aisle.v1 import embedding_service_pb2 as pb
from server.compat.exchange import Body, Exchange, json_reply, only, read_json
from server.domain.access import Principal
from server.errors import InvalidFieldError, NotFoundError
from server.gateway.http import check_json
from server.gateway.replies import Reply
from server.inference import TEXT_DIMENSION, TEXT_ENCODER, TextEncoder
from server.interceptors.call import Call

PREFIX = "/compat/openai/v1"

MAX_INPUTS = 2048
_AT_ONCE = 1024
"""Texts of one EmbedTexts call."""

_ERRORS: dict[int, tuple[str, str | None]] = {
    code_pb2.UNAUTHENTICATED: ("invalid_request_error", "invalid_api_key"),
    code_pb2.PERMISSION_DENIED: ("invalid_request_error", "insufficient_permissions"),
    code_pb2.RESOURCE_EXHAUSTED: ("rate_limit_error", "rate_limit_exceeded"),
}
"""gRPC code -> OpenAI's type and code, where they are not those of a wrong request or of a fault."""


class CreateEmbedding(Body):
    """The request's body. `input` is read apart, as its four forms need messages of their own."""

    model_config = ConfigDict(alias_generator=None)

    input: Any
    model: Annotated[str, Field(min_length=1, max_length=200)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=TEXT_DIMENSION)] = TEXT_DIMENSION


class OpenAiApi:
    """OpenAI's embeddings, made by the text encoder."""

    def __init__(self, encoder: TextEncoder, principal: Callable[[Call], Awaitable[Principal]], *, created_s: int) -> None:
        """Stores its arguments.

        Args:
            encoder: Makes the vectors; its tokenizer reads token arrays.
            principal: Says who a call's credential is.
            created_s: When the encoder was built, in seconds since 1970.
        """
        self._encoder = encoder
        self._principal = principal
        self._created_s = created_s

    async def identify(self, exchange: Exchange) -> None:
        """Does nothing: OpenAI's clients send `authorization: Bearer KEY`, as ours do."""

    async def answer(self, exchange: Exchange) -> Reply:
        """Answers one request.

        Raises:
            NotFoundError: Nothing is at the path, or the model does not exist.
        """
        if exchange.path == "/embeddings":
            only(exchange, "POST")
            check_json(exchange.headers)
            return await self._embed(exchange)
        if exchange.path == "/models" or exchange.path.startswith("/models/"):
            only(exchange, "GET")
            await self._principal(exchange.call)
            return self._models(unquote(exchange.path.removeprefix("/models").removeprefix("/")))
        raise NotFoundError(exchange.path[:100], f"nothing is at {exchange.path[:100]!r}; /embeddings and /models are")

    @property
    def _version(self) -> str:
        return f"{TEXT_ENCODER.name}@{self._encoder.version}"

    def _models(self, name: str) -> Reply:
        models = [
            {"id": one, "object": "model", "created": self._created_s, "owned_by": "aisle"} for one in (TEXT_ENCODER.name, self._version)
        ]
        if not name:
            return json_reply({"object": "list", "data": models})
        self._check_model(name)
        return json_reply(next(one for one in models if one["id"] == name))

    def _check_model(self, name: str) -> None:
        if name not in {TEXT_ENCODER.name, self._version}:
            raise NotFoundError(f"models/{name[:100]}", f"the model {name[:100]!r} does not exist; use {TEXT_ENCODER.name!r}")

    async def _embed(self, exchange: Exchange) -> Reply:
        body = read_json(CreateEmbedding, exchange.body)
        self._check_model(body.model)
        texts = self._texts(body.input)
        embedded: list[pb.EmbedTextsResponse.Embedding] = []
        for start in range(0, len(texts), _AT_ONCE):
            request = pb.EmbedTextsRequest(texts=texts[start : start + _AT_ONCE])
            embedded += (await exchange.ask("EmbeddingService/EmbedTexts", request, pb.EmbedTextsResponse)).embeddings
        vectors = shortened(np.frombuffer(b"".join(one.vector for one in embedded), "<f4").reshape(len(texts), -1), body.dimensions)
        tokens = sum(one.token_count for one in embedded)
        data = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            | ({"truncated": True} if one.truncated else {})
            for index, (vector, one) in enumerate(zip(vectors, embedded, strict=True))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_reply({"object": "list", "data": data, "model": self._version, "usage": usage})

    def _texts(self, given: Any) -> list[str]:
        """Returns the texts of any of the four forms that an input has.

        Raises:
            InvalidFieldError: It is none of them, empty, or too long.
        """
        one = isinstance(given, str) or (isinstance(given, list) and bool(given) and all(isinstance(part, int) for part in given))
        inputs = [given] if one else given
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_INPUTS:
            raise InvalidFieldError("input", f"must be a text, an array of tokens, or 1 to {MAX_INPUTS} of either")
        return [self._text(part, "input" if one else f"input[{index}]") for index, part in enumerate(inputs)]

    def _text(self, part: Any, field: str) -> str:
        if isinstance(part, str):
            if not part:
                raise InvalidFieldError(field, "must not be the empty text; leave it out")
            return part
        if isinstance(part, list) and part and all(isinstance(token, int) and not isinstance(token, bool) for token in part):
            return self._encoder.text_of(part, field)
        raise InvalidFieldError(field, "must be a text or an array of whole numbers, the tokens of one text")

    def refusal(self, status: Status, http_status: int) -> Reply:
        """Returns an error in OpenAI's form."""
        kind, code = _ERRORS.get(status.code, ("invalid_request_error" if http_status < 500 else "server_error", None))
        if status.code == code_pb2.NOT_FOUND and status.message.startswith("the model"):
            code = "model_not_found"
        error = {"message": status.message, "type": kind, "param": _param(status), "code": code}
        return json_reply({"error": error}, http_status)


def shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Returns the first `dimensions` of unit vectors, (B, D), stretched to unit length again; a part that is all 0 stays so."""
    if dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.where(lengths > 0, lengths, 1), np.float32)


def _written(vector: NDArray[np.float32], encoding: str) -> str | Sequence[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _param(status: Status) -> str | None:
    """Returns the field that is wrong, by the name it has in OpenAI's body."""
    violation = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(violation.DESCRIPTOR):
            detail.Unpack(violation)
            return str(violation.field_violations[0].field).replace("texts", "input")
    return None
