"""KServe's tensors to arrays and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from server.errors import InvalidFieldError
from server.inference import Array, ModelSpec, Tensors

_CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents"}
"""Type -> where its values stand when they are not raw."""


def check_size(field: str, shape: Sequence[int], count: int) -> None:
    """Refuses a shape that does not fit the values.

    Raises:
        InvalidFieldError: A dimension is negative, or their product is another number.
    """
    if any(size < 0 for size in shape) or math.prod(shape) != count:
        raise InvalidFieldError(field, f"has shape {list(shape)[:8]} and {count} values")


def tensors_of(request: pb.ModelInferRequest, spec: ModelSpec) -> dict[str, Array]:
    """Returns the inputs of a request. Of the right types they are; that their shapes fit the model is for others to check.

    Raises:
        InvalidFieldError: An input is unknown or comes twice, has another type, or its values do not fit its shape.
    """
    types = {tensor.name: tensor for tensor in spec.inputs}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidFieldError("raw_input_contents", f"has {len(raw)} entries for {len(request.inputs)} inputs; send one for each")
    found: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        known = types.get(tensor.name)
        field = f"inputs[{index}]"
        if known is None or tensor.name in found:
            raise InvalidFieldError(field, f"is {tensor.name[:60]!r}; {request.model_name} takes {sorted(types)}, each once")
        if tensor.datatype != known.datatype:
            raise InvalidFieldError(field, f"({tensor.name}) has type {tensor.datatype[:20]!r}; send {known.datatype}")
        if raw:
            if len(raw[index]) % known.dtype.itemsize:
                raise InvalidFieldError(field, f"({tensor.name}) has {len(raw[index])} bytes, which is no whole number of {known.datatype}")
            values = np.frombuffer(raw[index], known.dtype)
        else:
            values = np.array(getattr(tensor.contents, _CONTENTS[known.datatype]), known.dtype)
        check_size(f"{field} ({tensor.name})", tensor.shape, values.size)
        found[tensor.name] = values.reshape(tensor.shape)
    return found


def reply_of(request: pb.ModelInferRequest, version: str, spec: ModelSpec, outputs: Tensors) -> pb.ModelInferResponse:
    """Returns the outputs asked for, all of them where none is named, as raw bytes.

    Raises:
        InvalidFieldError: An output is asked for that the model does not have.
    """
    known = {tensor.name: tensor for tensor in spec.outputs}
    names = [output.name for output in request.outputs] or list(known)
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    for name in names:
        if name not in known:
            raise InvalidFieldError("outputs", f"names {name[:60]!r}; {request.model_name} gives {sorted(known)}")
        values = np.ascontiguousarray(outputs[name], known[name].dtype)
        reply.outputs.add(name=name, datatype=known[name].datatype, shape=values.shape)
        reply.raw_output_contents.append(values.tobytes())
    return reply


def json_values(reply: pb.ModelInferResponse, index: int) -> list[Any]:
    """Returns the values of one output, flat, for JSON."""
    kind = np.dtype("<i8" if reply.outputs[index].datatype == "INT64" else "<f4")
    values: list[Any] = np.frombuffer(reply.raw_output_contents[index], kind).tolist()
    return values
