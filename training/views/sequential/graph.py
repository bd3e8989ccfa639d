"""The trained transformer as an ONNX graph that answers with the vector after the last event.

Shapes: B rows, T events of the longest, M members, W width of one, H heads, E = W / H, D = 384 dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from server.domain.ranking import VIEW_DIMENSIONS
from server.inference.contract import SEQUENCE_ENCODER
from training.graph import MASKED, GraphWriter

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]

_EPSILON = 1e-5
"""Of PyTorch's layer norms."""


def sequence_graph(weights: Weights, *, members: int, layers: int, heads: int) -> onnx.ModelProto:
    """Returns the float32 graph of a network: its members' vectors side by side, each divided by their number.

    The last layer computes only what the last event needs: for two layers that is little more than half of the work.

    Args:
        weights: Of `net.SequenceNet`, by PyTorch's names.
        members: M.
        layers: At least 1.
        heads: Divides the width.
    """
    graph = GraphWriter()
    clock = _clock(graph)
    found = []
    for member in range(members):
        with graph.scope(f"member{member}"):
            own = {name.removeprefix(f"members.{member}."): value for name, value in weights.items()}
            found.append(_member(graph, own, clock, member, layers=layers, heads=heads))
    joined = graph.node("Concat", *found, axis=1)  # (B, M * W)
    mean = graph.node("Mul", joined, graph.constant("share", np.array(1 / members, np.float32)))
    width = weights["members.0.positions.weight"].shape[1]
    padding = graph.integers(0, 0, 0, VIEW_DIMENSIONS - members * width)
    graph.node("Pad", mean, padding, output=SEQUENCE_ENCODER.outputs[0].name)
    return graph.model(SEQUENCE_ENCODER)


class _Clock(NamedTuple):
    """What all members need to know of the rows, by name."""

    length: str
    """(1,): T."""
    last: str
    """(B, 1): place of each row's last event."""
    earlier: str
    """(1, 1, T, T): added to logits, so that no event sees a later one."""
    present: str
    """(B, 1, 1, T): added to logits, so that the last event sees no padding."""


def _clock(graph: GraphWriter) -> _Clock:
    length = graph.node("Shape", "actions", start=1, end=2)
    zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one_step", np.array(1, np.int64))
    steps = graph.node("Range", zero, graph.node("Squeeze", length), one)  # (T,)
    told = graph.node("Cast", graph.node("Greater", "actions", zero), to=TensorProto.INT64)
    last = graph.node("Sub", graph.node("ReduceSum", told, graph.integers(1), keepdims=1), graph.integers(1))  # (B, 1)
    masked = graph.constant("masked", np.array(MASKED, np.float32))

    def hidden(later: str, axes: tuple[int, int]) -> str:
        weighed = graph.node("Mul", graph.node("Cast", later, to=TensorProto.FLOAT), masked)
        return graph.node("Unsqueeze", weighed, graph.integers(*axes))

    columns = graph.node("Unsqueeze", steps, graph.integers(0))  # (1, T)
    after_row = graph.node("Greater", columns, graph.node("Unsqueeze", steps, graph.integers(1)))  # (T, T)
    return _Clock(length, last, hidden(after_row, (0, 1)), hidden(graph.node("Greater", columns, last), (1, 2)))


def _member(graph: GraphWriter, weights: Weights, clock: _Clock, member: int, *, layers: int, heads: int) -> str:
    """Returns one member's vector after the last event, (B, W)."""
    width = weights["positions.weight"].shape[1]
    x = _embeddings(graph, weights, clock.length, member * width, width)  # (B, T, W)
    for layer in range(layers - 1):
        with graph.scope(f"layer{layer}"):
            x = _layer(graph, weights, f"blocks.{layer}", x, x, clock.earlier, heads)
    with graph.scope(f"layer{layers - 1}"):
        at = graph.node("Expand", graph.node("Unsqueeze", clock.last, graph.integers(2)), graph.integers(1, 1, width))  # (B, 1, W)
        end = graph.node("GatherElements", x, at, axis=1)  # (B, 1, W)
        x = _layer(graph, weights, f"blocks.{layers - 1}", end, x, clock.present, heads)
    return graph.node("Squeeze", _norm(graph, weights, "norm", x), graph.integers(1))


def _embeddings(graph: GraphWriter, weights: Weights, length: str, start: int, width: int) -> str:
    with graph.scope("embeddings"):
        used = graph.node("Slice", "items", graph.integers(start), graph.integers(start + width), graph.integers(2))  # (B, T, W)
        scaled = graph.node("Mul", used, graph.constant("scale", np.array(math.sqrt(width), np.float32)))
        table = graph.constant("positions", weights["positions.weight"])
        positions = graph.node("Slice", table, graph.integers(0), length, graph.integers(0))  # (T, W)
        x = graph.node("Add", scaled, positions)
        for name in ("actions", "gaps"):
            x = graph.node("Add", x, graph.node("Gather", graph.constant(f"{name}_table", weights[f"{name}.weight"]), name))
        return x


def _layer(graph: GraphWriter, weights: Weights, at: str, x: str, seen: str, hidden: str, heads: int) -> str:
    """Returns the layer's output for the events `x`, which look at the events `seen`."""
    looked = _norm(graph, weights, f"{at}.norm1", x)
    offered = looked if x == seen else _norm(graph, weights, f"{at}.norm1", seen, "seen")
    mixed = _attention(graph, weights, at, looked, offered, hidden, heads)
    x = graph.node("Add", x, _dense(graph, weights, f"{at}.out", mixed))
    wide = graph.gelu(_dense(graph, weights, f"{at}.wide", _norm(graph, weights, f"{at}.norm2", x)))
    return graph.node("Add", x, _dense(graph, weights, f"{at}.narrow", wide))


def _attention(graph: GraphWriter, weights: Weights, at: str, looked: str, offered: str, hidden: str, heads: int) -> str:
    width = weights[f"{at}.out.weight"].shape[0]
    each = width // heads
    split = graph.integers(0, -1, heads, each)
    matrices, biases = np.split(weights[f"{at}.qkv.weight"], 3), np.split(weights[f"{at}.qkv.bias"], 3)

    def part(name: str, place: int, source: str, order: list[int], scale: float = 1.0) -> str:
        projected = graph.linear(name, source, matrices[place] * np.float32(scale), biases[place] * np.float32(scale))
        return graph.node("Transpose", graph.node("Reshape", projected, split), perm=order)

    query = part("query", 0, looked, [0, 2, 1, 3], each**-0.5)  # (B, H, t, E), the logits' 1 / sqrt(E) folded in
    key = part("key", 1, offered, [0, 2, 3, 1])  # (B, H, E, T)
    value = part("value", 2, offered, [0, 2, 1, 3])  # (B, H, T, E)
    shares = graph.node("Softmax", graph.node("Add", graph.node("MatMul", query, key), hidden), axis=-1)  # (B, H, t, T)
    mixed = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
    return graph.node("Reshape", mixed, graph.integers(0, -1, width))


def _norm(graph: GraphWriter, weights: Weights, name: str, x: str, use: str = "") -> str:
    scale, bias = (
        graph.constant(f"{name}.weight{use}", weights[f"{name}.weight"]),
        graph.constant(f"{name}.bias{use}", weights[f"{name}.bias"]),
    )
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)


def _dense(graph: GraphWriter, weights: Weights, name: str, x: str) -> str:
    return graph.linear(name, x, weights[f"{name}.weight"], weights[f"{name}.bias"])
