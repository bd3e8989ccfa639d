"""What every model is called with and answers: tensor names, types and shapes, stated once.

`local.py`, `triton.py`, `training/` and the test of `model_repository/*/config.pbtxt` read it here.

Shapes: B rows of a batch, T tokens of its longest text, F ranker features. -1 in a shape is a dimension that varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS
from server.errors import CorruptDataError, InvalidFieldError

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = Mapping[str, Array]

TEXT_DIMENSION = 384
"""Length of a text vector."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, its KServe type and its shape, whose first dimension is always the batch."""

    name: str
    datatype: Literal["INT64", "FP32"]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian numpy type."""
        return np.dtype("<i8" if self.datatype == "INT64" else "<f4")

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Returns whether `shape` is one this tensor can have."""
        return len(shape) == len(self.shape) and all(want in {-1, have} for want, have in zip(self.shape, shape, strict=True))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One kind of model. Several loaded models can share a kind: each bundle's ranker is a model of kind `ranker`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check_inputs(self, tensors: Tensors) -> int:
        """Returns the number of rows.

        Raises:
            InvalidFieldError: A tensor is missing, unknown, of another type or shape, not finite, or the rows differ.
        """
        names = {spec.name for spec in self.inputs}
        if tensors.keys() != names:
            raise InvalidFieldError(self.name, f"takes exactly {sorted(names)}, not {sorted(tensors)}")
        rows = {spec.name: _checked(self.name, spec, tensors[spec.name]) for spec in self.inputs}
        if len(set(rows.values())) != 1:
            raise InvalidFieldError(self.name, f"inputs differ in rows: {rows}")
        return next(iter(rows.values()))

    def check_outputs(self, tensors: Tensors, rows: int) -> None:
        """Refuses an answer that is not `rows` finite rows of the right shape.

        Raises:
            CorruptDataError: The model's file is not of this kind, or its weights are damaged.
        """
        for spec in self.outputs:
            found = tensors.get(spec.name)
            if found is None or not spec.accepts(found.shape) or found.shape[0] != rows:
                shape = None if found is None else found.shape
                raise CorruptDataError(
                    f"{self.name} answered {spec.name} of shape {shape} for {rows} rows; rebuild the model", model=self.name
                )
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                raise CorruptDataError(f"{self.name} answered {spec.name} that is not finite; rebuild the model", model=self.name)


def _checked(model: str, spec: TensorSpec, tensor: Array) -> int:
    field = f"{model}.{spec.name}"
    if tensor.dtype != spec.dtype:
        raise InvalidFieldError(field, f"must be {spec.dtype}, not {tensor.dtype}")
    if not spec.accepts(tensor.shape) or 0 in tensor.shape:
        raise InvalidFieldError(field, f"must have shape {spec.shape}, none of it 0, not {tensor.shape}")
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise InvalidFieldError(field, "holds NaN or infinity; send finite numbers")
    return int(tensor.shape[0])


TEXT_ENCODER = ModelSpec(
    name="text_encoder",
    inputs=(TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT64", (-1, -1))),  # (B, T) both
    outputs=(TensorSpec("embedding", "FP32", (-1, TEXT_DIMENSION)),),
)
"""Token ids and a mask (1 = token, 0 = padding) to unit vectors. A row's vector does not depend on the other rows."""

RANKER = ModelSpec(
    name="ranker",
    inputs=(TensorSpec("features", "FP32", (-1, len(RANKER_FEATURES))),),  # (B, F)
    outputs=(TensorSpec("scores", "FP32", (-1,)), TensorSpec("probability", "FP32", (-1,))),  # (B,) both
)
"""One candidate's features to its score and to the probability that the user's next goal event is on it, given that it is a candidate.

Larger is better, and the two order alike but for ties; scores of different requests do not compare, probabilities do.
"""


SEQUENCE_ACTIONS = 16
"""Rows of a sequence encoder's table of event types: row 0 is padding, row 1 any type that has none of its own."""

SEQUENCE_GAPS = 32
"""Rows of its table of time gaps: buckets that double, from none to 68 years."""

SEQUENCE_ENCODER = ModelSpec(
    name="sequence_encoder",
    inputs=(
        TensorSpec("items", "FP32", (-1, -1, VIEW_DIMENSIONS)),  # (B, T, 384), oldest first, padded at the end
        TensorSpec("actions", "INT64", (-1, -1)),  # (B, T), in [0, SEQUENCE_ACTIONS), 0 where padded
        TensorSpec("gaps", "INT64", (-1, -1)),  # (B, T), in [0, SEQUENCE_GAPS)
    ),
    outputs=(TensorSpec("vector", "FP32", (-1, VIEW_DIMENSIONS)),),
)
"""The vectors of a history's items, what was done with them and the time between, to the user's sequential view.

At least one event and at most `HISTORY_LIMIT`. A row's vector does not depend on the other rows, nor on the padding."""


class Runtime(Protocol):
    """Runs models. `LocalRuntime` and `TritonRuntime` are held to one suite, `tests/contracts/test_runtimes.py`."""

    @property
    def name(self) -> str:
        """`local` or `triton`; the value of the metric label."""
        ...

    async def infer(self, model_name: str, spec: ModelSpec, inputs: Tensors, *, timeout_s: float) -> Tensors:
        """Returns the outputs of one model call. Concurrent calls are allowed.

        Raises:
            InvalidFieldError: `inputs` are not what `spec` says.
            NotFoundError: No model of that name is loaded.
            DeadlineExceededError: `timeout_s` passed first.
            UnavailableError: The runtime does not answer.
            CorruptDataError: The model's answer is not what `spec` says.
        """
        ...

    async def load(self, model_name: str, spec: ModelSpec, onnx: bytes | Path) -> None:
        """Makes a model answer under `model_name`, replacing one of that name without a gap.

        Raises:
            CorruptDataError: `onnx` does not parse, or its tensors are not those of `spec`.
            UnavailableError: The runtime does not answer.
        """
        ...

    async def unload(self, model_name: str) -> None:
        """Frees a model. Calls on it then raise NotFoundError. A name that is not loaded is no error."""
        ...

    async def ready(self) -> bool:
        """Returns whether the runtime answers now."""
        ...

    async def close(self) -> None:
        """Ends running calls and frees everything. The runtime cannot be used again."""
        ...
