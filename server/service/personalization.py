"""Fills a page: content blocks and items, all chosen from the tenant's catalogue."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.domain import Interaction, Item, Rung, ScoredItem, TenantId, UserId
from server.domain.behavior import IntentStage, find_sessions, intent_stage
from server.retrieval.context import item_features
from server.service.candidates import content_candidates
from server.service.moments import Moment
from server.service.query import RecommendQuery
from server.service.recommendation import Recommendation, Recommendations
from server.service.watches import Change, Watches

RECOMMENDATIONS = "recommendations"
HERO_BANNER = "hero_banner"
CTA_BUTTONS = "cta_buttons"
CONTENT_TYPES = (HERO_BANNER, RECOMMENDATIONS, CTA_BUTTONS)

_BLOCKS = {HERO_BANNER: 1, CTA_BUTTONS: 3}
_RESULTS = {"basic": 6, "advanced": 10, "comprehensive": 20}
_FACTORS = 5
_FIT_TEMPERATURE = 0.25
_HISTORY_FOR_CERTAINTY = 50
_CONTEXT_FOR_CERTAINTY = 6
_STATE_S = 5.0
"""Seconds that a watched page may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    """What a page asks for."""

    user_id: UserId
    content_types: tuple[str, ...]
    depth: str
    """`basic`, `advanced` or `comprehensive`."""
    context: Mapping[str, Any]
    behavior: tuple[Interaction, ...] = ()
    """What the user did on the page; counts for this reply only."""
    token: str = ""
    max_results: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A content block, why it was chosen, and how clearly."""

    item: Item
    confidence: float
    """In [0, 1]: its share of the fit of all blocks of its type."""
    factors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageItem:
    """A recommended item with what a page shows of it."""

    item: Item
    scored: ScoredItem
    factors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A filled page."""

    blocks: Mapping[str, tuple[Block, ...]]
    items: tuple[PageItem, ...]
    confidence: float
    factors: tuple[str, ...]
    recommendation: Recommendation
    elapsed_s: float
    """Seconds that making it took."""


def page_confidence(history_length: int, context_features: int, rung: Rung) -> float:
    """Returns how much is known of the user, in [0, 1].

    Half comes from history (logarithmic, full at 50 interactions), three tenths from named context features (full at 6), two tenths
    from how far the reply came on the ladder. A stranger on an unknown page answered in full has 0.2.
    """
    history = min(1.0, math.log1p(history_length) / math.log1p(_HISTORY_FOR_CERTAINTY))
    context = min(1.0, context_features / _CONTEXT_FOR_CERTAINTY)
    return 0.5 * history + 0.3 * context + 0.2 * (rung / Rung.FULL)


def matched_factors(wanted: Mapping[str, float], offered: Mapping[str, float]) -> tuple[str, ...]:
    """Returns the named features that both sides have, strongest product first, as `axis:value`. Bands of numbers are left out."""
    shared = [(wanted[name] * offered[name], name) for name in wanted.keys() & offered.keys() if not _is_band(name)]
    return tuple(name.replace("=", ":", 1) for _, name in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:_FACTORS])


def _is_band(name: str) -> bool:
    return name.startswith(("price=", "party="))


class Personalization:
    """Chooses blocks by the same vectors that rank items."""

    def __init__(self, recommendations: Recommendations, watches: Watches) -> None:
        self._recommendations = recommendations
        self._watches = watches

    async def watch(self, tenant_id: TenantId, query: PageQuery) -> AsyncGenerator[tuple[Change, Page], None]:
        """Yields the page as it is now, then anew whenever more is known of the user, with what happened.

        A page is made when it is asked for, so a reader that is late gets the newest and those in between are never made.

        Raises:
            OverloadedError: Too many watches are open.
            UnavailableError: The server is stopping, or a page could not be made.
        """
        with self._watches.watch(tenant_id, query.user_id) as watch:
            async for change in watch.changes():
                async with self._watches.turn():
                    page = await self.generate(tenant_id, query, deadline=time.monotonic() + _STATE_S)
                yield change, page

    async def generate(self, tenant_id: TenantId, query: PageQuery, *, deadline: float) -> Page:
        """Returns the page. A content type without blocks in the catalogue stays empty."""
        started = time.perf_counter()
        asked = RecommendQuery(
            user_id=query.user_id,
            max_results=query.max_results or _RESULTS[query.depth],
            context=query.context,
            token=query.token,
            explain=query.depth == "comprehensive",
            method="GeneratePersonalization",
            use_history=query.depth != "basic",
            extra_history=query.behavior if query.depth != "basic" else (),
        )
        answer, moment = await self._recommendations.recommend_with_moment(tenant_id, asked, deadline=deadline)
        history = moment.history
        stage = intent_stage(history, find_sessions(history))
        wanted = {**moment.features, f"intent_stage={stage.value}": 1.0}
        blocks = {kind: self._choose(moment, kind, wanted, stage, count) for kind, count in _BLOCKS.items() if kind in query.content_types}
        items = self._items(answer, moment, wanted) if RECOMMENDATIONS in query.content_types else ()
        factors = tuple(name.replace("=", ":", 1) for name in sorted(wanted, key=lambda name: (-wanted[name], name)) if not _is_band(name))
        return Page(
            blocks=blocks,
            items=items,
            confidence=page_confidence(len(history), len(moment.features), answer.rung),
            factors=factors[: 2 * _FACTORS],
            recommendation=answer,
            elapsed_s=time.perf_counter() - started,
        )

    def _items(self, answer: Recommendation, moment: Moment, wanted: Mapping[str, float]) -> tuple[PageItem, ...]:
        found = []
        for scored in answer.items:
            item = moment.view.item(scored.item_id)
            if item is not None:
                found.append(PageItem(item, scored, matched_factors(wanted, item_features(item))))
        return tuple(found)

    def _choose(self, moment: Moment, kind: str, wanted: Mapping[str, float], stage: IntentStage, count: int) -> tuple[Block, ...]:
        candidates = content_candidates(moment.catalogue, moment.view, moment.user, kind)
        if not candidates:
            return ()
        offered = [_block_features(item) for item, _ in candidates]
        fits = np.array([score for _, score in candidates]) + np.array([float(f"intent_stage={stage.value}" in names) for names in offered])
        shares = np.exp((fits - fits.max()) / _FIT_TEMPERATURE)
        shares /= shares.sum()
        order = sorted(range(len(candidates)), key=lambda place: (-fits[place], candidates[place][0].item_id))[:count]
        return tuple(Block(candidates[place][0], float(shares[place]), matched_factors(wanted, offered[place])) for place in order)


def _block_features(item: Item) -> dict[str, float]:
    features = item_features(item)
    stages = item.attributes.get("intent_stage")
    for stage in [stages] if isinstance(stages, str) else stages if isinstance(stages, Sequence) else []:
        features[f"intent_stage={str(stage).casefold()}"] = 1.0
    return features
