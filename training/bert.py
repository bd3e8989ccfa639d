"""A BERT-type sentence encoder as one ONNX graph, written node by node from its safetensors: no torch.

Shapes: B texts, T tokens of the longest, D hidden size, H attention heads, E = D / H.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors import SafetensorError, safe_open

from server.errors import CorruptDataError, InvalidFieldError
from server.inference.contract import TEXT_DIMENSION, TEXT_ENCODER
from training.graph import MASKED, GraphWriter

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The shape of one encoder."""

    layers: int
    heads: int
    hidden: int
    epsilon: float
    """Of the layer norms."""
    positions: int
    """Rows of the position table: the most tokens the encoder can take."""
    max_tokens: int
    """Tokens its publisher trained and measured it with; longer texts are truncated."""
    pooling: Literal["mean", "cls"]


def read_config(folder: Path) -> BertConfig:
    """Returns the configuration of a Hugging Face or sentence-transformers folder.

    Raises:
        InvalidFieldError: The folder is not one of a BERT-type encoder whose vectors are TEXT_DIMENSION long.
        CorruptDataError: A file does not parse.
    """
    config = _json(folder / "config.json")
    for name, wanted in (("model_type", "bert"), ("hidden_act", "gelu"), ("hidden_size", TEXT_DIMENSION)):
        if config.get(name) != wanted:
            raise InvalidFieldError("from", f"{folder / 'config.json'} says {name} = {config.get(name)!r}; it must be {wanted!r}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InvalidFieldError("from", "only absolute position embeddings are supported")
    pooling = _json(folder / "1_Pooling" / "config.json", missing={"pooling_mode_mean_tokens": True})
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
    if modes not in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"}):
        raise InvalidFieldError("from", f"pools by {sorted(modes)}; only the mean and the cls token are supported")
    positions = int(config["max_position_embeddings"])
    sentence = _json(folder / "sentence_bert_config.json", missing={})
    return BertConfig(
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        hidden=int(config["hidden_size"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        positions=positions,
        max_tokens=min(positions, int(sentence.get("max_seq_length") or positions)),
        pooling="mean" if "pooling_mode_mean_tokens" in modes else "cls",
    )


def _json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise InvalidFieldError(
            "from", f"{path} does not exist; give a folder with config.json, model.safetensors, tokenizer.json"
        ) from None
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON: {error}", path=path) from error
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path} holds no JSON object", path=path)
    return value


def read_weights(path: Path, config: BertConfig) -> Weights:
    """Returns every weight the graph needs, as float32, without a task prefix such as `bert.`.

    Raises:
        CorruptDataError: The file does not parse, or a weight is missing, not finite or of another shape.
    """
    wanted = _wanted(config)
    try:
        with safe_open(path, framework="numpy") as file:
            prefix = next((key.partition("embeddings.")[0] for key in file.keys() if "embeddings." in key), "")  # noqa: SIM118 # no mapping
            weights = {name: file.get_tensor(prefix + name).astype(np.float32) for name in wanted}
    except (SafetensorError, OSError, TypeError) as error:
        raise CorruptDataError(f"{path} is not the weights of this encoder: {error}; download them again", path=path) from error
    for name, shape in wanted.items():
        found = weights[name]
        if len(found.shape) != len(shape) or any(want not in {-1, have} for want, have in zip(shape, found.shape, strict=True)):
            raise CorruptDataError(f"{path}: {name} has shape {found.shape}, expected {shape}", path=path)
        if not np.isfinite(found).all():
            raise CorruptDataError(f"{path}: {name} is not finite; download the weights again", path=path)
    return weights


def _wanted(config: BertConfig) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (-1, hidden),
        "embeddings.position_embeddings.weight": (config.positions, hidden),
        "embeddings.token_type_embeddings.weight": (-1, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(config.layers):
        at = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes[f"{at}.{name}.weight"] = (hidden, hidden)
            shapes[f"{at}.{name}.bias"] = (hidden,)
        shapes[f"{at}.intermediate.dense.weight"] = (-1, hidden)
        shapes[f"{at}.intermediate.dense.bias"] = (-1,)
        shapes[f"{at}.output.dense.weight"] = (hidden, -1)
        shapes[f"{at}.output.dense.bias"] = (hidden,)
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden,)
    return shapes


def bert_graph(config: BertConfig, weights: Weights) -> onnx.ModelProto:
    """Returns the float32 graph: token ids and mask in, pooled unit vectors out."""
    graph = GraphWriter()
    x = _embeddings(graph, config, weights)  # (B, T, D)
    mask = graph.node("Cast", "attention_mask", to=TensorProto.FLOAT)  # (B, T)
    absent = graph.node("Sub", graph.constant("one", np.array(1, np.float32)), mask)
    bias = graph.node("Mul", graph.node("Unsqueeze", absent, graph.integers(1, 2)), graph.constant("masked", np.array(MASKED, np.float32)))
    for layer in range(config.layers):
        with graph.scope(f"layer{layer}"):
            x = _layer(graph, config, weights, f"encoder.layer.{layer}", x, bias)
    pooled = _pool(graph, config, x, mask)  # (B, D)
    norm = graph.node("ReduceL2", pooled, axes=[1], keepdims=1)
    floor = graph.constant("floor", np.array(1e-12, np.float32))
    graph.node("Div", pooled, graph.node("Max", norm, floor), output=TEXT_ENCODER.outputs[0].name)
    return graph.model(TEXT_ENCODER)


def _embeddings(graph: GraphWriter, config: BertConfig, weights: Weights) -> str:
    with graph.scope("embeddings"):
        table = graph.constant("words", weights["embeddings.word_embeddings.weight"])
        # A single text is segment 0, so its row joins the positions once and for all.
        positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        length = graph.node("Shape", "input_ids", start=1, end=2)
        used = graph.node("Slice", graph.constant("positions", positions), graph.integers(0), length, graph.integers(0))  # (T, D)
        x = graph.node("Add", graph.node("Gather", table, "input_ids"), used)
        return _norm(graph, config, weights, "embeddings.LayerNorm", x)


def _norm(graph: GraphWriter, config: BertConfig, weights: Weights, name: str, x: str) -> str:
    scale, bias = graph.constant(f"{name}.weight", weights[f"{name}.weight"]), graph.constant(f"{name}.bias", weights[f"{name}.bias"])
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=config.epsilon)


def _layer(graph: GraphWriter, config: BertConfig, weights: Weights, at: str, x: str, bias: str) -> str:
    def dense(name: str, value: str) -> str:
        return graph.linear(name, value, weights[f"{at}.{name}.weight"], weights[f"{at}.{name}.bias"])

    attended = dense("attention.output.dense", _attention(graph, config, weights, f"{at}.attention.self", x, bias))
    x = _norm(graph, config, weights, f"{at}.attention.output.LayerNorm", graph.node("Add", attended, x))
    wide = dense("intermediate.dense", x)
    narrow = dense("output.dense", graph.gelu(wide))
    return _norm(graph, config, weights, f"{at}.output.LayerNorm", graph.node("Add", narrow, x))


def _attention(graph: GraphWriter, config: BertConfig, weights: Weights, at: str, x: str, bias: str) -> str:
    each = config.hidden // config.heads
    split = graph.integers(0, 0, config.heads, each)

    def heads(name: str, scale: float, order: list[int]) -> str:
        projected = graph.linear(
            name, x, weights[f"{at}.{name}.weight"] * np.float32(scale), weights[f"{at}.{name}.bias"] * np.float32(scale)
        )
        return graph.node("Transpose", graph.node("Reshape", projected, split), perm=order)

    query = heads("query", each**-0.5, [0, 2, 1, 3])  # (B, H, T, E), the logits' 1 / sqrt(E) folded in
    key = heads("key", 1.0, [0, 2, 3, 1])  # (B, H, E, T)
    value = heads("value", 1.0, [0, 2, 1, 3])  # (B, H, T, E)
    shares = graph.node("Softmax", graph.node("Add", graph.node("MatMul", query, key), bias), axis=-1)  # (B, H, T, T)
    mixed = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
    return graph.node("Reshape", mixed, graph.integers(0, 0, config.hidden))  # (B, T, D)


def _pool(graph: GraphWriter, config: BertConfig, x: str, mask: str) -> str:
    if config.pooling == "cls":
        return graph.node("Gather", x, graph.constant("first", np.array(0, np.int64)), axis=1)
    weights = graph.node("Unsqueeze", mask, graph.integers(1))  # (B, 1, T)
    # No division by the count: the unit norm that follows removes any factor a row.
    return graph.node("Squeeze", graph.node("MatMul", weights, x), graph.integers(1))
