"""Ranked lists in the caches, and what they are found by.

A key holds the profile's version and the bundle, so a behaviour event or a promotion makes the old lists unreachable; they age out. Lists
of a request with a consistency token, or with behaviour of its own, are never cached, nor are lists that came down the ladder.
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import orjson
from cachetools import TTLCache
from numpy.typing import NDArray

from server.cache import RECOMMENDATIONS_TTL_S, Cache
from server.domain import BundleId, Interaction, ItemId, Profile, Reason, Rung, ScoredItem, TenantId
from server.domain.decisions import PackedIds, Ranking
from server.domain.shaping import ShapingPolicy
from server.retrieval.exploration import seed_of
from server.retrieval.view import IndexView
from server.service.query import RecommendQuery, digest

IntArray = NDArray[np.int64]

RECOMMENDATIONS = "recommendations"
"""Kind of the entries."""

_LENGTH_BYTES = 4
_STALE_S = 300.0
"""Seconds past its end that a list is shown while it is ranked anew: its user did nothing since, or its key would be another."""
_FORMAT = 4
"""Of the bytes in the caches: an older process's are not read, nor does it read these."""

_REMEMBERED = 2_000
"""Lists kept as objects beside their bytes, some 12 kB each: a list that is in memory anyway is not read from bytes again."""
_REMEMBERED_S = 60.0
"""As long as their bytes stay in the process."""


@dataclass(slots=True)
class Ladder:
    """How far a reply has come so far. Only ever goes down."""

    rung: Rung = Rung.FULL
    reason: str = ""

    def drop(self, rung: Rung, reason: str) -> None:
        """Goes down to a rung, keeping the reason of the lowest."""
        if rung < self.rung:
            self.rung, self.reason = rung, reason


@dataclass(frozen=True)
class RankedList:
    """A list, what ranked it, what it was chosen from, and how far it came."""

    items: tuple[ScoredItem, ...]
    runtime: str
    candidates: PackedIds
    ladder: Ladder = field(default_factory=Ladder)
    propensities: tuple[float, ...] = ()
    """Of each item at its place; empty: nothing was random."""
    seed: str = ""
    """What the draw was made from; empty: nothing was random."""

    @cached_property
    def item_ids(self) -> tuple[ItemId, ...]:
        """The items' ids, in order."""
        return tuple(one.item_id for one in self.items)

    @cached_property
    def recorded(self) -> Ranking:
        """What a decision keeps of it."""
        scores = tuple(one.score for one in self.items)
        probabilities = tuple(one.probability for one in self.items if one.probability is not None)
        return Ranking.of(self.item_ids, scores, self.propensities or (1.0,) * len(self.items), probabilities)

    def rows_in(self, view: IndexView) -> IntArray | None:
        """Returns the rows of the items, in order, (n,); None where one is not there. Looked up once a view."""
        known = self.__dict__.get("_rows")
        if known is None or known[0]() is not view:
            rows = view.rows_of(self.item_ids)
            # As `cached_property` writes; weakly, so that a list in a cache does not hold an index that was replaced.
            known = self.__dict__["_rows"] = (weakref.ref(view), rows if bool((rows >= 0).all()) else None)
        found: IntArray | None = known[1]
        return found


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
        self._decoded: TTLCache[tuple[TenantId, str], tuple[bytes, RankedList]] = TTLCache(_REMEMBERED, _REMEMBERED_S)

    async def get_or_compute(self, tenant_id: TenantId, key: str, best: Rung, compute: Callable[[], Awaitable[RankedList]]) -> Found:
        """Returns a list and where it was found.

        Args:
            tenant_id: The tenant.
            key: From `kept_key`; empty: the list is computed and not kept.
            best: The rung that the tenant's lists have at best. Lists below it are not kept.
            compute: Makes the list.
        """
        if not key:
            return Found(await compute())

        async def encoded() -> bytes:
            ranked = await compute()
            if ranked.ladder.rung < best:
                raise _Degraded(ranked)
            content = _encode(ranked)
            self._decoded[tenant_id, key] = (content, ranked)
            return content

        try:
            found = await self._cache.get_or_compute(RECOMMENDATIONS, tenant_id, key, RECOMMENDATIONS_TTL_S, encoded, stale_s=_STALE_S)
        except _Degraded as degraded:
            return Found(degraded.ranked)
        remembered = self._decoded.get((tenant_id, key))
        if remembered is None or remembered[0] is not found.value:
            remembered = self._decoded[tenant_id, key] = (found.value, _decode(found.value))
        return Found(remembered[1], "" if found.level == "miss" else found.level, found.expires_in_s)


def kept_key(query: RecommendQuery, profile: Profile, bundle_id: BundleId, policy: ShapingPolicy) -> str:
    """Returns the key of a list that may be kept, else the empty string."""
    if query.token or query.extra_history:
        return ""
    # Events that book or may be repeated are the profile's: its version stands for what is kept out of the list as well.
    return f"{query.user_id}:{_version(profile)}:{bundle_id}:{_FORMAT}:{_digest_of(policy)}:{query.page}"


@lru_cache(maxsize=256)
def _digest_of(policy: ShapingPolicy) -> str:
    return digest(repr(policy))


def list_seed(tenant_id: TenantId, query: RecommendQuery, profile: Profile, bundle_id: BundleId, newest: Interaction | None) -> int:
    """Returns the seed of a list: all that it depends on but the catalogue's state, and not whether it is explained.

    `newest` is the last interaction that counts; None for none.
    """
    last = [f"{newest.item_id}|{newest.event_type}|{newest.occur_time.isoformat()}"] if newest else []
    return seed_of(tenant_id, f"{query.user_id}:{_version(profile)}:{bundle_id}:{digest(query.asked)}", *last)


def _version(profile: Profile) -> str:
    """Returns what tells states of a profile apart. A user deleted and met again has another creation time."""
    return f"{profile.version}@{profile.create_time.timestamp() if profile.create_time else 0}"


def _encode(ranked: RankedList) -> bytes:
    items = [
        (one.item_id, one.score, [(why.source, why.contribution, why.text) for why in one.reasons], one.probability) for one in ranked.items
    ]
    ladder = ranked.ladder
    fields = [items, ranked.runtime, int(ladder.rung), ladder.reason, ranked.propensities, ranked.seed]
    packed = ranked.candidates.packed
    # Compressed in 20 us to a third of the size, which Redis moves three times. Candidates stay packed from here to the database.
    return len(packed).to_bytes(_LENGTH_BYTES, "little") + packed + zlib.compress(orjson.dumps(fields), 1)


def _decode(content: bytes) -> RankedList:
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    items, runtime, rung, reason, propensities, seed = orjson.loads(zlib.decompress(content[start:]))
    return RankedList(
        tuple(
            ScoredItem(ItemId(item_id), score, tuple(Reason(*why) for why in reasons), probability)
            for item_id, score, reasons, probability in items
        ),
        runtime,
        PackedIds(content[_LENGTH_BYTES:start]),
        Ladder(Rung(rung), reason),
        tuple(propensities),
        seed,
    )
