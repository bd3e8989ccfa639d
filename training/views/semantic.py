"""Text vectors of items, by the served encoder, cached by content.

Shapes: B texts, D = 384 dimensions.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS
from server.errors import CorruptDataError
from server.inference.text import TextEncoder
from training.data import Progress

FloatArray: TypeAlias = NDArray[np.float32]

_CHUNK = 1024
"""Texts a cached file holds: what an interruption can lose."""

_PATIENCE_S = 600.0
"""Deadline of one chunk; a busy small machine encodes some 100 texts a second."""


async def encode_texts(encoder: TextEncoder, texts: Sequence[str], *, cache_dir: Path | None, progress: Progress) -> FloatArray:
    """Returns the texts' vectors, float32, (B, D), unit rows; zero for empty texts. Equal texts are encoded once.

    Args:
        encoder: The served encoder.
        texts: In any order.
        cache_dir: Finished chunks are kept below it and found again, so an interrupted run resumes. None keeps nothing.
        progress: Told about each step.
    """
    distinct = sorted({text for text in texts if text})
    row = {text: place for place, text in enumerate(distinct)}
    vectors = np.zeros((len(distinct) + 1, VIEW_DIMENSIONS), np.float32)  # the last row stays zero: the empty text
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        vectors[start : start + len(chunk)] = await _encode_chunk(encoder, chunk, cache_dir)
        progress("encoding texts of items", (start + len(chunk)) / len(distinct))
    return vectors[[row.get(text, len(distinct)) for text in texts]] if texts else np.zeros((0, VIEW_DIMENSIONS), np.float32)


async def _encode_chunk(encoder: TextEncoder, texts: list[str], cache_dir: Path | None) -> FloatArray:
    if cache_dir is None:
        return (await encoder.embed(texts, deadline=time.monotonic() + _PATIENCE_S)).vectors
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    path = cache_dir / "text_vectors" / encoder.version / f"{digest[:32]}.npy"
    if path.exists():
        return _read(path, len(texts))
    vectors = (await encoder.embed(texts, deadline=time.monotonic() + _PATIENCE_S)).vectors
    with suppress(OSError):  # a cache that is full or closed costs time in the next run, not this one
        _keep(path, vectors)
    return vectors


def _keep(path: Path, vectors: FloatArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as handle:
            np.save(handle, vectors)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path, texts: int) -> FloatArray:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"{path} is damaged; delete it and run again", part=str(path)) from error
    if vectors.shape != (texts, VIEW_DIMENSIONS):
        raise CorruptDataError(f"{path} holds {vectors.shape}; delete it and run again", part=str(path))
    return np.asarray(vectors, np.float32)
