"""Says why an item is in a list, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from server.domain import Interaction, Item, Reason
from server.retrieval.context import item_features
from server.retrieval.fusion import SOURCES, FusionWeights
from server.retrieval.fusion import reasons as reason_matrix
from server.retrieval.vectors import SEMANTIC
from server.retrieval.view import IndexView
from server.service.candidates import Candidates, FloatArray

_MOST = 3
_LEAST_SHARE = 0.05

Telling = Callable[["_Why", Item], str]


class _Why:
    """What sentences are made from, computed once a list."""

    def __init__(self, view: IndexView, history: Sequence[Interaction], features: Mapping[str, float]) -> None:
        self.view = view
        self.features = features
        recent = list(dict.fromkeys(interaction.item_id for interaction in reversed(history)))[:20]
        self.touched = [item for item in map(view.item, recent) if item is not None]
        rows = view.rows_of([item.item_id for item in self.touched])
        texts: FloatArray = view.vectors(rows)[:, SEMANTIC] if len(rows) else np.zeros((0, 1), np.float32)
        self.touched_texts = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-9)

    def nearest(self, item: Item) -> str:
        """Returns the title of the item in the history whose text is nearest."""
        vector = self.view.vectors(self.view.rows_of([item.item_id]))[0, SEMANTIC]
        return self.touched[int(np.argmax(self.touched_texts @ vector))].title

    def shared(self, item: Item) -> str:
        """Returns the features that the item shares with the request, as `style: rustic, place: porto`."""
        offered = item_features(item)
        names = sorted(self.features.keys() & offered.keys(), key=lambda name: (-self.features[name] * offered[name], name))
        plain = [name.replace("=", ": ", 1) for name in names if not name.startswith(("price=", "party="))]
        bands = {"price=": "price", "party=": "size"}
        plain += [word for prefix, word in bands.items() if any(name.startswith(prefix) for name in names)]
        return ", ".join(plain[:3])


def explain(
    view: IndexView,
    weights: FusionWeights,
    history: Sequence[Interaction],
    features: Mapping[str, float],
    candidates: Candidates,
    order: Sequence[int],
) -> list[tuple[Reason, ...]]:
    """Returns the strongest reasons of each candidate in `order`, at most three, largest contribution first."""
    parts = reason_matrix(candidates.features[list(order)], weights)
    why = _Why(view, history, features)
    told = []
    for place, shares in zip(order, parts.tolist(), strict=True):
        item = view.item(candidates.item_ids[place])
        total = sum(share for share in shares if share > 0)
        ranked = sorted(zip(shares, SOURCES, strict=True), key=lambda pair: -pair[0])
        told.append(
            tuple(
                Reason(source, share, _sentence(source, why, item))
                for share, source in ranked[:_MOST]
                if item is not None and share > _LEAST_SHARE * total
            )
        )
    return told


def _sentence(source: str, why: _Why, item: Item) -> str:
    if source == "semantic" and why.touched:
        return f"Reads like {why.nearest(item)}"
    if source == "collaborative" and why.touched:
        return "Chosen by people whose taste is like yours"
    if source == "item_to_item" and why.touched:
        return f"People who looked at {why.touched[0].title} went on to this"
    if source == "contextual" and (shared := why.shared(item)):
        return f"Fits what you plan: {shared}"
    return _PLAIN[source]


_PLAIN = {
    "semantic": "Fits what you read",
    "collaborative": "Chosen by people like you",
    "sequential": "Often the next step from here",
    "contextual": "Fits what you plan",
    "item_to_item": "People with a history like yours went on to this",
    "trending": "Many look at this right now",
    "fresh": "New here",
    "popular": "Popular with everyone",
}
