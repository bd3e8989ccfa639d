"""The ONNX graph of a BERT against a forward pass written in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import erf, softmax

from server.errors import CorruptDataError, InvalidFieldError
from tests.model_factories import tiny_bert
from training.bert import bert_graph, read_config, read_weights

Floats = NDArray[np.float64]


def reference(weights: dict[str, Floats], ids: NDArray[np.int64], *, heads: int = 12, pooling: str = "mean") -> Floats:
    """Returns one text's vector, from its token ids without padding, in float64."""

    def norm(name: str, x: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def dense(name: str, x: Floats) -> Floats:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    layers = sum(name.endswith("attention.self.query.weight") for name in weights)
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            dense(f"{at}.attention.self.{part}", x).reshape(len(ids), heads, -1).transpose(1, 0, 2) for part in ("query", "key", "value")
        )
        shares = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1]), axis=-1)
        mixed = (shares @ value).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(f"{at}.attention.output.LayerNorm", dense(f"{at}.attention.output.dense", mixed) + x)
        wide = dense(f"{at}.intermediate.dense", x)
        x = norm(f"{at}.output.LayerNorm", dense(f"{at}.output.dense", wide * (1 + erf(wide / np.sqrt(2))) / 2) + x)
    pooled = x.mean(0) if pooling == "mean" else x[0]
    return np.asarray(pooled / np.linalg.norm(pooled))


@pytest.mark.parametrize(("pooling", "prefix"), [("mean", ""), ("mean", "bert."), ("cls", "")])
def test_the_graph_computes_what_bert_computes(tmp_path: Path, pooling: str, prefix: str) -> None:
    """Padded texts in one batch get the vectors of the numpy forward pass of each alone, within 1e-5."""
    folder = tiny_bert(tmp_path / "tiny", prefix=prefix, pooling=pooling)
    config = read_config(folder)
    weights = read_weights(folder / "model.safetensors", config)
    graph = bert_graph(config, weights)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    lengths = [1, 3, 17, 40]
    ids = np.zeros((4, 40), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = random.integers(1, 1200, length)
    mask = (np.arange(40) < np.array(lengths)[:, None]).astype(np.int64)
    (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    expected = np.stack([reference(exact, ids[row, :length], pooling=pooling) for row, length in enumerate(lengths)])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("config.json", {"model_type": "roberta"}, "model_type"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("config.json", {"hidden_size": 768}, "hidden_size"),
        ("config.json", {"position_embedding_type": "relative_key"}, "position"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by"),
    ],
)
def test_an_encoder_of_another_kind_is_refused(tmp_path: Path, file: str, change: dict[str, object], named: str) -> None:
    """What the graph would compute wrongly is refused, and the error names the setting."""
    folder = tiny_bert(tmp_path / "tiny")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    with pytest.raises(InvalidFieldError, match=named):
        read_config(folder)


def test_a_missing_or_broken_configuration_is_named(tmp_path: Path) -> None:
    """The error names the file."""
    folder = tiny_bert(tmp_path / "tiny")
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"config\.json"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InvalidFieldError, match=r"config\.json does not exist"):
        read_config(folder)


@pytest.mark.parametrize("damage", ["cut", "missing", "nan", "shape"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    """A file that is cut short, lacks a weight, or holds NaN or a wrong shape is CorruptDataError naming the file."""
    folder = tiny_bert(tmp_path / "tiny")
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "encoder.layer.1.output.dense.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "nan":
        weights[name][3, 3] = np.nan
    elif damage == "shape":
        weights[name] = weights[name][1:]
    save_file(weights, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptDataError, match=r"model\.safetensors"):
        read_weights(path, read_config(folder))
