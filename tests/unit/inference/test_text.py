"""Texts of every kind become unit vectors, or an error that names the text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import CorruptDataError, DeadlineExceededError, InvalidFieldError
from server.inference import BuiltEncoder, Inference, TextEncoder, open_inference
from tests.model_factories import tiny_bert
from training.text_encoder import build_text_encoder

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def soon(seconds: float = 60.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltEncoder:
    """An encoder with random weights that takes 48 tokens."""
    folder = tmp_path_factory.mktemp("encoder")
    return build_text_encoder(tiny_bert(folder / "tiny"), folder / "cache", lambda _message, _done: None)


@pytest.fixture(scope="module")
async def inference(built: BuiltEncoder) -> AsyncIterator[Inference]:
    """The encoder on the local runtime."""
    async with open_inference(triton_url="", encoder=built, model_repository=REPOSITORY, threads=2) as opened:
        yield opened


@pytest.fixture
def encoder(inference: Inference) -> TextEncoder:
    """The text encoder."""
    return inference.encoder


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "a\0b",
        "\x07\x1b[0m",
        "💒👩‍❤️‍👨",
        "﷽",
        "e\u0301\u0301\u0301",
        "\u202eabc\u200b",
        "日本の結婚式場",
        "[PAD] [CLS] [SEP]",
        "a" * 5000,
    ],
    ids=["empty", "space", "nul", "nul inside", "control", "emoji", "ligature", "marks", "direction", "unbroken", "special", "one word"],
)
async def test_any_text_has_a_vector(encoder: TextEncoder, text: str) -> None:
    """Odd texts are embedded like any other: a finite vector of length one."""
    result = await encoder.embed([text], deadline=soon())
    assert result.vectors.shape == (1, 384)
    assert result.vectors.dtype == np.float32
    assert float(np.linalg.norm(result.vectors[0])) == pytest.approx(1, abs=1e-5)


@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=[]), max_size=40), max_size=8))
def test_any_unicode_is_embedded_or_refused_by_name(texts: list[str], built: BuiltEncoder) -> None:
    """For any strings: one unit vector each, or InvalidFieldError naming a text that holds a lone surrogate."""

    async def check() -> None:
        async with open_inference(triton_url="", encoder=built, model_repository=REPOSITORY, threads=1) as opened:
            try:
                result = await opened.encoder.embed(texts, deadline=soon())
            except InvalidFieldError as error:
                place = int(error.field.removeprefix("texts[").removesuffix("]"))
                assert any("\ud800" <= character <= "\udfff" for character in texts[place])
                return
        assert np.allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
        assert len(result.vectors) == len(result.token_counts) == len(result.truncated) == len(texts)

    asyncio.run(check())


async def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    """An empty list is answered with an empty matrix."""
    result = await encoder.embed([], deadline=soon())
    assert result.vectors.shape == (0, 384)
    assert result.token_counts == ()


async def test_a_long_text_is_cut_and_says_so(encoder: TextEncoder) -> None:
    """A megabyte is embedded as its first tokens, the others of the call whole."""
    result = await encoder.embed(["word " * 200_000, "word", "word " * 46, "word " * 47], deadline=soon())
    assert result.token_counts == (48, 3, 48, 48)
    assert result.truncated == (True, False, False, True)
    np.testing.assert_allclose(result.vectors[0], result.vectors[2], atol=1e-6)


@pytest.mark.parametrize("text", ["word " * 47, " " * 1_000_000, "word " * 200_000], ids=["a token", "blanks", "a megabyte"])
async def test_a_long_text_is_refused_where_truncation_is_not_wanted(encoder: TextEncoder, text: str) -> None:
    """The error names the text's place and the limit."""
    with pytest.raises(InvalidFieldError, match=r"texts\[1\].*48 tokens"):
        await encoder.embed(["word", text], deadline=soon(), truncate=False)


async def test_a_lone_surrogate_is_refused_by_place(encoder: TextEncoder) -> None:
    """It is no Unicode text; the error says which text and where."""
    with pytest.raises(InvalidFieldError, match=r"texts\[2\].*character 3"):
        await encoder.embed(["word", "barn", "abc\ud800"], deadline=soon())


async def test_thousands_of_texts_in_one_call_keep_their_order(encoder: TextEncoder) -> None:
    """Each text's vector stands at its place, the same as alone, and a single text gets through meanwhile."""
    texts = [f"barn {number} " * (1 + number % 5) for number in range(2000)]
    many = asyncio.create_task(encoder.embed(texts, deadline=soon(120)))
    await asyncio.sleep(0.05)
    await encoder.embed(["cake"], deadline=soon(20))
    assert not many.done()
    result = await many
    for place in (0, 63, 64, 1234, 1999):
        alone = await encoder.embed([texts[place]], deadline=soon())
        assert float(alone.vectors[0] @ result.vectors[place]) >= 0.9999


async def test_a_passed_deadline_is_refused(encoder: TextEncoder) -> None:
    """Nothing is computed for a caller that no longer waits."""
    with pytest.raises(DeadlineExceededError):
        await encoder.embed(["word"], deadline=soon(-0.1))


async def test_a_deadline_that_passes_midway_ends_the_call(encoder: TextEncoder) -> None:
    """A call that cannot finish in its time ends with DeadlineExceededError, and the next is served."""
    with pytest.raises(DeadlineExceededError):
        await encoder.embed(["barn cake " * 20] * 20_000, deadline=soon(0.3))
    await encoder.embed(["word"], deadline=soon())


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
async def test_damaged_files_are_refused_at_start(built: BuiltEncoder, tmp_path: Path, name: str) -> None:
    """A file that lost its end is found by its checksum, and the error says how to make it again."""
    for file in built.onnx.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: -7 if file.name == name else None])
    damaged = BuiltEncoder(tmp_path / "model.onnx", tmp_path / "tokenizer.json", built.version, built.max_tokens)
    with pytest.raises(CorruptDataError, match="aisle models build"):
        async with open_inference(triton_url="", encoder=damaged, model_repository=REPOSITORY, threads=1):
            pass


async def test_runtime_triton_needs_a_url(built: BuiltEncoder) -> None:
    """Asking for Triton alone without one is a mistake of settings, named."""
    with pytest.raises(InvalidFieldError, match="AISLE_TRITON_URL"):
        async with open_inference(triton_url="", encoder=built, model_repository=REPOSITORY, threads=1, runtime="triton"):
            pass
