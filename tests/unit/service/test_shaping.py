"""What shaping is told of a request's candidates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from server.domain import Interaction, Item, ItemId, TenantId
from server.domain.ranking import RANKER_FEATURES, VECTOR_DIMENSIONS
from server.domain.shaping import ShapingPolicy
from server.retrieval.diversity import likeness_vectors
from server.retrieval.index import ItemIndex
from server.retrieval.shaping import Facts, shape
from server.retrieval.vectors import SEMANTIC
from server.service.candidates import Candidates
from server.service.catalogue import Catalogue
from server.service.shaping import allowed_rows, shaped
from server.telemetry import SHAPED

NOW = datetime.now(UTC)
SCORES = np.array([4.0, 9.0, 6.0, 7.0, 8.0, 5.0], np.float32)
IDS = tuple(ItemId(name) for name in "abcdef")
ORDER = [1, 4, 3, 2, 5, 0]


def catalogue(attributes: Mapping[str, Mapping[str, Any]] | None = None, *, new: str = "") -> Catalogue:
    """Returns a catalogue of six items with random texts, made a year ago but for the new ones."""
    index = ItemIndex(VECTOR_DIMENSIONS)
    vectors = np.zeros((6, VECTOR_DIMENSIONS), np.float32)
    vectors[:, SEMANTIC] = np.abs(np.random.default_rng(0).normal(size=(6, 384)) ** 3)
    items = [
        Item(
            item_id=item_id,
            title=item_id,
            attributes=(attributes or {}).get(item_id, {}),
            create_time=NOW - timedelta(days=1 if item_id in new else 365),
        )
        for item_id in IDS
    ]
    index.upsert(items, vectors)
    return Catalogue.new(TenantId("shop"), None, index, trending_origin=NOW)


def listed(offered: Catalogue, policy: ShapingPolicy, limit: int = 4, seed: int = 0) -> str:
    """Returns the names of the list."""
    candidates = Candidates(IDS, np.zeros((6, len(RANKER_FEATURES)), np.float32))
    found = shaped(offered, offered.index.view(), candidates, ORDER, SCORES, limit=limit, policy=policy, seed=seed)
    return "".join(IDS[place] for place in found.places)


def test_the_default_list_is_the_order_of_scores() -> None:
    """Without settings the served list is the order that it was given."""
    assert listed(catalogue(), ShapingPolicy()) == "bedc"


def test_vendors_are_read_from_the_configured_attribute() -> None:
    """A nested path names the vendor; items without it are held back by nothing, and what is held back is counted."""
    before = SHAPED.labels("vendor_cap")._value.get()
    sellers: dict[str, dict[str, Any]] = {name: {"seller": {"id": 7}} for name in "bed"} | {
        "c": {"seller": {"id": ""}},
        "f": {"seller": "x"},
    }
    assert listed(catalogue(sellers), ShapingPolicy(vendor_cap=1, vendor_path=("seller", "id"))) == "bcfa"
    assert SHAPED.labels("vendor_cap")._value.get() == before + 2


def test_new_items_are_those_created_lately() -> None:
    """An item created within the days named gets its place in the lower half; an older one does not."""
    assert listed(catalogue(new="a"), ShapingPolicy(new_item_share=0.25, new_item_days=2)) == "bead"
    assert listed(catalogue(new="a"), ShapingPolicy(new_item_share=0.25, new_item_days=0.5)) == "bedc"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_served_list_can_be_made_offline(seed: int) -> None:
    """The same function, given the scores, vectors and the seed of the record, makes the same list."""
    offered, policy = catalogue(), ShapingPolicy(diversity=0.6, exploration=0.5)
    view = offered.index.view()
    best_first = [IDS[place] for place in ORDER]
    likeness = likeness_vectors(view.vectors(view.rows_of(best_first)))
    offline = shape(Facts(scores=SCORES[ORDER], likeness=likeness), 4, policy, seed=seed)
    assert listed(offered, policy, seed=seed) == "".join(best_first[place] for place in offline.places)


def test_what_was_booked_stays_out_and_what_was_seen_comes_when_asked_for() -> None:
    """Booked items are never allowed, seen ones if the caller says so, and what nobody may see is not let in by it."""
    view = catalogue().index.view()
    eligible = np.array([True, True, True, True, True, False])
    history = [Interaction(ItemId(name), kind, NOW) for name, kind in (("a", "view"), ("b", "booking"), ("gone", "view"), ("f", "view"))]

    def allowed(*, seen: bool, counted: bool = True) -> str:
        rows = allowed_rows(view, eligible, history, history if counted else [], ShapingPolicy(), seen=seen)
        return "".join(view.ids(np.flatnonzero(rows)))

    assert allowed(seen=False) == "cde"
    assert allowed(seen=True) == "acde"
    assert allowed(seen=False, counted=False) == "acde"
    assert eligible.tolist() == [True] * 5 + [False]
