"""Identifiers. All are opaque strings; the types keep them from being swapped."""

from __future__ import annotations

from typing import NewType

TenantId = NewType("TenantId", str)
"""`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`."""

UserId = NewType("UserId", str)
"""The last segment of `users/ID`: 1 to 256 characters, no slash."""

ItemId = NewType("ItemId", str)
"""The last segment of `items/ID`: 1 to 256 characters, no slash."""

EventId = NewType("EventId", str)
"""Chosen by the sender, at most 128 characters; unique in its tenant. Two events of one id are one event."""

DecisionId = NewType("DecisionId", str)
"""UUIDv7-like hex, made by us: sorts by time."""

BundleId = NewType("BundleId", str)
"""`b-` and the first 16 hex digits of the manifest's SHA-256."""
