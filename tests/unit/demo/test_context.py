from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from server.demo.generate import generate
from server.retrieval.context import item_features, request_features
from server.retrieval.vectors import hash_features
from training.metrics import parse_metrics, target_ranks, user_values


def test_context_finds_what_popularity_cannot_for_users_without_history() -> None:
    """For couples nobody has seen act, their traits and date rank what they went on to choose above what is popular, several times over."""
    demo = generate(250, 0, datetime(2026, 6, 1, tzinfo=UTC))
    items = [item for item in demo.items if not item.content_type]
    row = {item.item_id: place for place, item in enumerate(items)}
    chosen: dict[str, dict[int, datetime]] = {}
    for event in demo.events:
        if event.item_id in row:
            chosen.setdefault(event.user_id, {}).setdefault(row[event.item_id], event.occur_time)
    couples = [user for user in demo.users if user.user_id in chosen]
    known, new = couples[:150], couples[150:]
    popular = np.bincount([place for user in known for place in chosen[user.user_id]], minlength=len(items)).astype(np.float32)
    offered = np.stack([hash_features(item_features(item)) for item in items])
    asked = np.stack([hash_features(request_features({}, user, now=min(chosen[user.user_id].values()))) for user in new])
    found = [_ndcg(scores, [chosen[user.user_id] for user in new]) for scores in (asked @ offered.T, np.tile(popular, (len(new), 1)))]
    assert found[0] > 2 * found[1]


def _ndcg(scores: np.ndarray, chosen: list[dict[int, datetime]]) -> float:
    targets = [np.array(sorted(places), np.int64) for places in chosen]
    ranks = target_ranks(scores.copy(), [np.zeros(0, np.int64)] * len(targets), targets)
    return float(np.mean([user_values(found, parse_metrics("ndcg@10"))[0] for found in ranks]))
