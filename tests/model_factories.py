"""Small real models: a linear ranker and a BERT of one layer, each with the tensors of its contract."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from server.domain.ranking import RANKER_FEATURES
from server.errors import UnavailableError
from server.inference import LocalRuntime, ModelSpec, Tensors

FEATURES = len(RANKER_FEATURES)


def tiny_sequence_encoder(seed: int = 0) -> bytes:
    """Returns a small int8 sequence encoder with random weights."""
    from training.quantize import quantize_rows
    from training.views.sequential.fit import export_graph
    from training.views.sequential.net import SequenceNet, Shape

    net = SequenceNet(Shape(2, 16, 2, 2), 10, None, dropout=0.0, unknown=0.0, seed=seed)
    return bytes(quantize_rows(export_graph(net), {}).SerializeToString())


def linear_ranker(scale: float = 1.0, *, bias: float = 0.0, features: int = FEATURES, output: str = "scores", deep: int = 0) -> bytes:
    """Returns an ONNX ranker whose score is scale * (0 f0 + 1 f1 + 2 f2 ...) + bias, its probability the sigmoid of that.

    `deep` adds that many matrix products of no effect.
    """
    weights = (np.arange(features, dtype=np.float32) * np.float32(scale))[:, None]
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["product"]), helper.make_node("Squeeze", ["product", "axis"], ["flat"])]
    initializers = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.array(bias, np.float32), "bias"),
    ]
    last = "flat"
    if deep:
        initializers += [
            numpy_helper.from_array(np.full((800, 800), 1 / 800, np.float32), "wide"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ]
        previous = "wide"
        for index in range(deep):
            nodes += [
                helper.make_node("Add", [previous, "bias"], [f"moved{index}"]),
                helper.make_node("MatMul", [f"moved{index}", "wide"], [f"deep{index}"]),
            ]
            previous = f"deep{index}"
        # The input takes part, so that nothing is folded into a constant when the model is loaded.
        nodes[2] = helper.make_node("Add", ["wide", "seed"], ["moved0"])
        nodes.insert(2, helper.make_node("ReduceMax", ["features"], ["seed"], keepdims=0))
        nodes += [
            helper.make_node("ReduceMax", [previous], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "zero"], ["nothing"]),
            helper.make_node("Add", ["flat", "nothing"], ["added"]),
        ]
        last = "added"
    nodes += [helper.make_node("Add", [last, "bias"], [output]), helper.make_node("Sigmoid", [output], ["probability"])]
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", features])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in (output, "probability")],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_bert(folder: Path, *, seed: int = 0, prefix: str = "", pooling: str = "mean") -> Path:
    """Writes a BERT-type encoder with random weights: 2 layers, 384 wide, 64 positions, 1,200 words. Returns the folder."""
    random = np.random.default_rng(seed)
    hidden, inner, words, positions = 384, 96, 1200, 64
    weights: dict[str, np.ndarray] = {
        "embeddings.word_embeddings.weight": random.normal(0, 0.5, (words, hidden)),
        "embeddings.position_embeddings.weight": random.normal(0, 0.1, (positions, hidden)),
        "embeddings.token_type_embeddings.weight": random.normal(0, 0.1, (2, hidden)),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        for name, shape in (
            ("attention.self.query", (hidden, hidden)),
            ("attention.self.key", (hidden, hidden)),
            ("attention.self.value", (hidden, hidden)),
            ("attention.output.dense", (hidden, hidden)),
            ("intermediate.dense", (inner, hidden)),
            ("output.dense", (hidden, inner)),
        ):
            weights[f"{at}.{name}.weight"] = random.normal(0, 0.05, shape)
            weights[f"{at}.{name}.bias"] = random.normal(0, 0.05, shape[0])
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for norm in norms:
        weights[f"{norm}.weight"] = random.normal(1, 0.1, hidden)
        weights[f"{norm}.bias"] = random.normal(0, 0.1, hidden)
    (folder / "1_Pooling").mkdir(parents=True)
    save_file({prefix + name: value.astype(np.float32) for name, value in weights.items()}, folder / "model.safetensors")
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "max_position_embeddings": positions,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{'mean_tokens' if pooling == 'mean' else 'cls_token'}": True})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    _tokenizer(words).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(words: int) -> Tokenizer:
    characters = [chr(code) for code in range(33, 127)] + ["é", "💒"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters), "word", "barn", "cake"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    assert len(vocabulary) <= words
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


class FaultyRuntime(LocalRuntime):
    """A local runtime that can be told to hang, to be down, or to take its time."""

    name = "faulty"

    def __init__(self, *, threads: int = 2) -> None:
        super().__init__(threads=threads)
        self.down = False
        self.hangs = False
        self.delay_s = 0.0
        self.calls = 0

    async def infer(self, model_name: str, spec: ModelSpec, inputs: Tensors, *, timeout_s: float) -> Tensors:
        """As LocalRuntime, after the fault it was told to have."""
        self.calls += 1
        if self.down:
            raise UnavailableError(self.name, "is down")
        if self.hangs:
            inputs = dict(inputs)
            await asyncio.sleep(timeout_s)
            timeout_s = 0.0
        await asyncio.sleep(self.delay_s)
        return await super().infer(model_name, spec, inputs, timeout_s=timeout_s)

    async def ready(self) -> bool:
        """Returns whether no fault is set."""
        return not self.down and not self.hangs
