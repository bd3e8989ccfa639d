"""Writes ONNX graphs node by node: no PyTorch, and no operator that an older runtime does not know.

Shapes: as the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from server.inference.contract import ModelSpec

OPSET = 17
"""The oldest with LayerNormalization, so that older Triton images read the file too."""

MASKED = -1e9
"""Added to the attention logits of what must not be seen: its share is then exactly 0 in float32, whatever its length."""


class GraphWriter:
    """Collects nodes and initializers; each method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._scope = ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefixes names made inside, so that profiles read well."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Stores an array."""
        full = f"{self._scope}{name}"
        self.initializers.append(numpy_helper.from_array(np.require(value, requirements="C"), full))
        return full

    def integers(self, *values: int) -> str:
        """Stores a 1-D int64 array, as shapes and axes are."""
        return self.constant(f"i{len(self.initializers)}", np.array(values, np.int64))

    def node(self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Adds a node of one output."""
        name = f"{self._scope}{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output or name], name=name, domain=domain, **attributes))
        return output or name

    def linear(self, name: str, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """Adds weight x + bias, with the weight as PyTorch stores it: (outputs, inputs)."""
        product = self.node("MatMul", x, self.constant(f"{name}.weight", weight.T))
        return self.node("Add", product, self.constant(f"{name}.bias", bias))

    def gelu(self, x: str) -> str:
        """Adds x/2 (1 + erf(x/sqrt 2)), in the form onnxruntime fuses to one Gelu."""
        erf = self.node("Erf", self.node("Div", x, self.constant("root2", np.array(np.sqrt(2.0), np.float32))))
        sum_ = self.node("Add", erf, self.constant("one", np.array(1, np.float32)))
        return self.node("Mul", self.node("Mul", x, sum_), self.constant("half", np.array(0.5, np.float32)))

    def model(self, spec: ModelSpec) -> onnx.ModelProto:
        """Returns the checked model with the tensors of `spec`."""
        kinds = {"INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}

        def tensors(specs: Sequence[Any]) -> list[onnx.ValueInfoProto]:
            free = {0: "rows", 1: "tokens"}
            return [
                helper.make_tensor_value_info(s.name, kinds[s.datatype], [free[i] if d == -1 else d for i, d in enumerate(s.shape)])
                for s in specs
            ]

        graph = helper.make_graph(self.nodes, spec.name, tensors(spec.inputs), tensors(spec.outputs), self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="aisle")
        onnx.checker.check_model(model)
        return model
