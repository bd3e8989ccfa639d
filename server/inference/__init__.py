"""Models behind one small contract: two runtimes, a router over them, and the two things that are asked of models."""

from server.inference.contract import (
    RANKER,
    RANKER_FEATURES,
    TEXT_DIMENSION,
    TEXT_ENCODER,
    Array,
    ModelSpec,
    Runtime,
    Tensors,
    TensorSpec,
)

__all__ = [
    "RANKER",
    "RANKER_FEATURES",
    "TEXT_DIMENSION",
    "TEXT_ENCODER",
    "Array",
    "ModelSpec",
    "Runtime",
    "TensorSpec",
    "Tensors",
]
