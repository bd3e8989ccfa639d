"""Looks up what shaping needs to know of a request's candidates, and counts what it did.

Shapes: N rows of the index, C candidates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.domain import Interaction, ItemId
from server.domain.shaping import ShapingPolicy, booked_items, seen_items
from server.retrieval.columns import attribute_values
from server.retrieval.diversity import POOL, likeness_vectors
from server.retrieval.shaping import Facts, Shaped, shape
from server.retrieval.view import IndexView
from server.service.candidates import BoolArray, Candidates
from server.service.catalogue import Catalogue
from server.telemetry import SHAPED

FloatArray = NDArray[np.float32]

_DAY_S = 86400.0


def allowed_rows(
    view: IndexView, eligible: BoolArray, known: Sequence[Interaction], counted: Sequence[Interaction], policy: ShapingPolicy, *, seen: bool
) -> BoolArray:
    """Returns which of the eligible rows may be shown to the user, (N,).

    Args:
        view: The index.
        eligible: bool, (N,): rows that may be shown to anybody.
        known: All that is known of the user: what was booked stays out whatever the request says.
        counted: The interactions that count for this request.
        policy: Which events book, and which may be repeated.
        seen: Whether what was seen may be shown.
    """
    hidden = booked_items(known, policy) if seen else booked_items(known, policy) | seen_items(counted, policy)
    if not hidden:
        return eligible
    allowed = eligible.copy()
    rows = view.rows_of(list(hidden))
    allowed[rows[rows >= 0]] = False
    return allowed


def shaped(
    catalogue: Catalogue,
    view: IndexView,
    candidates: Candidates,
    order: Sequence[int],
    scores: FloatArray,
    *,
    limit: int,
    policy: ShapingPolicy,
    seed: int,
) -> Shaped:
    """Returns the list for candidates in `order`, in the candidates' places."""
    ids = [candidates.item_ids[place] for place in order]
    found = shape(_facts(catalogue, view, ids, scores[list(order)], policy), limit, policy, seed=seed)
    for what, count in (("vendor_cap", found.capped), ("new_item", found.lifted), ("exploration", found.drawn)):
        if count:
            SHAPED.labels(what).inc(count)
    return Shaped(tuple(order[place] for place in found.places), found.propensities, found.capped, found.lifted, found.drawn)


def _facts(catalogue: Catalogue, view: IndexView, ids: Sequence[ItemId], scores: FloatArray, policy: ShapingPolicy) -> Facts:
    """Returns the facts that the policy asks for; the default one asks for none."""
    rows = view.rows_of(ids) if policy.diversity or policy.new_item_share or policy.vendor_cap else np.zeros(0, np.int64)
    return Facts(
        scores=scores,
        likeness=likeness_vectors(view.vectors(rows[:POOL])) if policy.diversity else None,
        vendors=[_vendor(item.attributes, policy.vendor_path) for item in view.items(rows)] if policy.vendor_cap else None,
        new=catalogue.columns.of(view).created_s[rows] > time.time() - policy.new_item_days * _DAY_S if policy.new_item_share else None,
    )


def _vendor(attributes: Mapping[str, Any], path: tuple[str, ...]) -> str | float | None:
    """Returns the first text or number at a path; None where there is none or the text is empty."""
    values, _ = attribute_values(attributes, path)
    return values[0] if values and values[0] != "" else None  # 0 is a vendor's number like any other
