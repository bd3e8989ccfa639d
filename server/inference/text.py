"""Texts to unit vectors: tokenizer, micro-batcher, router.

Shapes: B texts, T tokens of a batch's longest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.errors import CorruptDataError, DeadlineExceededError, InvalidFieldError
from server.inference.batcher import Batcher, Limits
from server.inference.contract import TEXT_DIMENSION, TEXT_ENCODER
from server.inference.encoder import BuiltEncoder
from server.inference.router import Router

MAX_CHARACTERS = 32_768
"""Longest text that is read. It holds far more tokens than any encoder takes; a longer one would only cost time to cut."""

_INLINE_CHARACTERS = 4_096
"""Texts of at most this many characters together are tokenized at once, in about 0.2 ms; more go to a thread."""
_CHUNK = 256
"""Texts tokenized between two looks at the deadline."""
_WINDOW = 64
"""Texts of one call that wait for the model at once, so that a call with thousands does not keep others out."""


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """One row a text, in the order asked."""

    vectors: NDArray[np.float32]
    """(B, 384), rows of unit length."""
    token_counts: tuple[int, ...]
    """Tokens that were read, the two special ones included."""
    truncated: tuple[bool, ...]
    """Whether the text was longer than that."""
    runtime: str
    """`triton` or `local`; joined by `+` when both answered a part."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    truncated: bool


class TextEncoder:
    """Embeds texts with the model `text_encoder` of a router. A text's vector does not depend on the texts beside it."""

    def __init__(self, router: Router, encoder: BuiltEncoder, tokenizer: Tokenizer, *, workers: int, limits: Limits | None = None) -> None:
        self.version = encoder.version
        self.max_tokens = encoder.max_tokens
        self.vocabulary = int(tokenizer.get_vocab_size())
        """Token ids are below it."""
        self._router = router
        self._tokenizer = tokenizer
        self._batcher: Batcher[list[int], tuple[NDArray[np.float32], str]] = Batcher(self._run, workers=workers, limits=limits)

    async def embed(self, texts: Sequence[str], *, deadline: float, truncate: bool = True) -> TextEmbeddings:
        """Returns the texts' vectors.

        Args:
            texts: Any number, the empty text too: its vector is that of the two special tokens.
            deadline: time.monotonic() by which the answer is wanted.
            truncate: Whether a text longer than `max_tokens` is cut there. Otherwise it is refused.

        Raises:
            InvalidFieldError: A text is not valid Unicode, or too long.
            OverloadedError: Too much waits for the model.
            DeadlineExceededError: The deadline passed.
            UnavailableError: No runtime works.
        """
        tokens = [text for start in range(0, len(texts), _CHUNK) for text in await self._tokenize(texts, start, deadline)]
        if not truncate:
            self._refuse_truncated(tokens)
        vectors = np.empty((len(tokens), TEXT_DIMENSION), np.float32)  # (B, D)
        runtimes: set[str] = set()
        for start in range(0, len(tokens), _WINDOW):
            window = [text.ids for text in tokens[start : start + _WINDOW]]
            answers = await self._batcher.submit(window, [len(ids) for ids in window], deadline)
            for row, (vector, runtime) in enumerate(answers, start):
                vectors[row] = vector
                runtimes.add(runtime)
        counts = tuple(len(text.ids) for text in tokens)
        return TextEmbeddings(vectors, counts, tuple(text.truncated for text in tokens), "+".join(sorted(runtimes)))

    def text_of(self, ids: Sequence[int], field: str) -> str:
        """Returns a text that has exactly these tokens.

        Token numbers mean nothing without their tokenizer, and those of another are numbers too. So only what this one could have made is
        read: its special tokens at both ends, and between them tokens that come back when their text is tokenized.

        Args:
            ids: As this model's tokenizer gives them for one text, special tokens included.
            field: What errors name.

        Raises:
            InvalidFieldError: They are not.
        """
        ends: list[int] = self._tokenizer.encode("").ids
        inner = list(ids)[1:-1]
        if [*ids[:1], *ids[-1:]] == ends and all(0 <= token < self.vocabulary for token in inner):
            text = self._tokenizer.decode(inner, skip_special_tokens=False)
            if self._tokenizer.encode(text).ids == list(ids):
                return str(text)
        raise InvalidFieldError(
            field,
            f"holds tokens that the tokenizer of {TEXT_ENCODER.name} does not make for any text of up to {self.max_tokens} tokens, its "
            f"special tokens {ends} at the ends; send texts, which every client can (LangChain: check_embedding_ctx_length=False)",
        )

    async def close(self) -> None:
        """Fails what waits and ends what runs."""
        await self._batcher.close()

    async def _tokenize(self, texts: Sequence[str], start: int, deadline: float) -> list[_Tokens]:
        if time.monotonic() >= deadline:
            raise DeadlineExceededError("the deadline passed before the texts were read")
        chunk = texts[start : start + _CHUNK]
        if sum(map(len, chunk)) <= _INLINE_CHARACTERS:
            return self._encode(chunk, start)
        return await asyncio.to_thread(self._encode, chunk, start)

    def _refuse_truncated(self, tokens: list[_Tokens]) -> None:
        for index, text in enumerate(tokens):
            if text.truncated:
                limit = f"{self.max_tokens} tokens (or {MAX_CHARACTERS} characters)"
                raise InvalidFieldError(f"texts[{index}]", f"is longer than {limit}; shorten it, or allow truncation")

    def _encode(self, texts: Sequence[str], start: int) -> list[_Tokens]:
        read = [text[:MAX_CHARACTERS] for text in texts]
        try:
            encodings: list[Any] = self._tokenizer.encode_batch_fast(read)
        except (TypeError, UnicodeError):
            for index, text in enumerate(texts, start):
                _check_unicode(index, text)
            raise
        return [
            _Tokens(encoding.ids, truncated=bool(encoding.overflowing) or len(text) > MAX_CHARACTERS)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    async def _run(self, rows: list[list[int]], deadline: float) -> list[tuple[NDArray[np.float32], str]]:
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)  # (B, T)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        outputs, runtime = await self._router.infer(TEXT_ENCODER.name, TEXT_ENCODER, inputs, deadline=deadline)
        return [(vector, runtime) for vector in outputs["embedding"]]


def _check_unicode(index: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidFieldError(f"texts[{index}]", f"is not valid Unicode at character {error.start}; send no lone surrogates") from error


def read_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer of a built encoder.

    Raises:
        CorruptDataError: The file is no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises bare Exception
        raise CorruptDataError(f"{path} is no tokenizer: {error}; `aisle models build` makes it again", path=path) from error
