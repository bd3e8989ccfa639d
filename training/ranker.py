"""A bundle's ranker as an ONNX model of kind `ranker`: the fusion, the network over it where there is one, and the calibration.

Shapes: B candidates, F ranker features, 4 logarithmic terms of the fusion, Z inputs of the network, H hidden units, K knots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from server.domain.ranking import RANKER_FEATURES
from server.inference.contract import RANKER
from server.retrieval.fusion import FusionWeights
from training.calibration_fit import Calibration
from training.network import LINEAR, LOGARITHMIC, Inputs, Layers, LearnedRanker, floors

_OPSET = 17
_IR_VERSION = 8
"""What ONNX Runtime has read since 1.12, so every Triton image in use does."""

_NARROWEST = 1e-6
"""Least distance of two knots, so that a step stays finite in float32."""


def ranker_model(ranker: LearnedRanker) -> onnx.ModelProto:
    """Returns the model whose `scores` and `probability` equal the ranker's scores and their calibration, to float32 precision.

    A row knows nothing of those beside it, so `probability` is yet to be shared out: `server.retrieval.probability`.
    """
    graph = _Graph()
    _fusion(graph, ranker.weights)
    column = "fusion"
    if ranker.network is not None:
        column = _network(graph, ranker.weights, *ranker.network)
    graph.add("Squeeze", [column, graph.constant("last", np.array([1], np.int64))], "scores")
    _calibration(graph, column, ranker.calibration)
    proto = helper.make_graph(
        graph.nodes,
        RANKER.name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(RANKER_FEATURES)])],
        [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["B"]) for output in RANKER.outputs],
        graph.initializers,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="aisle")
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants in the order they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds a constant and returns its name."""
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: int) -> str:
        """Adds a node and returns its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def _fusion(graph: _Graph, weights: FusionWeights) -> None:
    """Adds `fusion`, (B, 1): `fusion.retrieval_score`."""
    place = {name: row for row, name in enumerate(RANKER_FEATURES)}
    shares = np.zeros((len(RANKER_FEATURES), 4), np.float32)  # (F, 4)
    shares[place["transitions"], 0] = 1
    shares[place["cosine"], 0] = weights.cosine_mix
    floors_and_weights = [(weights.sparse_floor, weights.sparse)]
    for column, name in enumerate(("regression", "collaborative", "popularity"), start=1):
        shares[place[name], column] = 1
        floors_and_weights.append((getattr(weights, f"{name}_floor"), getattr(weights, name)))
    floored, log_weights = np.array(floors_and_weights, np.float32).T  # (4,) each
    linear = np.zeros((len(RANKER_FEATURES), 1), np.float32)  # (F, 1)
    for name in ("semantic", "sequential", "contextual", "trending", "freshness"):
        linear[place[name], 0] = getattr(weights, name)
    logged = _logged(graph, "share", shares, floored)
    log_part = graph.add("MatMul", [logged, graph.constant("log_weights", log_weights[:, None])], "log_part")
    linear_part = graph.add("MatMul", ["features", graph.constant("linear", linear)], "linear_part")
    graph.add("Add", [log_part, linear_part], "fusion")


def _logged(graph: _Graph, name: str, chosen: NDArray[np.float32], floored: NDArray[np.float32]) -> str:
    """Adds log(max(features @ chosen, 0) + floors) and returns its name."""
    mixed = graph.add("MatMul", ["features", graph.constant(f"{name}_columns", chosen)], f"{name}_mixed")
    positive = graph.add("Relu", [mixed], f"{name}_positive")
    above = graph.add("Add", [positive, graph.constant(f"{name}_floors", floored)], f"{name}_above")
    return graph.add("Log", [above], f"{name}_logged")


def _network(graph: _Graph, weights: FusionWeights, inputs: Inputs, layers: Layers) -> str:
    """Adds the network's score, (B, 1), and returns its name."""
    logged = _logged(graph, "input", _columns(LOGARITHMIC), np.array(floors(weights), np.float32))
    plain = graph.add("MatMul", ["features", graph.constant("plain_columns", _columns(LINEAR))], "plain")
    joined = graph.add("Concat", ["fusion", logged, plain], "joined", axis=1)  # (B, Z)
    centred = graph.add("Sub", [joined, graph.constant("mean", inputs.mean)], "centred")
    current = scaled = graph.add("Mul", [centred, graph.constant("scale", inputs.scale)], "scaled")
    for number, (matrix, bias) in enumerate(layers.hidden):
        product = graph.add("MatMul", [current, graph.constant(f"matrix{number}", matrix.astype(np.float32))], f"product{number}")
        moved = graph.add("Add", [product, graph.constant(f"bias{number}", bias.astype(np.float32))], f"moved{number}")
        current = graph.add("Tanh", [moved], f"hidden{number}")  # (B, H)
    direct = graph.add("MatMul", [scaled, graph.constant("direct", layers.direct.astype(np.float32)[:, None])], "direct_part")
    if not layers.hidden:
        return direct
    bent = graph.add("MatMul", [current, graph.constant("bent", layers.last.astype(np.float32)[:, None])], "bent_part")
    return graph.add("Add", [direct, bent], "network")


def _columns(names: tuple[str, ...]) -> NDArray[np.float32]:
    """Returns the matrix that picks features, (F, len(names))."""
    chosen = np.zeros((len(RANKER_FEATURES), len(names)), np.float32)
    for place, name in enumerate(names):
        chosen[RANKER_FEATURES.index(name), place] = 1
    return chosen


def _calibration(graph: _Graph, column: str, calibration: Calibration) -> None:
    """Adds `probability`: the first value, and the rise of each piece as far as the score has come along it. So it never falls."""
    knots = calibration.knots if len(calibration.knots) > 1 else np.array([0, 1], np.float32)
    values = calibration.values if len(calibration.values) > 1 else np.repeat(calibration.values, 2)
    past = graph.add("Sub", [column, graph.constant("knots", knots[:-1])], "past")  # (B, K - 1)
    along = graph.add("Div", [past, graph.constant("widths", np.maximum(np.diff(knots), np.float32(_NARROWEST)))], "along")
    zero, one = (graph.constant(name, np.array(value, np.float32)) for name, value in (("none", 0), ("all", 1)))
    done = graph.add("Clip", [along, zero, one], "done")
    risen = graph.add("MatMul", [done, graph.constant("rises", np.diff(values)[:, None])], "risen")
    chance = graph.add("Add", [risen, graph.constant("least", values[:1])], "chance")
    graph.add("Squeeze", [chance, "last"], "probability")
