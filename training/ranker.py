"""The chosen fusion as an ONNX model of kind `ranker`.

Shapes: B candidates, F ranker features, 3 logarithmic terms.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from server.domain.ranking import RANKER_FEATURES
from server.inference.contract import RANKER
from server.retrieval.fusion import FusionWeights

_OPSET = 17
_IR_VERSION = 8
"""What ONNX Runtime has read since 1.12, so every Triton image in use does."""


def ranker_model(weights: FusionWeights) -> onnx.ModelProto:
    """Returns the model whose `scores` equal `fusion.retrieval_score` of its `features`, to float32 precision."""
    place = {name: row for row, name in enumerate(RANKER_FEATURES)}
    shares = np.zeros((len(RANKER_FEATURES), 3), np.float32)  # (F, 3)
    shares[place["transitions"], 0] = 1
    shares[place["cosine"], 0] = weights.cosine_mix
    shares[place["collaborative"], 1] = 1
    shares[place["popularity"], 2] = 1
    floors = np.array([weights.sparse_floor, weights.collaborative_floor, weights.popularity_floor], np.float32)  # (3,)
    log_weights = np.array([[weights.sparse], [weights.collaborative], [weights.popularity]], np.float32)  # (3, 1)
    linear = np.zeros((len(RANKER_FEATURES), 1), np.float32)  # (F, 1)
    for name in ("semantic", "sequential", "contextual", "trending", "freshness"):
        linear[place[name], 0] = getattr(weights, name)
    constants = {"shares": shares, "floors": floors, "log_weights": log_weights, "linear": linear, "last": np.array([1], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["features", "shares"], ["share"]),
        helper.make_node("Relu", ["share"], ["positive"]),
        helper.make_node("Add", ["positive", "floors"], ["floored"]),
        helper.make_node("Log", ["floored"], ["logged"]),
        helper.make_node("MatMul", ["logged", "log_weights"], ["log_part"]),
        helper.make_node("MatMul", ["features", "linear"], ["linear_part"]),
        helper.make_node("Add", ["log_part", "linear_part"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        RANKER.name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(RANKER_FEATURES)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="aisle")
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model
