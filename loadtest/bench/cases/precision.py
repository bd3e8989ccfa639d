"""The served int8 text encoder beside its float32 original: processor time of a text, and that a text's vector is the same in any batch.

Offered where the original's weights are installed, which building the encoder needs and serving does not.
"""

from __future__ import annotations

import importlib.util
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from loadtest.bench.case import Case, Round
from loadtest.bench.cases.embed import texts
from loadtest.bench.measure import BenchError, Figures, child
from loadtest.bench.stand import Stand
from training.bert import bert_graph, read_config, read_weights
from training.text_encoder import WEIGHTS_PACKAGE

_WEIGHTS = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
_FASTER = 1.8
"""Times the speed of float32."""
_LEAST_COSINE = 0.9999
_BATCHES = (2, 8, 32)
_EXACT = "float32 x1"


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Returns the folder with the float32 model, which goes with this process."""
    assert _WEIGHTS is not None
    assert _WEIGHTS.origin is not None
    source = Path(_WEIGHTS.origin).parent / "model"
    config = read_config(source)
    folder = tempfile.TemporaryDirectory(prefix="aisle-bench-")
    graph = bert_graph(config, read_weights(source / "model.safetensors", config))
    (Path(folder.name) / "model.onnx").write_bytes(graph.SerializeToString())
    return folder


def _speed(onnx: Path, stand: Stand, turn: Round) -> Figures:
    job = {
        "onnx": str(onnx),
        "tokenizer": str(stand.encoder_files[1]),
        "texts": texts(4000, turn.salt),
        "threads": 1,
        "seconds": turn.seconds,
    }
    found = child("raw", job)
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], found["cpu_s"] / found["count"] * 1e6)


def _exact(stand: Stand, turn: Round) -> Figures:
    return _speed(Path(_folder().name) / "model.onnx", stand, turn)


def _served(stand: Stand, turn: Round) -> Figures:
    onnx, tokenizer = stand.encoder_files
    least = least_cosine(onnx, tokenizer, [*texts(16, turn.salt), *(text * 4 for text in texts(16, turn.salt + 16))])
    if least < _LEAST_COSINE:
        raise BenchError(f"a text's vector depends on its batch: cosine {least:.5f}, which must be {_LEAST_COSINE}; build the encoder anew")
    return _speed(onnx, stand, turn)


def least_cosine(onnx: Path, tokenizer: Path, some: list[str]) -> float:
    """Returns the least cosine, over texts and batch sizes, of a text's vector alone and within a batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    split = Tokenizer.from_file(str(tokenizer))
    split.enable_padding()
    split.enable_truncation(256)

    def vectors(batch: list[str]) -> NDArray[np.float32]:
        encoded = split.encode_batch(batch)
        inputs = {
            "input_ids": np.array([one.ids for one in encoded], np.int64),  # (B, tokens)
            "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
        }
        found: NDArray[np.float32] = session.run(["embedding"], inputs)[0]  # (B, 384), rows of unit length
        return found

    alone = np.concatenate([vectors([text]) for text in some])
    least = 1.0
    for size in _BATCHES:
        together = np.concatenate([vectors(some[start : start + size]) for start in range(0, len(some), size)])
        least = min(least, float((alone * together).sum(axis=1).min()))
    return least


CASES = (
    (
        Case(name=_EXACT, measure=_exact),
        Case(name="int8 x1, the same in any batch", measure=_served, beside=_EXACT, cpu_at_most=round(1 / _FASTER, 2)),
    )
    if _WEIGHTS is not None
    else ()
)
