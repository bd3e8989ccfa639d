"""What models are spared."""

from __future__ import annotations

import numpy as np
import pytest

from server.domain.ranking import RANKER_FEATURES
from server.errors import InvalidFieldError
from server.inference import RANKER, SEQUENCE_ENCODER, TEXT_ENCODER, ModelSpec, Tensors
from server.service.models import check_values


def texts(rows: int = 2, tokens: int = 3) -> dict[str, np.ndarray]:
    """The text encoder's input."""
    return {"input_ids": np.ones((rows, tokens), np.int64), "attention_mask": np.ones((rows, tokens), np.int64)}


def histories(rows: int = 2, events: int = 3) -> dict[str, np.ndarray]:
    """The sequence encoder's input."""
    shape = (rows, events)
    return {"items": np.ones((*shape, 384), np.float32), "actions": np.ones(shape, np.int64), "gaps": np.ones(shape, np.int64)}


def check(spec: ModelSpec, tensors: Tensors) -> None:
    """Checks as `Models.infer` does."""
    spec.check_inputs(tensors)
    check_values(spec, tensors, vocabulary=100, max_tokens=256)


@pytest.mark.parametrize(
    ("spec", "tensors"),
    [
        (TEXT_ENCODER, texts(64, 256)),
        (TEXT_ENCODER, {**texts(), "attention_mask": np.array([[1, 0, 0], [1, 1, 0]])}),
        (RANKER, {"features": np.full((4096, len(RANKER_FEATURES)), -1e6, np.float32)}),
        (SEQUENCE_ENCODER, histories(64, 200)),
        (SEQUENCE_ENCODER, {**histories(), "actions": np.array([[15, 0, 0], [1, 1, 0]]), "gaps": np.full((2, 3), 31)}),
    ],
)
def test_what_a_model_was_made_for_passes(spec: ModelSpec, tensors: dict[str, np.ndarray]) -> None:
    """Everything within the limits is let through, up to the limits."""
    check(spec, tensors)


@pytest.mark.parametrize(
    ("spec", "tensors", "field"),
    [
        (TEXT_ENCODER, texts(65, 256), "input_ids"),
        (TEXT_ENCODER, texts(1, 257), "input_ids"),
        (TEXT_ENCODER, {**texts(), "input_ids": np.full((2, 3), 100)}, "input_ids"),
        (TEXT_ENCODER, {**texts(), "input_ids": np.full((2, 3), -1)}, "input_ids"),
        (TEXT_ENCODER, {**texts(), "attention_mask": np.array([[1, 0, 1], [1, 1, 1]])}, "attention_mask"),
        (TEXT_ENCODER, {**texts(), "attention_mask": np.array([[0, 0, 0], [1, 1, 1]])}, "attention_mask"),
        (TEXT_ENCODER, {**texts(), "attention_mask": np.full((2, 3), 2)}, "attention_mask"),
        (TEXT_ENCODER, {**texts(), "attention_mask": np.ones((2, 2), np.int64)}, "attention_mask"),
        (RANKER, {"features": np.zeros((4097, len(RANKER_FEATURES)), np.float32)}, "features"),
        (RANKER, {"features": np.full((1, len(RANKER_FEATURES)), 3e38, np.float32)}, "features"),
        (SEQUENCE_ENCODER, histories(65, 1), "actions"),
        (SEQUENCE_ENCODER, histories(1, 201), "actions"),
        (SEQUENCE_ENCODER, {**histories(), "actions": np.full((2, 3), 16)}, "actions"),
        (SEQUENCE_ENCODER, {**histories(), "actions": np.array([[0, 1, 1], [1, 1, 1]])}, "actions"),
        (SEQUENCE_ENCODER, {**histories(), "actions": np.ones((2, 2), np.int64)}, "actions"),
        (SEQUENCE_ENCODER, {**histories(), "gaps": np.full((2, 3), 32)}, "gaps"),
        (SEQUENCE_ENCODER, {**histories(), "items": np.full((2, 3, 384), -2e6, np.float32)}, "items"),
    ],
)
def test_what_would_break_a_model_is_named(spec: ModelSpec, tensors: dict[str, np.ndarray], field: str) -> None:
    """Too much, or a number outside what the model knows, is refused by the tensor's name."""
    with pytest.raises(InvalidFieldError) as caught:
        check(spec, tensors)
    assert caught.value.field == f"{spec.name}.{field}"
