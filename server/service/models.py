"""The models that a tenant may call with tensors of its own: the text encoder that all share, and those of its live bundle.

What callers send is checked before a model sees it. A model that fails on a value counts as a fault of its runtime, and faults open the
circuit for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.domain import TenantId
from server.domain.profiles import HISTORY_LIMIT
from server.errors import InvalidFieldError, NotFoundError
from server.inference import RANKER, SEQUENCE_ENCODER, TEXT_ENCODER, Answer, Inference, ModelSpec, Tensors
from server.inference.contract import SEQUENCE_ACTIONS, SEQUENCE_GAPS
from server.inference.rank import MAX_ROWS
from server.service.catalogue import Catalogue
from server.service.catalogues import Catalogues

MAX_TOKENS = 16_384
"""Rows times length of one call of the text encoder: what bounds its memory."""
MAX_SEQUENCES = 64
"""Rows of one call of the sequence encoder."""
MAX_ABSOLUTE = 1e6
"""Largest number a model is given; beyond it float32 may overflow inside."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a tenant sees it."""

    name: str
    version: str
    """The text encoder's version, or the live bundle's id: another one answers differently."""
    spec: ModelSpec
    loaded_as: str
    """Its name in the router."""


class Models:
    """The use cases of the inference protocol."""

    def __init__(self, catalogues: Catalogues, inference: Inference) -> None:
        self._catalogues = catalogues
        self._inference = inference

    async def all(self, tenant_id: TenantId) -> list[Model]:
        """Returns the tenant's models."""
        catalogue = await self._catalogues.get(tenant_id)
        text = Model(TEXT_ENCODER.name, self._inference.encoder.version, TEXT_ENCODER, TEXT_ENCODER.name)
        return [text, *_of_bundle(catalogue)]

    async def get(self, tenant_id: TenantId, name: str, version: str = "") -> Model:
        """Returns a model.

        Raises:
            NotFoundError: The tenant has none of that name, or it has another version than the one asked for.
        """
        models = {model.name: model for model in await self.all(tenant_id)}
        model = models.get(name)
        if model is None:
            raise NotFoundError(f"models/{name[:100]}", f"the model {name[:100]!r} does not exist; {', '.join(models)} do")
        if version and version != model.version:
            message = f"version {version[:100]!r} of {name} is not served; {model.version!r} is, or name none"
            raise NotFoundError(f"models/{name}/versions/{version[:100]}", message)
        return model

    async def infer(self, tenant_id: TenantId, name: str, version: str, inputs: Tensors, *, deadline: float) -> tuple[Model, Answer]:
        """Returns the model and its answer.

        Raises:
            NotFoundError: See `get`.
            InvalidFieldError: A tensor is not what the model takes; see `check_values`.
            DeadlineExceededError: The deadline passed.
            UnavailableError: No runtime works.
        """
        model = await self.get(tenant_id, name, version)
        model.spec.check_inputs(inputs)
        encoder = self._inference.encoder
        check_values(model.spec, inputs, vocabulary=encoder.vocabulary, max_tokens=encoder.max_tokens)
        return model, await self._inference.router.infer(model.loaded_as, model.spec, inputs, deadline=deadline)


def check_values(spec: ModelSpec, inputs: Tensors, *, vocabulary: int, max_tokens: int) -> None:
    """Refuses tensors of the right types and shapes whose values no such model was made for.

    Args:
        spec: Of the model.
        inputs: As `ModelSpec.check_inputs` passed them.
        vocabulary: Token ids are below it.
        max_tokens: Of one text.

    Raises:
        InvalidFieldError: There are too many rows, or a number is out of its range.
    """
    for name, tensor in inputs.items():
        if tensor.dtype.kind == "f" and float(np.abs(tensor).max()) > MAX_ABSOLUTE:
            raise InvalidFieldError(f"{spec.name}.{name}", f"holds a number beyond {MAX_ABSOLUTE:g}")
    if spec is TEXT_ENCODER:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        _check_range("text_encoder.input_ids", ids, vocabulary)
        _check_mask("text_encoder.attention_mask", mask, ids.shape)
        if ids.shape[1] > max_tokens or ids.size > MAX_TOKENS:
            message = f"has shape {ids.shape}; rows hold at most {max_tokens} tokens, a call at most {MAX_TOKENS}"
            raise InvalidFieldError("text_encoder.input_ids", message)
    elif spec is RANKER:
        _check_rows("ranker.features", len(inputs["features"]), MAX_ROWS)
    else:
        actions = inputs["actions"]
        _check_rows("sequence_encoder.actions", len(actions), MAX_SEQUENCES)
        _check_range("sequence_encoder.actions", actions, SEQUENCE_ACTIONS)
        _check_range("sequence_encoder.gaps", inputs["gaps"], SEQUENCE_GAPS)
        if inputs["items"].shape[:2] != actions.shape or inputs["gaps"].shape != actions.shape or actions.shape[1] > HISTORY_LIMIT:
            message = f"must have the rows and events of items, at most {HISTORY_LIMIT} events, and so must gaps"
            raise InvalidFieldError("sequence_encoder.actions", message)
        if not (actions[:, 0] > 0).all():
            raise InvalidFieldError("sequence_encoder.actions", "must begin each row with an event; padding (0) stands at the end")


def _of_bundle(catalogue: Catalogue) -> list[Model]:
    loaded = ((RANKER, catalogue.ranker), (SEQUENCE_ENCODER, catalogue.sequence_encoder))
    return [Model(spec.name, catalogue.bundle_id, spec, name) for spec, name in loaded if name]


def _check_rows(field: str, rows: int, most: int) -> None:
    if rows > most:
        raise InvalidFieldError(field, f"has {rows} rows; send at most {most} in a call")


def _check_range(field: str, numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]], stop: int) -> None:
    if int(numbers.min()) < 0 or int(numbers.max()) >= stop:
        raise InvalidFieldError(field, f"holds a number outside [0, {stop})")


def _check_mask(field: str, mask: np.ndarray[tuple[int, ...], np.dtype[np.int64]], shape: tuple[int, ...]) -> None:
    """Refuses what is not ones followed by zeros in each row."""
    if mask.shape != shape or not np.isin(mask, (0, 1)).all() or not (mask[:, 0] == 1).all() or (np.diff(mask, axis=1) > 0).any():
        raise InvalidFieldError(field, f"must have shape {shape}, and in each row ones for tokens, at least one, then zeros for padding")
