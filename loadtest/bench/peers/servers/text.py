"""The text encoder as every peer calls it: tokenize, run, return unit vectors. PEER_MODEL and PEER_TOKENIZER name its files.

Shapes: B texts, T tokens of the longest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer


class Encoder:
    """One ONNX Runtime session on one thread a call, and the tokenizer. May be called from several threads."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more spin, and lose under load: the same setting for all
        self._session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(os.environ["PEER_TOKENIZER"])
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(256)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (B, 384), rows of unit length."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([one.ids for one in encoded], np.int64)  # (B, T)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        vectors: NDArray[np.float32] = self._session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors
