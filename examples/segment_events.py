"""Segment's library tells what a visitor does, first unknown and then known: all of it becomes the user's.

Run `python examples/segment_events.py URL KEY`; the URL is that of Aisle's HTTP door, such as `http://127.0.0.1:8080`, and the key has the
scopes `events` and `profiles`.

Needs `pip install segment-analytics-python`.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

from segment.analytics.client import Client


def main(url: str, key: str) -> None:
    """Sends five messages in one batch."""
    failures: list[Any] = []
    analytics = Client(key, host=f"{url}/compat/segment", gzip=True, max_retries=2, on_error=lambda error, _batch: failures.append(error))
    visitor, user = f"visitor-{uuid.uuid4().hex[:8]}", f"user-{uuid.uuid4().hex[:8]}"
    analytics.page(anonymous_id=visitor, category="Venues", name="Barns")
    analytics.track(anonymous_id=visitor, event="Product Viewed", properties={"product_id": "barn-7"})
    analytics.identify(user, {"city": "Porto"}, anonymous_id=visitor, context={"timezone": "Europe/Lisbon"})
    analytics.track(user, "Product Added to Wishlist", {"product_id": "barn-7"})
    analytics.track(user, "Order Completed", {"products": [{"product_id": "barn-7"}, {"product_id": "cake-3"}], "revenue": 5200})
    analytics.flush()
    analytics.shutdown()
    if failures:
        sys.exit(f"segment_events: {failures[0]}")
    print(f"{visitor} became {user}; see {url}/v1/users/{user}/profile")


if __name__ == "__main__":
    main(*sys.argv[1:3])
