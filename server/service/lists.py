"""Ranked lists in the caches.

A key holds the profile's version and the bundle, so a behaviour event or a promotion makes the old lists unreachable; they age out. Lists
of a request with a consistency token, or with behaviour of its own, are never cached, nor are lists that came down the ladder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson

from server.cache import RECOMMENDATIONS_TTL_S, Cache
from server.domain import ItemId, Reason, Rung, ScoredItem, TenantId

RECOMMENDATIONS = "recommendations"
"""Kind of the entries."""


@dataclass(slots=True)
class Ladder:
    """How far a reply has come so far. Only ever goes down."""

    rung: Rung = Rung.FULL
    reason: str = ""

    def drop(self, rung: Rung, reason: str) -> None:
        """Goes down to a rung, keeping the reason of the lowest."""
        if rung < self.rung:
            self.rung, self.reason = rung, reason


@dataclass(frozen=True, slots=True)
class RankedList:
    """A list, what ranked it, what it was chosen from, and how far it came."""

    items: tuple[ScoredItem, ...]
    runtime: str
    candidates: tuple[ItemId, ...]
    ladder: Ladder = field(default_factory=Ladder)


@dataclass(frozen=True, slots=True)
class Found:
    """A list and where it came from."""

    ranked: RankedList
    level: str = ""
    """`l1`, `l2`, or empty: it was computed."""
    expires_in_s: float = 0.0
    """Seconds it may still be served from a cache; 0: it is not kept."""


class _Degraded(Exception):  # noqa: N818  # carries a list past the cache; nothing failed
    def __init__(self, ranked: RankedList) -> None:
        super().__init__("not cached")
        self.ranked = ranked


class RankedLists:
    """Reads lists, computing those that are missing once however many ask."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get_or_compute(self, tenant_id: TenantId, key: str, best: Rung, compute: Callable[[], Awaitable[RankedList]]) -> Found:
        """Returns a list and where it was found.

        Args:
            tenant_id: The tenant.
            key: From `list_key`; empty: the list is computed and not kept.
            best: The rung that the tenant's lists have at best. Lists below it are not kept.
            compute: Makes the list.
        """
        if not key:
            return Found(await compute())

        async def encoded() -> bytes:
            ranked = await compute()
            if ranked.ladder.rung < best:
                raise _Degraded(ranked)
            return _encode(ranked)

        try:
            found = await self._cache.get_or_compute(RECOMMENDATIONS, tenant_id, key, RECOMMENDATIONS_TTL_S, encoded)
        except _Degraded as degraded:
            return Found(degraded.ranked)
        return Found(_decode(found.value), "" if found.level == "miss" else found.level, found.expires_in_s)


def list_key(user: str, version: str, bundle: str, asked: object) -> str:
    """Returns the key of a user's list for what is asked, any JSON value."""
    digest = hashlib.blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    return f"{user}:{version}:{bundle}:{digest}"


def _encode(ranked: RankedList) -> bytes:
    items = [(one.item_id, one.score, [(why.source, why.contribution, why.text) for why in one.reasons]) for one in ranked.items]
    return orjson.dumps([items, ranked.runtime, ranked.candidates, int(ranked.ladder.rung), ranked.ladder.reason])


def _decode(content: bytes) -> RankedList:
    items, runtime, candidates, rung, reason = orjson.loads(content)
    return RankedList(
        tuple(ScoredItem(ItemId(item_id), score, tuple(Reason(*why) for why in reasons)) for item_id, score, reasons in items),
        runtime,
        tuple(map(ItemId, candidates)),
        Ladder(Rung(rung), reason),
    )
