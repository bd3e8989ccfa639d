"""Per-row dynamic int8: smaller and faster, and a row's result does not depend on the rows beside it.

onnxruntime's own dynamic quantisation takes one scale over all activations of a call, so that a text's vector depends on which texts
share its batch (cosine down to .974). Here each row has its own scale.

A few channels of a residual stream are ten times the others and would leave them few of the 127 steps. So where a MatMul reads a layer
norm, each channel is divided by a constant that goes into the weights' rows: mean cosine to float32 .9992 in place of .9973, least
.997 in place of .986, over the sentences of STS-B. Source: G. Xiao et al., SmoothQuant, ICML 2023, equation 4.

Shapes: R rows (all dimensions but the last, flattened), K inputs and N outputs of a MatMul.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

RECIPE = "int8-rows-2"
"""Changes when the same weights would give other vectors: part of the model's version, which keys caches and indexes."""

_LARGEST = 127
_TABLE_ROWS = 1000
"""Gather tables of at least this many rows are quantised; smaller ones are not worth a node."""
_SMOOTHING = 0.65
"""Share of a channel's size that moves from activations to weights. .5 to .8 do alike; measured best."""


def channel_maxima(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float32]]:
    """Returns the largest |value| of each channel, (K,), of every layer norm that feeds a constant MatMul, over `feeds`."""
    norms = {node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    names = sorted({node.input[0] for node, _ in _constant_matmuls(model)} & norms)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    maxima: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(names, dict(feed)) if names else [], strict=True):
            largest = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            maxima[name] = np.maximum(maxima.get(name, largest), largest)
    return maxima


def quantize_rows(model: onnx.ModelProto, maxima: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Returns the model with int8 weights wherever a MatMul's right side is constant, and int8 embedding tables.

    Activations: s = max|x| / 127 a row; q = round(x / s) + 128 as uint8; MatMulInteger with int8 weights, symmetric per output column;
    times the column scales, times s. MatMuls of one input share its quantised form. Everything else stays float32.

    Args:
        model: Float32, not changed.
        maxima: From `channel_maxima`. Inputs it does not name are not smoothed.
    """
    graph = model.graph
    matmuls = {node.output[0]: (node, weight) for node, weight in _constant_matmuls(model)}
    tables = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.dims[0] >= _TABLE_ROWS}
    rewriter = _Rewriter(_smoothing(matmuls.values(), maxima))
    for node in graph.node:
        if node.output[0] in matmuls:
            rewriter.matmul(*matmuls[node.output[0]])
        elif node.op_type == "Gather" and node.input[0] in tables:
            rewriter.gather(node, numpy_helper.to_array(tables[node.input[0]]))
        else:
            rewriter.nodes.append(node)
    used = {name for node in rewriter.nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    result = helper.make_model(
        helper.make_graph(rewriter.nodes, graph.name, graph.input, graph.output, kept + rewriter.initializers),
        opset_imports=[*model.opset_import, helper.make_opsetid("com.microsoft", 1)],
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    onnx.checker.check_model(result)
    return result


def _constant_matmuls(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, NDArray[np.float32]]]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in tensors]
    return [(node, numpy_helper.to_array(tensors[node.input[1]])) for node in nodes]


def _smoothing(
    matmuls: Iterable[tuple[onnx.NodeProto, NDArray[np.float32]]], maxima: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Returns the divisor of each channel, (K,), by input: max|x|^a / max|w|^(1 - a) over all weights that read the input."""
    largest: dict[str, NDArray[np.float32]] = {}
    for node, weight in matmuls:
        if node.input[0] in maxima:
            own = np.abs(weight).max(axis=1)
            largest[node.input[0]] = np.maximum(largest.get(node.input[0], own), own)
    least = np.float32(1e-3)
    ratios = {
        name: np.maximum(maxima[name], least) ** _SMOOTHING / np.maximum(weights, least) ** (1 - _SMOOTHING)
        for name, weights in largest.items()
    }
    # In steps of a quarter octave, so that another CPU's last bits build the same file.
    return {name: np.exp2(np.rint(4 * np.log2(ratio)) / 4).astype(np.float32) for name, ratio in ratios.items()}


def symmetric_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns int8 values and a scale for each column of a (K, N) matrix, so that value * scale is nearest to it."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(_LARGEST)  # (N,)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


class _Rewriter:
    def __init__(self, smoothing: Mapping[str, NDArray[np.float32]]) -> None:
        self._smoothing = smoothing
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[str, str] = {}
        self._rows: dict[str, tuple[str, str]] = {}  # input -> its quantised rows (R, K) and their scales (R, 1)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = name
            self.initializers.append(numpy_helper.from_array(np.require(value, requirements="C"), name))
        return name

    def _node(self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        name = f"{operator}/q{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output or name], name=name, domain=domain, **attributes))
        return output or name

    def _quantized(self, x: str, inputs: int) -> tuple[str, str]:
        if x not in self._rows:
            smooth = x
            if x in self._smoothing:
                smooth = self._node("Mul", x, self._constant(f"{x}/smoothing", 1 / self._smoothing[x]))
            rows = self._node("Reshape", smooth, self._constant(f"rows_of_{inputs}", np.array([-1, inputs], np.int64)))
            largest = self._node("ReduceMax", self._node("Abs", rows), axes=[1], keepdims=1)
            scaled = self._node("Mul", largest, self._constant("one_127th", np.array(1 / _LARGEST, np.float32)))
            scale = self._node("Max", scaled, self._constant("least_scale", np.array(1e-12, np.float32)))  # a row of zeros stays zeros
            # Divided first: QuantizeLinear with run-time scales along an axis is ten times slower.
            one, middle = self._constant("unit_scale", np.array(1, np.float32)), self._constant("middle", np.array(128, np.uint8))
            self._rows[x] = (self._node("QuantizeLinear", self._node("Div", rows, scale), one, middle), scale)
        return self._rows[x]

    def matmul(self, node: onnx.NodeProto, weight: NDArray[np.float32]) -> None:
        x, name = node.input
        inputs, outputs = weight.shape
        quantized, scale = self._quantized(x, inputs)
        if x in self._smoothing:
            weight = weight * self._smoothing[x][:, None]
        values, columns = symmetric_columns(weight)
        # onnxruntime's MatMulInteger that also applies the column scales while the block is in cache.
        product = self._node(
            "MatMulIntegerToFloat",
            quantized,
            self._constant(f"{name}.int8", values),
            self._constant("unit_scale", np.array(1, np.float32)),
            self._constant(f"{name}.scale", columns),
            self._constant("middle", np.array(128, np.uint8)),
            domain="com.microsoft",
        )
        rescaled = self._node("Mul", product, scale)  # (R, N)
        # The leading dimensions come back from the input: Reshape copies 0 from its own input, so they are spelled by Shape.
        leading = self._node("Shape", x, start=0, end=-1)
        shape = self._node("Concat", leading, self._constant(f"width_{outputs}", np.array([outputs], np.int64)), axis=0)
        self._node("Reshape", rescaled, shape, output=node.output[0])

    def gather(self, node: onnx.NodeProto, table: NDArray[np.float32]) -> None:
        name, ids = node.input
        values, scales = symmetric_columns(table.T)
        rows = self._node("Gather", self._constant(f"{name}.int8", values.T), ids)
        factor = self._node("Gather", self._constant(f"{name}.scale", scales[:, None]), ids)
        self._node("Mul", self._node("Cast", rows, to=TensorProto.FLOAT), factor, output=node.output[0])
