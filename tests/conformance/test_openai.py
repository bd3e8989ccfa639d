"""OpenAI's own client against the running server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import numpy as np
import openai
import pytest
from tokenizers import Tokenizer

from server.domain import TenantId
from server.inference import BuiltEncoder
from server.store import Database
from tests.fixtures_server import Door, new_key

TEXTS = ["a barn by the river", "a cake with three tiers", "wedding photographer, documentary style"]
SAME = 1e-5
"""Two calls may be answered by two runtimes, whose last digits differ."""


@pytest.fixture
async def client(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client as its users make it, but for the address."""
    url = f"http://{door.serving.http_address}/compat/openai/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=door.key, max_retries=0) as opened:
        yield opened


def vectors_of(reply: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    """Returns the vectors of a reply."""
    return np.array([one.embedding for one in reply.data], np.float32)


async def native(door: Door, texts: list[str]) -> np.ndarray:
    """Returns the vectors that EmbedTexts gives."""
    reply = (await door.rest("POST", "/v1/embeddings:embedTexts", json={"texts": texts})).json()
    return np.stack([np.frombuffer(base64.b64decode(one["vector"]), "<f4") for one in reply["embeddings"]])


async def test_both_formats_hold_the_native_vectors(client: openai.AsyncOpenAI, door: Door) -> None:
    """Vectors asked for in base64, which the client does by itself, and as floats are those of EmbedTexts, with the tokens counted."""
    wanted = await native(door, TEXTS)
    by_default = await client.embeddings.create(model="text_encoder", input=TEXTS)
    as_floats = await client.embeddings.create(model="text_encoder", input=TEXTS, encoding_format="float")
    for reply in (by_default, as_floats):
        assert vectors_of(reply) == pytest.approx(wanted, abs=SAME)
        assert [one.index for one in reply.data] == [0, 1, 2]
        assert reply.usage.prompt_tokens == reply.usage.total_tokens > len(TEXTS)
        assert reply.model.startswith("text_encoder@")
    raw = await client.embeddings.create(model="text_encoder", input=TEXTS[0], encoding_format="base64")
    assert isinstance(raw.data[0].embedding, str)


async def test_fewer_dimensions_are_a_part_of_unit_length(client: openai.AsyncOpenAI, door: Door) -> None:
    """`dimensions` gives the first numbers of the vector, stretched to unit length."""
    (whole,) = await native(door, TEXTS[:1])
    short = await client.embeddings.create(model="text_encoder", input=TEXTS[0], dimensions=64)
    vector = np.array(short.data[0].embedding)
    assert vector.shape == (64,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector == pytest.approx(whole[:64] / np.linalg.norm(whole[:64]), abs=SAME)


async def test_tokens_of_the_models_tokenizer_mean_their_text(client: openai.AsyncOpenAI, door: Door, encoder: BuiltEncoder) -> None:
    """Arrays of the model's own tokens, one or several, give the vectors of the texts that they were made from."""
    tokenizer = Tokenizer.from_file(str(encoder.tokenizer))
    tokens = [tokenizer.encode(text).ids for text in TEXTS]
    reply = await client.embeddings.create(model="text_encoder", input=tokens, encoding_format="float")
    assert vectors_of(reply) == pytest.approx(await native(door, TEXTS), abs=SAME)
    one = await client.embeddings.create(model="text_encoder", input=tokens[0], encoding_format="float")
    assert vectors_of(one)[0] == pytest.approx(vectors_of(reply)[0], abs=SAME)


async def test_tokens_of_another_tokenizer_are_refused(client: openai.AsyncOpenAI) -> None:
    """Token arrays that this model's tokenizer does not make, as those of OpenAI's models, are refused rather than misread."""
    with pytest.raises(openai.BadRequestError, match="tokenizer") as caught:
        await client.embeddings.create(model="text_encoder", input=[[64, 41606, 555, 279, 15140]])
    assert caught.value.body == {
        "message": caught.value.body["message"],
        "type": "invalid_request_error",
        "param": "input[0]",
        "code": None,
    }


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": "a", "dimensions": 385}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_wrong_arguments_are_named(client: openai.AsyncOpenAI, arguments: dict[str, object], param: str) -> None:
    """A wrong argument is a BadRequestError whose `param` names it."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model="text_encoder", **arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.body["param"] == param  # type: ignore[index]  # a dict


async def test_models_are_listed_and_others_do_not_exist(client: openai.AsyncOpenAI) -> None:
    """/models lists the encoder by name and by version, and another name is a NotFoundError with OpenAI's code."""
    names = [model.id async for model in client.models.list()]
    assert names[0] == "text_encoder"
    assert (await client.models.retrieve(names[1])).id == names[1]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.embeddings.create(model="text-embedding-3-small", input="a")
    assert caught.value.code == "model_not_found"


async def test_keys_are_asked_for_and_need_the_scope(client: openai.AsyncOpenAI, database: Database, tenant_id: TenantId) -> None:
    """An unknown key is an AuthenticationError, one without the scope `embeddings` a PermissionDeniedError."""
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.with_options(api_key=f"aisle_shop_{'a' * 40}").embeddings.create(model="text_encoder", input="a")
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        await client.with_options(api_key=await new_key(database, tenant_id, "events")).embeddings.create(model="text_encoder", input="a")
