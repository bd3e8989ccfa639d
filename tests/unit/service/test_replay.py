from __future__ import annotations

from datetime import UTC, datetime

import pytest

from server.service.replay import trained_until

_TRAINED = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "until"),
    [
        (datetime(2026, 6, 1, 11, 0, 0, 123456, UTC), datetime(2026, 6, 1, 11, 0, 0, 123456, UTC)),
        (datetime(2026, 6, 1, 12, 0, 0, 500000, UTC), datetime(2026, 6, 1, 12, 0, 0, 500000, UTC)),
        (datetime(2026, 6, 2, tzinfo=UTC), datetime(2026, 6, 1, 12, 0, 1, tzinfo=UTC)),
    ],
)
def test_events_up_to_the_last_one_trained_on_are_in_the_bundle(last: datetime, until: datetime) -> None:
    """To the microsecond; an event dated after the training hides none that came since."""
    assert trained_until({"lineage": {"last_event_s": last.timestamp()}, "create_time": _TRAINED.isoformat()}) == until


def test_a_bundle_of_no_events_contains_none() -> None:
    """Everything is new to it."""
    manifest = {"lineage": {"last_event_s": None}, "create_time": _TRAINED.isoformat()}
    assert trained_until(manifest) == datetime(1, 1, 1, tzinfo=UTC)
