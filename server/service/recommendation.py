"""Ranks a tenant's items for a user: the seven steps, and the ladder that they come down when something fails.

Shapes: N rows of the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from server.domain import BundleId, Decision, DecisionId, ItemId, Rung, ScoredItem, TenantId, UserId
from server.domain.decisions import PackedIds, pack_ids
from server.domain.shaping import ShapingPolicy
from server.errors import NotFoundError
from server.inference import Inference
from server.retrieval.view import IndexView
from server.service.candidates import Candidates, Request, gather, similar_candidates
from server.service.catalogues import Catalogues
from server.service.decisions import DecisionSink, new_decision_id
from server.service.explanation import explain
from server.service.lists import Found, Ladder, RankedList, RankedLists, kept_key, list_seed
from server.service.moments import Asker, Moment, Moments
from server.service.policies import Policies
from server.service.query import DEFAULT_RESULTS, RecommendQuery
from server.service.scoring import Scores, score
from server.service.shaping import allowed_rows, shaped
from server.service.steps import step
from server.service.users import Users
from server.telemetry import RUNGS, child, logger

SEED = "aisle.exploration_seed"
"""Name under which a decision's context holds the seed of its exploration, in hexadecimal."""

_RECORDED = 500
_COMPUTE_S = 2.0
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A ranked list and how it came about."""

    items: tuple[ScoredItem, ...]
    decision_id: DecisionId
    rung: Rung
    rung_reason: str
    bundle_id: BundleId
    runtime: str
    consistent: bool
    cache_level: str = ""
    """`l1`, `l2` or empty."""
    expires_in_s: float = 0.0
    """Seconds that the list may still be served from a cache; 0: it is not kept."""
    unknown: tuple[ItemId, ...] = ()


class Recommendations:
    """The use cases of RecommendationService."""

    def __init__(
        self,
        catalogues: Catalogues,
        users: Users,
        inference: Inference,
        lists: RankedLists,
        decisions: DecisionSink,
        policies: Policies,
    ) -> None:
        self._catalogues = catalogues
        self._users = users
        self._moments = Moments(users, inference.sequences)
        self._ranker = inference.ranker
        self._lists = lists
        self._decisions = decisions
        self._policies = policies
        self.on_served: Callable[[TenantId, RecommendQuery], None] | None = None
        """Hears of each list that `recommend` returns."""

    async def recommend(self, tenant_id: TenantId, query: RecommendQuery, *, deadline: float) -> Recommendation:
        """Returns the items that the user is likeliest to want next.

        Raises:
            FilterSyntaxError: The filter does not parse.
            UnavailableError: The tenant's catalogue is not loaded and cannot be.
        """
        asker, found = await self._find(tenant_id, query, deadline=deadline)
        return self._served(query, asker, found)

    async def warm(self, tenant_id: TenantId, query: RecommendQuery, deadline: float) -> None:
        """Fills the caches with what `recommend` would return. Records nothing: nobody was shown anything."""
        await self._find(tenant_id, query, deadline=deadline)

    async def _find(self, tenant_id: TenantId, query: RecommendQuery, *, deadline: float) -> tuple[Asker, Found]:
        ladder = Ladder()
        asker, eligible = await self._asked(tenant_id, query, ladder, deadline=deadline)
        return asker, await self._found(query, asker, eligible, None, ladder)

    async def recommend_with_moment(self, tenant_id: TenantId, query: RecommendQuery, *, deadline: float) -> tuple[Recommendation, Moment]:
        """Returns what `recommend` does, and the user's vector with all it came from, also where a cache had the list.

        Raises:
            FilterSyntaxError: The filter does not parse.
            UnavailableError: The tenant's catalogue is not loaded and cannot be.
        """
        ladder = Ladder()
        asker, eligible = await self._asked(tenant_id, query, ladder, deadline=deadline)
        with step("user"):
            moment = await self._moments.moment(asker, query.context, ladder, deadline=deadline)
        return self._served(query, asker, await self._found(query, asker, eligible, moment, ladder)), moment

    async def _asked(
        self, tenant_id: TenantId, query: RecommendQuery, ladder: Ladder, *, deadline: float
    ) -> tuple[Asker, NDArray[np.bool_]]:
        """Returns who asks, and the rows that may be shown to anybody, (N,)."""
        catalogue = await self._catalogues.get(tenant_id)
        view = catalogue.index.view()
        with step("filter"):
            eligible = catalogue.columns.eligible(view, query.filter)
        with step("user"):
            return await self._moments.asker(catalogue, view, query, ladder, deadline=deadline), eligible

    async def _found(
        self, query: RecommendQuery, asker: Asker, eligible: NDArray[np.bool_], moment: Moment | None, ladder: Ladder
    ) -> Found:
        """Returns a kept list that may still be shown, else one computed now."""
        catalogue = asker.catalogue
        policy = self._policies.of(catalogue.tenant_id)  # once: a list made under one must not be kept as another's

        async def compute() -> RankedList:
            # Others may wait for this list too, so it has a deadline of its own.
            own, reached = time.monotonic() + _COMPUTE_S, Ladder(ladder.rung, ladder.reason)
            seen = moment
            if seen is None:
                with step("user"):
                    seen = await self._moments.moment(asker, query.context, reached, deadline=own)
            return await self._ranked(seen, query, _allowed(asker, query, eligible, policy), reached, policy, deadline=own)

        key = kept_key(query, asker.known.profile, catalogue.bundle_id, policy) if ladder.rung is Rung.FULL else ""
        found = await self._lists.get_or_compute(catalogue.tenant_id, key, catalogue.best_rung, compute)
        # What the user may not be shown is in the key; an item that was deleted or changed past the filter is not.
        if found.level and not _still_eligible(found.ranked, asker.view, eligible):
            found = Found(await compute())
        return found

    def _served(self, query: RecommendQuery, asker: Asker, found: Found) -> Recommendation:
        if self.on_served is not None:
            self.on_served(asker.catalogue.tenant_id, query)
        return self._finish(query, asker, found)

    async def _ranked(
        self, moment: Moment, query: RecommendQuery, allowed: NDArray[np.bool_], ladder: Ladder, policy: ShapingPolicy, *, deadline: float
    ) -> RankedList:
        """Returns the list as it is computed, without caches: retrieve, rank, shape. Whatever breaks, there is a list."""
        try:
            with step("retrieve"):
                request = Request.of(moment.catalogue, moment.view, moment.user, moment.history, moment.stated)
                candidates = await gather(request, allowed, limit=query.limit)
            with step("rank"):
                scores = await score(self._ranker, moment.catalogue, candidates.features, ladder, deadline=deadline)
            with step("shape"):
                order, seed = scores.order(candidates.item_ids), self._seed(moment, query)
                found = shaped(moment.catalogue, moment.view, candidates, order, scores.scores, limit=query.limit, policy=policy, seed=seed)
                items = _entries(moment, candidates, scores, query, found.places)
        except Exception:  # noqa: BLE001  # the last rung stands for faults that nobody foresaw
            _log.exception("list not ranked", tenant=moment.catalogue.tenant_id)
            ladder.drop(Rung.STATIC, "the list could not be ranked; see the server's log")
            return static_list(moment.view, allowed, query.limit, ladder)
        drawn = f"{seed:x}" if found.propensities else ""
        return RankedList(items, scores.runtime, _recorded(candidates.item_ids), ladder, found.propensities, drawn)

    async def rank(self, tenant_id: TenantId, query: RecommendQuery, item_ids: Sequence[ItemId], *, deadline: float) -> Recommendation:
        """Returns the caller's items in order for the user; those that do not exist last, with score 0."""
        ladder = Ladder()
        catalogue = await self._catalogues.get(tenant_id)
        view = catalogue.index.view()
        with step("user"):
            asker = await self._moments.asker(catalogue, view, query, ladder, deadline=deadline)
            moment = await self._moments.moment(asker, query.context, ladder, deadline=deadline)
        asked = list(dict.fromkeys(item_ids))
        known = [item_id for item_id in asked if item_id in view]
        unknown = tuple(item_id for item_id in asked if item_id not in view)
        candidates = Candidates.of(Request.of(catalogue, view, moment.user, moment.history, moment.stated), view.rows_of(known))
        with step("rank"):
            scores = await score(self._ranker, catalogue, candidates.features, ladder, deadline=deadline)
        best = _entries(moment, candidates, scores, query, scores.order(candidates.item_ids))
        items = (*best, *(ScoredItem(item_id, 0.0) for item_id in unknown))
        ranked = RankedList(items, scores.runtime, _recorded(candidates.item_ids), ladder)
        return self._finish(query, asker, Found(ranked), unknown=unknown)

    async def similar(
        self, tenant_id: TenantId, item_id: ItemId, *, max_results: int, where: str
    ) -> tuple[tuple[ScoredItem, ...], BundleId]:
        """Returns the items most like one, by what people did and by text, and the bundle that answered.

        Raises:
            NotFoundError: The item does not exist.
        """
        catalogue = await self._catalogues.get(tenant_id)
        view = catalogue.index.view()
        if item_id not in view:
            raise NotFoundError(f"items/{item_id}")
        eligible = catalogue.columns.eligible(view, where)
        with step("retrieve"):
            candidates, likeness = await similar_candidates(catalogue, view, item_id, eligible, limit=max_results or DEFAULT_RESULTS)
        scores = Scores(likeness)
        order = scores.order(candidates.item_ids)[: max_results or DEFAULT_RESULTS]
        return scores.listed(candidates.item_ids, order), catalogue.bundle_id

    async def user_vector(self, tenant_id: TenantId, user_id: UserId, *, token: str, deadline: float) -> Moment:
        """Returns the user's vector and what it was computed from.

        Raises:
            UnavailableError: The profile cannot be read.
        """
        catalogue = await self._catalogues.get(tenant_id)
        known = await self._users.known(tenant_id, user_id, token=token, deadline=deadline)
        asker = Asker(catalogue, catalogue.index.view(), known, known.profile.history)
        return await self._moments.moment(asker, {}, Ladder(), deadline=deadline)

    def _seed(self, moment: Moment, query: RecommendQuery) -> int:
        catalogue, newest = moment.catalogue, moment.history[-1] if moment.history else None
        return list_seed(catalogue.tenant_id, query, moment.known.profile, catalogue.bundle_id, newest)

    def _finish(self, query: RecommendQuery, asker: Asker, found: Found, *, unknown: tuple[ItemId, ...] = ()) -> Recommendation:
        """Records the decision and returns the reply."""
        ranked, catalogue = found.ranked, asker.catalogue
        ladder = ranked.ladder
        decision = Decision(
            decision_id=new_decision_id(),
            user_id=query.user_id,
            method=query.method,
            decide_time=datetime.now(UTC),
            ranking=ranked.recorded,
            candidates=ranked.candidates,
            rung=ladder.rung,
            bundle_id=catalogue.bundle_id,
            runtime=ranked.runtime,
            context={key: str(value) for key, value in query.context.items()} | ({SEED: ranked.seed} if ranked.seed else {}),
        )
        self._decisions.record(catalogue.tenant_id, decision)
        child(RUNGS, query.method, ladder.rung.name).inc()
        return Recommendation(
            items=ranked.items,
            decision_id=decision.decision_id,
            rung=ladder.rung,
            rung_reason=ladder.reason,
            bundle_id=catalogue.bundle_id,
            runtime=ranked.runtime,
            consistent=asker.known.consistent,
            cache_level=found.level,
            expires_in_s=found.expires_in_s,
            unknown=unknown,
        )


def _allowed(asker: Asker, query: RecommendQuery, eligible: NDArray[np.bool_], policy: ShapingPolicy) -> NDArray[np.bool_]:
    known = asker.known.profile.history + query.extra_history
    return allowed_rows(asker.view, eligible, known, asker.history, policy, seen=query.include_seen)


def _entries(
    moment: Moment, candidates: Candidates, scores: Scores, query: RecommendQuery, places: Sequence[int]
) -> tuple[ScoredItem, ...]:
    if not query.explain:
        return scores.listed(candidates.item_ids, places)
    why = explain(moment.view, moment.catalogue.weights, moment.history, moment.features, candidates, places)
    return scores.listed(candidates.item_ids, places, why)


def static_list(view: IndexView, eligible: NDArray[np.bool_], limit: int, ladder: Ladder) -> RankedList:
    """Returns the first items that may be shown, in the order they came into the catalogue, all with score 0."""
    items = tuple(ScoredItem(item_id, 0.0) for item_id in view.ids(np.flatnonzero(eligible)[:limit]))
    return RankedList(items, "", _recorded([item.item_id for item in items]), ladder)


def _recorded(item_ids: Sequence[ItemId]) -> PackedIds:
    return PackedIds(pack_ids(item_ids[:_RECORDED]))


def _still_eligible(ranked: RankedList, view: IndexView, eligible: NDArray[np.bool_]) -> bool:
    """Returns whether every item of a kept list may still be shown: none was deleted, booked out or changed past the filter."""
    rows = ranked.rows_in(view)
    return rows is not None and bool(eligible[rows].all())
