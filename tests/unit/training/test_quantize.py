"""Per-row int8: near to float32, and a row's result does not depend on the rows beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as shapes

from tests.model_factories import tiny_bert
from training.bert import bert_graph, read_config, read_weights
from training.quantize import channel_maxima, quantize_rows, symmetric_columns


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Opens a model on one thread."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A small encoder in float32 and in int8."""
    folder: Path = tiny_bert(tmp_path_factory.mktemp("bert") / "tiny")
    config = read_config(folder)
    exact = bert_graph(config, read_weights(folder / "model.safetensors", config))
    return exact, quantize_rows(exact, channel_maxima(exact, [texts(4, 20, seed=9)]))


def texts(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random token ids without padding."""
    ids = np.random.default_rng(seed).integers(1, 1200, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_int8_vectors_are_near_float32(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """Cosine to the float32 graph is at least .995 for each text."""
    exact, served = (session(model).run(None, texts(16, 24))[0] for model in models)
    assert (exact * served).sum(axis=1).min() >= 0.995


def test_a_text_has_the_same_vector_alone_and_in_any_batch(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """Cosine between batch 1 and batch 32, padded or not, is at least .9999."""
    served = session(models[1])
    batch = texts(32, 30, seed=1)
    batch["attention_mask"][1:, 12:] = 0
    together = served.run(None, batch)[0]
    for row, length in ((0, 30), (1, 12), (31, 12)):
        alone = served.run(None, {name: value[row : row + 1, :length] for name, value in batch.items()})[0]
        assert float(alone[0] @ together[row]) >= 0.9999


def test_every_weight_and_the_word_table_become_int8(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """No large float32 weight is left, inputs shared by several products are quantised once, and the file shrinks to a third or less."""
    exact, served = models
    floats = [t.name for t in served.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 64 * 384]
    assert floats == []
    operators = [node.op_type for node in served.graph.node]
    products = operators.count("MatMulIntegerToFloat")
    assert products == 2 * 6  # query, key, value, output, and two of the feed-forward part, in each of two layers
    assert operators.count("QuantizeLinear") == 2 * 4
    assert served.ByteSize() * 3 <= exact.ByteSize()


@settings(max_examples=60, deadline=None)
@given(shapes.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(-1e4, 1e4, width=32)))
def test_int8_columns_are_within_half_a_step(weight: np.ndarray) -> None:
    """For any matrix each value comes back within half of its column's step, and a column of zeros as zeros."""
    values, scale = symmetric_columns(weight)
    assert np.abs(values.astype(np.int32)).max() <= 127
    assert (np.abs(values * scale - weight) <= scale * 0.501).all()
    assert not (values[:, ~weight.any(axis=0)]).any()


def test_a_row_of_zeros_stays_zeros() -> None:
    """The least scale keeps 0 / 0 out of the graph."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["a", "b", 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", "b", 2])],
        [onnx.numpy_helper.from_array(np.array([[1, -2], [3, 4], [5, -6]], np.float32), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([[[0, 0, 0], [1, 1, 1]], [[1e-30, 0, 0], [-2, 0, 2]]], np.float32)
    result = session(quantize_rows(model, {})).run(None, {"x": x})[0]
    assert result.shape == (2, 2, 2)
    np.testing.assert_allclose(result, x @ np.array([[1, -2], [3, 4], [5, -6]], np.float32), atol=0.1)
    assert not result[0, 0].any()
