"""Frozen values that layers pass to each other. No I/O, no protobuf, no numpy."""

from server.domain.decisions import Decision, Reason, Rung, ScoredItem
from server.domain.events import Event, consistency_token, parse_consistency_token
from server.domain.ids import BundleId, DecisionId, EventId, ItemId, TenantId, UserId
from server.domain.items import Item, item_text
from server.domain.profiles import Interaction, Profile

__all__ = [
    "BundleId",
    "Decision",
    "DecisionId",
    "Event",
    "EventId",
    "Interaction",
    "Item",
    "ItemId",
    "Profile",
    "Reason",
    "Rung",
    "ScoredItem",
    "TenantId",
    "UserId",
    "consistency_token",
    "item_text",
    "parse_consistency_token",
]
