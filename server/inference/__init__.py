"""Models behind one small contract: two runtimes, a router over them, and the two things that are asked of models."""

from server.inference.assembly import Inference, open_inference
from server.inference.contract import (
    RANKER,
    SEQUENCE_ENCODER,
    TEXT_DIMENSION,
    TEXT_ENCODER,
    Array,
    ModelSpec,
    Runtime,
    Tensors,
    TensorSpec,
)
from server.inference.encoder import BuiltEncoder, read_encoder
from server.inference.local import LocalRuntime
from server.inference.rank import Ranker, RankerScores
from server.inference.router import Answer, Router
from server.inference.sequence import EncodedHistory, SequenceEncoder
from server.inference.text import TextEmbeddings, TextEncoder
from server.inference.triton import TritonRuntime

__all__ = [
    "RANKER",
    "SEQUENCE_ENCODER",
    "TEXT_DIMENSION",
    "TEXT_ENCODER",
    "Answer",
    "Array",
    "BuiltEncoder",
    "EncodedHistory",
    "Inference",
    "LocalRuntime",
    "ModelSpec",
    "Ranker",
    "RankerScores",
    "Router",
    "Runtime",
    "SequenceEncoder",
    "TensorSpec",
    "Tensors",
    "TextEmbeddings",
    "TextEncoder",
    "TritonRuntime",
    "open_inference",
    "read_encoder",
]
