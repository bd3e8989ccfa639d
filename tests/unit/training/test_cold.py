from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from server.domain.ids import ItemId
from server.domain.items import Item
from server.errors import InvalidFieldError
from tests.unit.training.synthetic import events_of, two_tastes
from training import cold
from training.data import RawEvents, raw_events
from training.metrics import parse_metrics

_METRICS = parse_metrics("hr@10,ndcg@10")


def _vectors(item_ids: Sequence[ItemId]) -> np.ndarray:
    """Returns text vectors that say nothing."""
    vectors = np.random.default_rng(1).standard_normal((len(item_ids), 384)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _data() -> tuple[RawEvents, RawEvents, list[Item]]:
    vocabulary, interactions, titles = two_tastes(users=1500)
    last = interactions.last_of_each(least=2)
    parts = []
    for keep in (~last, last):
        rows = zip(interactions.users[keep].tolist(), interactions.items[keep].tolist(), interactions.times[keep].tolist(), strict=True)
        parts.append(raw_events([(vocabulary.user_ids[user], vocabulary.item_ids[item], "click", time) for user, item, time in rows]))
    items = [Item(item_id=item_id, title=title) for item_id, title in zip(vocabulary.item_ids, titles, strict=True)]
    return parts[0], parts[1], items


def test_cold_items_are_ranked_by_what_words_go_together() -> None:
    """Where only histories tell which words belong together, the learned view beats the likeness of words and of texts."""
    fitted, test, items = _data()
    found = cold.evaluate_cold(fitted, test, share=0.1, items=items, text_vectors=_vectors, metrics=_METRICS)
    assert found.cold_items == 30
    assert found.users["test"] < found.users["all"]
    table = found.results["all"]
    assert table["aisle"]["ndcg@10"].low > table["tfidf"]["ndcg@10"].high
    assert table["aisle"]["ndcg@10"].low > table["minilm_mean"]["ndcg@10"].high


def test_nothing_of_a_cold_item_reaches_training() -> None:
    """Events on cold items do not change what is fitted: they are targets only."""
    fitted, test, items = _data()
    first = cold.evaluate_cold(fitted, test, share=0.1, items=items, text_vectors=_vectors, metrics=_METRICS)
    order = np.random.default_rng(0).permutation(len(items))[:30]
    hidden = {sorted(item.item_id for item in items)[place] for place in order.tolist()}
    without = fitted.select(np.array([item not in hidden for item in fitted.items]))
    second = cold.evaluate_cold(without, test, share=0.1, items=items, text_vectors=_vectors, metrics=_METRICS)
    assert first.warm_events == second.warm_events == len(without.users)
    assert first.results["test"] == second.results["test"]


def test_nobody_to_ask_is_said() -> None:
    """Users who touched only warm items, or only cold ones, leave nothing to measure."""
    events = events_of({"u": ["a"], "v": ["a"]})
    items = [Item(item_id=ItemId(name), title=name) for name in ("a", "b")]
    with pytest.raises(InvalidFieldError, match="cold"):
        cold.evaluate_cold(events, events, share=0.5, items=items, text_vectors=_vectors, metrics=_METRICS)
