from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from server.cli.bundle_text import bundle_text
from server.domain import BundleId
from server.store.bundles import BundleFile, StoredBundle

_BUNDLE = StoredBundle(
    bundle_id=BundleId("b-1"),
    state="LIVE",
    manifest={
        "items": 9,
        "lineage": {"events": 7, "users": 3, "first_event_s": 0.0, "last_event_s": 86400.0},
        "metrics": {"aisle": {"ndcg@10": {"value": 0.5, "low": 0.25, "high": 0.75}}},
        "fusion": {"sparse": 1.0, "popularity": 0.02},
    },
    files={"ranker.onnx": BundleFile(1_500_000, "ab" * 32)},
    create_time=datetime(2024, 5, 1, 12, 30, tzinfo=UTC),
    promote_time=datetime(2024, 5, 2, tzinfo=UTC),
    previous_bundle_id=BundleId("b-0"),
)


def test_a_bundle_is_told_in_words() -> None:
    """State, what it was fitted on, metrics with intervals, weights and files are lines that can be read."""
    lines = bundle_text(_BUNDLE).splitlines()
    assert lines[:3] == [
        "bundles/b-1 LIVE, trained 2024-05-01 12:30, promoted 2024-05-02 00:00",
        "before it: bundles/b-0",
        "fitted on 7 events of 3 users, 1970-01-01 00:00 to 1970-01-02 00:00; 9 items can be recommended",
    ]
    assert lines[4].split() == ["aisle", "0.5000", "[0.2500,", "0.7500]"]
    assert lines[5] == "fusion: sparse 1, popularity 0.02"
    assert lines[-2:] == ["1 files, 1.5 MB:", f"  {'ranker.onnx':28}     1,500,000  abababababababab"]


def test_a_bundle_of_little_data_is_told_too() -> None:
    """What the manifest lacks is left out, and that nothing was judged is said."""
    lines = bundle_text(replace(_BUNDLE, manifest={}, promote_time=None, previous_bundle_id=None)).splitlines()
    assert lines[:2] == ["bundles/b-1 LIVE, trained 2024-05-01 12:30", "not evaluated: too little could be held out"]
