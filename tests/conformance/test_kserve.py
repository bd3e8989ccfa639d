"""Triton's own clients against the running server."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from server.domain import TenantId
from server.domain.ranking import RANKER_FEATURES
from server.inference import BuiltEncoder
from server.store import Database
from tests.fixtures_server import Door, new_key

TEXTS = ["a barn by the river", "a cake"]


def tokens_of(encoder: BuiltEncoder) -> dict[str, np.ndarray]:
    """Returns the text encoder's input for TEXTS."""
    encoded = [Tokenizer.from_file(str(encoder.tokenizer)).encode(text).ids for text in TEXTS]
    longest = max(map(len, encoded))
    ids = np.array([one + [0] * (longest - len(one)) for one in encoded], np.int64)
    mask = np.array([[1] * len(one) + [0] * (longest - len(one)) for one in encoded], np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def inputs_of(module: Any, tensors: dict[str, np.ndarray], **options: Any) -> list[Any]:
    """Returns a client's inputs."""
    made = []
    for name, values in tensors.items():
        tensor = module.InferInput(name, list(values.shape), "FP32" if values.dtype.kind == "f" else "INT64")
        tensor.set_data_from_numpy(values, **options)
        made.append(tensor)
    return made


class Clients:
    """Both clients under one face. They block, so a thread runs them: always the same, for the HTTP one is bound to it."""

    def __init__(self, door: Door, kind: str) -> None:
        self.kind = kind
        self.module: Any = by_grpc if kind == "grpc" else by_http
        self._thread = ThreadPoolExecutor(1)
        address = door.serving.grpc_address if kind == "grpc" else door.serving.http_address
        self.client = self._thread.submit(self.module.InferenceServerClient, address).result()
        self.headers = {"authorization": f"Bearer {door.key}"}

    async def ask(self, method: str, *args: Any, key: str | None = None, **options: Any) -> Any:
        """Returns what a method of the client gives; of gRPC as JSON, to compare."""
        # A new one each time: the HTTP client writes into it.
        headers = dict(self.headers) if key is None else ({"authorization": f"Bearer {key}"} if key else {})
        if self.kind == "grpc" and method.startswith("get_"):
            options["as_json"] = True
        call = partial(getattr(self.client, method), *args, headers=headers, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def close(self) -> None:
        """Closes the client and ends its thread."""
        self._thread.submit(self.client.close).result()
        self._thread.shutdown()

    async def infer(self, model: str, tensors: dict[str, np.ndarray], *, key: str | None = None, **options: Any) -> Any:
        """Returns an inference's result."""
        return await self.ask("infer", model, inputs_of(self.module, tensors), key=key, **options)


@pytest.fixture(params=["grpc", "http"])
def triton(door: Door, request: pytest.FixtureRequest) -> Any:
    """A client of each kind."""
    clients = Clients(door, request.param)
    yield clients
    clients.close()


async def test_inference_gives_the_native_vectors(triton: Clients, door: Door, encoder: BuiltEncoder) -> None:
    """The text encoder, asked with tokens, gives the vectors that EmbedTexts gives for the texts."""
    result = await triton.infer("text_encoder", tokens_of(encoder), request_id="r-1")
    native = (await door.rest("POST", "/compat/openai/v1/embeddings", json={"model": "text_encoder", "input": TEXTS})).json()
    wanted = np.array([one["embedding"] for one in native["data"]], np.float32)
    assert result.as_numpy("embedding") == pytest.approx(wanted, abs=1e-5)
    reply = result.get_response(as_json=True) if triton.kind == "grpc" else result.get_response()
    assert (reply["id"], reply["model_name"]) == ("r-1", "text_encoder")


def test_the_page_says_how_long_a_text_may_be(encoder: BuiltEncoder) -> None:
    """docs/compat.md has the text encoder's limit in the table of models, and where the embeddings of longer texts are spoken of."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text()
    assert f"at most {encoder.max_tokens} tokens a row" in page
    assert f"Texts longer than {encoder.max_tokens} tokens are cut" in page


async def test_the_tenants_ranker_is_a_model(triton: Clients) -> None:
    """The ranker of the tenant's live bundle is called `ranker`, its version is the bundle; outputs come as they are asked for."""
    metadata = await triton.ask("get_model_metadata", "ranker")
    assert metadata["versions"][0].startswith("b-")
    features = {"features": np.zeros((3, len(RANKER_FEATURES)), np.float32)}
    output = triton.module.InferRequestedOutput("probability")
    result = await triton.infer("ranker", features, outputs=[output], model_version=metadata["versions"][0])
    assert result.as_numpy("probability").shape == (3,)
    assert result.as_numpy("scores") is None


async def test_health_and_metadata(triton: Clients) -> None:
    """Live, ready and the server's metadata are open; models are ready and described for who has a key."""
    assert await triton.ask("is_server_live", key="")
    assert await triton.ask("is_server_ready", key="")
    assert (await triton.ask("get_server_metadata", key=""))["name"] == "aisle"
    assert await triton.ask("is_model_ready", "text_encoder")
    metadata = await triton.ask("get_model_metadata", "text_encoder")
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == [("input_ids", "INT64"), ("attention_mask", "INT64")]
    assert [int(size) for size in metadata["outputs"][0]["shape"]] == [-1, 384]
    index = await triton.ask("get_model_repository_index")
    models = index["models"] if triton.kind == "grpc" else index
    assert {one["name"] for one in models} == {"text_encoder", "ranker"}
    config = await triton.ask("get_model_config", "text_encoder")
    assert (config["config"] if triton.kind == "grpc" else config)["backend"] == "onnxruntime"


async def test_keys_and_tenants_are_kept_apart(triton: Clients, database: Database, tenant_id: TenantId, encoder: BuiltEncoder) -> None:
    """An unknown key and one without the scope infer nothing; another tenant has the text encoder, and no ranker of this one."""
    tokens = tokens_of(encoder)
    for key in (f"aisle_shop_{'a' * 40}", await new_key(database, tenant_id, "events")):
        with pytest.raises(InferenceServerException):
            await triton.infer("text_encoder", tokens, key=key)
    other = await new_key(database, tenant_id, "embeddings")
    assert (await triton.infer("text_encoder", tokens, key=other)).as_numpy("embedding").shape == (2, 384)
    assert not await triton.ask("is_model_ready", "ranker", key=other)
    with pytest.raises(InferenceServerException, match="does not exist"):
        await triton.infer("ranker", {"features": np.zeros((1, len(RANKER_FEATURES)), np.float32)}, key=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.full((2, 3), 2**40)}, "outside"),
        ({"attention_mask": np.zeros((2, 3), np.int64)}, "ones for tokens"),
        ({"attention_mask": np.ones((2, 4), np.int64)}, "must have shape"),
        ({"input_ids": np.ones((2, 300), np.int64), "attention_mask": np.ones((2, 300), np.int64)}, "at most"),
        ({"input_ids": np.ones((2, 3), np.float32)}, "send INT64"),
        ({"more": np.ones((2, 3), np.int64)}, "each once"),
    ],
)
async def test_wrong_tensors_are_named_before_a_model_sees_them(triton: Clients, change: dict[str, np.ndarray], message: str) -> None:
    """Wrong values, shapes, types and names are refused with what is wanted, and no runtime is left out because of them."""
    tensors = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}
    for _ in range(3):
        with pytest.raises(InferenceServerException, match=message):
            await triton.infer("text_encoder", {**tensors, **change})
    assert (await triton.infer("text_encoder", tensors)).as_numpy("embedding").shape == (2, 384)


async def test_tensors_as_json_and_compressed(door: Door, encoder: BuiltEncoder) -> None:
    """The HTTP client's other ways, tensors as JSON both ways and compressed bodies, give the same vectors."""
    clients = Clients(door, "http")
    binary = (await clients.infer("text_encoder", tokens_of(encoder))).as_numpy("embedding")
    inputs = inputs_of(by_http, tokens_of(encoder), binary_data=False)
    output = by_http.InferRequestedOutput("embedding", binary_data=False)
    as_json = await clients.ask("infer", "text_encoder", inputs, outputs=[output])
    packed = await clients.infer("text_encoder", tokens_of(encoder), request_compression_algorithm="gzip")
    assert as_json.as_numpy("embedding") == pytest.approx(binary, abs=1e-6)
    assert packed.as_numpy("embedding") == pytest.approx(binary, abs=1e-6)
    clients.close()


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        ({"inputs": []}, {}, "inputs"),
        ({"inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [[1], [2, 3]]}]}, {}, "equal lengths"),
        ({"inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [1.5, 2]}]}, {}, "whole numbers"),
        ({"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 2]}]}, {}, "2 values"),
        ({"inputs": [{"name": "input_ids", "shape": [1, -2], "datatype": "INT64", "data": [1, 2]}]}, {}, "shape"),
        ({"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}, {}, "INT64, FP32"),
        ({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}, {}, "0 bytes are left"),
        ({"inputs": []}, {"inference-header-content-length": "999"}, "within the body"),
    ],
)
async def test_malformed_requests_are_refused_in_the_protocols_form(
    door: Door, body: dict[str, Any], headers: dict[str, str], message: str
) -> None:
    """A malformed REST request is answered 400 with `{"error": TEXT}` that names the fault."""
    reply = await door.rest("POST", "/v2/models/text_encoder/infer", content=json.dumps(body).encode(), headers=headers)
    assert (reply.status_code, list(reply.json())) == (400, ["error"])
    assert message in reply.json()["error"]


async def test_paths_that_are_none_are_not_found(door: Door) -> None:
    """An unknown path is 404, another HTTP method 405, both in the protocol's form."""
    assert (await door.rest("GET", "/v2/nothing")).status_code == 404
    reply = await door.rest("GET", "/v2/models/text_encoder/infer")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
