"""Ranks a tenant's items for a user: the seven steps, and the ladder that they come down when something fails.

Shapes: N rows of the index, C candidates, F ranker features.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry import trace

from server.domain import BundleId, Decision, DecisionId, Interaction, Item, ItemId, Profile, Rung, ScoredItem, TenantId, UserId
from server.errors import AisleError, InvalidArgumentError, NotFoundError
from server.inference import Ranker
from server.retrieval.context import request_features
from server.retrieval.fusion import retrieval_score
from server.retrieval.vectors import SEMANTIC, UserVector
from server.retrieval.view import IndexView
from server.service.candidates import Candidates, Request, content_candidates, eligible_mask, gather, similar_candidates
from server.service.catalogue import Catalogue
from server.service.catalogues import Catalogues
from server.service.decisions import DecisionSink, new_decision_id
from server.service.explanation import explain
from server.service.lists import Found, Ladder, RankedList, RankedLists, list_key
from server.service.users import KnownUser, Users
from server.telemetry import RUNGS, STEP_SECONDS, logger

DEFAULT_RESULTS = 20
_RANK_SHARE = 0.5
_RECORDED = 500
_USER_SHARE = 0.4
_COMPUTE_S = 2.0
_tracer = trace.get_tracer("aisle")
_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendQuery:
    """What is asked."""

    user_id: UserId
    max_results: int = 0
    """0: `DEFAULT_RESULTS`."""
    context: Mapping[str, Any] = field(default_factory=dict)
    filter: str = ""
    include_seen: bool = False
    token: str = ""
    explain: bool = False
    method: str = "RecommendItems"
    use_history: bool = True
    extra_history: tuple[Interaction, ...] = ()
    """Interactions that count for this reply only, newest last."""

    @property
    def limit(self) -> int:
        """Items to return."""
        return self.max_results or DEFAULT_RESULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Everything that one request sees, at one moment: no step looks at anything newer than another did."""

    catalogue: Catalogue
    view: IndexView
    known: KnownUser
    history: tuple[Interaction, ...]
    features: Mapping[str, float]
    user: UserVector


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
    moment: Moment
    cache_level: str = ""
    """`l1`, `l2` or empty."""
    expires_in_s: float = 0.0
    """Seconds that the list may still be served from a cache; 0: it is not kept."""
    unknown: tuple[ItemId, ...] = ()

    @property
    def history(self) -> tuple[Interaction, ...]:
        """The interactions that counted, oldest first."""
        return self.moment.history

    @property
    def features(self) -> Mapping[str, float]:
        """The named features of the request that counted."""
        return self.moment.features

    def item(self, item_id: ItemId) -> Item | None:
        """Returns an item of the list."""
        return self.moment.view.item(item_id)

    def content(self, content_type: str) -> list[tuple[Item, float]]:
        """Returns the tenant's content blocks of a type, each with how well it fits the user."""
        return content_candidates(self.moment.catalogue, self.moment.view, self.moment.user, content_type)


class Recommendations:
    """The use cases of RecommendationService."""

    def __init__(self, catalogues: Catalogues, users: Users, ranker: Ranker, lists: RankedLists, decisions: DecisionSink) -> None:
        self._catalogues = catalogues
        self._users = users
        self._ranker = ranker
        self._lists = lists
        self._decisions = decisions

    async def recommend(self, tenant_id: TenantId, query: RecommendQuery, *, deadline: float) -> Recommendation:
        """Returns the items that the user is likeliest to want next.

        Raises:
            FilterSyntaxError: The filter does not parse.
            UnavailableError: The tenant's catalogue is not loaded and cannot be.
        """
        ladder = Ladder()
        catalogue = await self._catalogues.get(tenant_id)
        view = catalogue.index.view()
        with _step("filter"):
            eligible = eligible_mask(view, query.filter)
        with _step("user"):
            moment = await self._moment(catalogue, view, query, ladder, deadline=deadline)

        async def compute() -> RankedList:
            # Others may wait for this list too, so it has a deadline of its own.
            own = time.monotonic() + _COMPUTE_S
            return await self._ranked(moment, query, eligible, Ladder(ladder.rung, ladder.reason), deadline=own)

        key = _list_key(moment, query) if ladder.rung is Rung.FULL else ""
        found = await self._lists.get_or_compute(tenant_id, key, catalogue.best_rung, compute)
        if found.level and not _still_eligible(found.ranked, view, eligible):
            found = Found(await compute())
        return self._finish(tenant_id, query, moment, found)

    async def _ranked(
        self, moment: Moment, query: RecommendQuery, eligible: NDArray[np.bool_], ladder: Ladder, *, deadline: float
    ) -> RankedList:
        """Returns the list as it is computed, without caches: retrieve, rank, shape. Whatever breaks, there is a list."""
        try:
            with _step("retrieve"):
                request = Request.of(moment.catalogue, moment.view, moment.user, moment.history)
                candidates = await gather(request, eligible, limit=query.limit, seen=query.include_seen)
            with _step("rank"):
                scores, runtime = await self._score(moment.catalogue, candidates.features, ladder, deadline=deadline)
            with _step("shape"):
                items = _best(moment, candidates, scores, query)
        except Exception:  # noqa: BLE001  # the last rung stands for faults that nobody foresaw
            _log.exception("list not ranked", tenant=moment.catalogue.tenant_id)
            ladder.drop(Rung.STATIC, "the list could not be ranked; see the server's log")
            return static_list(moment.view, eligible, query.limit, ladder)
        return RankedList(items, runtime, candidates.item_ids, ladder)

    async def rank(self, tenant_id: TenantId, query: RecommendQuery, item_ids: Sequence[ItemId], *, deadline: float) -> Recommendation:
        """Returns the caller's items in order for the user; those that do not exist last, with score 0."""
        ladder = Ladder()
        catalogue = await self._catalogues.get(tenant_id)
        view = catalogue.index.view()
        with _step("user"):
            moment = await self._moment(catalogue, view, query, ladder, deadline=deadline)
        asked = list(dict.fromkeys(item_ids))
        known = [item_id for item_id in asked if item_id in view]
        unknown = tuple(item_id for item_id in asked if item_id not in view)
        candidates = Candidates.of(Request.of(catalogue, view, moment.user, moment.history), view.rows_of(known))
        with _step("rank"):
            scores, runtime = await self._score(catalogue, candidates.features, ladder, deadline=deadline)
        items = (*_best(moment, candidates, scores, query, limit=len(known)), *(ScoredItem(item_id, 0.0) for item_id in unknown))
        return self._finish(tenant_id, query, moment, Found(RankedList(items, runtime, candidates.item_ids, ladder)), unknown=unknown)

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
        eligible = eligible_mask(view, where)
        with _step("retrieve"):
            candidates, scores = await similar_candidates(catalogue, view, item_id, eligible, limit=max_results or DEFAULT_RESULTS)
        order = _order(candidates.item_ids, scores)[: max_results or DEFAULT_RESULTS]
        return tuple(ScoredItem(candidates.item_ids[place], float(scores[place])) for place in order), catalogue.bundle_id

    async def user_vector(self, tenant_id: TenantId, user_id: UserId, *, token: str, deadline: float) -> Moment:
        """Returns the user's vector and what it was computed from.

        Raises:
            UnavailableError: The profile cannot be read.
        """
        catalogue = await self._catalogues.get(tenant_id)
        known = await self._users.known(tenant_id, user_id, token=token, deadline=deadline)
        return _moment_of(catalogue, catalogue.index.view(), known, known.profile.history, {})

    async def _moment(self, catalogue: Catalogue, view: IndexView, query: RecommendQuery, ladder: Ladder, *, deadline: float) -> Moment:
        share_s = max(0.0, (deadline - time.monotonic()) * _USER_SHARE)
        try:
            known = await asyncio.wait_for(
                self._users.known(catalogue.tenant_id, query.user_id, token=query.token, deadline=time.monotonic() + share_s), share_s
            )
        except InvalidArgumentError:
            raise
        except (AisleError, TimeoutError) as error:
            why = error.message if isinstance(error, AisleError) else "the profile took too long"
            stale = self._users.last_known(catalogue.tenant_id, query.user_id)
            if stale is None and catalogue.knows_popular:
                ladder.drop(Rung.SEGMENT_POPULAR, f"no profile: {why}")
            elif stale is None:
                ladder.drop(Rung.STATIC, f"no profile, and nobody chose anything yet: {why}")
            else:
                ladder.drop(Rung.STALE_VECTOR, f"an older profile: {why}")
            known = KnownUser(stale or Profile(user_id=query.user_id), consistent=not query.token)
        if not known.consistent:
            ladder.drop(Rung.STALE_VECTOR, "the token's events could not be read in time")
        history = (*known.profile.history, *query.extra_history) if query.use_history else ()
        return _moment_of(catalogue, view, known, history, query.context)

    async def _score(
        self, catalogue: Catalogue, features: NDArray[np.float32], ladder: Ladder, *, deadline: float
    ) -> tuple[NDArray[np.float32], str]:
        """Returns the score of each candidate, (C,), and the runtime that gave it; the retrieval score when none does."""
        if not catalogue.ranker:
            ladder.drop(Rung.NO_RANKER, "this tenant has no live bundle; run `aisle train --promote`")
        elif len(features):
            share = time.monotonic() + max(0.0, (deadline - time.monotonic()) * _RANK_SHARE)
            try:
                return await self._ranker.score(catalogue.ranker, features, deadline=share)
            except AisleError as error:
                ladder.drop(Rung.NO_RANKER, f"no ranker: {error.message}")
        return retrieval_score(features, catalogue.weights), ""

    def _finish(
        self,
        tenant_id: TenantId,
        query: RecommendQuery,
        moment: Moment,
        found: Found,
        *,
        unknown: tuple[ItemId, ...] = (),
    ) -> Recommendation:
        """Records the decision and returns the reply."""
        ranked = found.ranked
        items, ladder = ranked.items, ranked.ladder
        decision = Decision(
            decision_id=new_decision_id(),
            user_id=query.user_id,
            method=query.method,
            decide_time=datetime.now(UTC),
            items=tuple(scored.item_id for scored in items),
            scores=tuple(scored.score for scored in items),
            propensities=(1.0,) * len(items),  # the order is deterministic
            candidates=ranked.candidates[:_RECORDED],
            rung=ladder.rung,
            bundle_id=moment.catalogue.bundle_id,
            runtime=ranked.runtime,
            context={key: str(value) for key, value in query.context.items()},
        )
        self._decisions.record(tenant_id, decision)
        RUNGS.labels(query.method, ladder.rung.name).inc()
        return Recommendation(
            items=items,
            decision_id=decision.decision_id,
            rung=ladder.rung,
            rung_reason=ladder.reason,
            bundle_id=moment.catalogue.bundle_id,
            runtime=ranked.runtime,
            consistent=moment.known.consistent,
            moment=moment,
            cache_level=found.level,
            expires_in_s=found.expires_in_s,
            unknown=unknown,
        )


@contextmanager
def _step(name: str) -> Iterator[None]:
    started = time.perf_counter()
    with _tracer.start_as_current_span(name):
        try:
            yield
        finally:
            STEP_SECONDS.labels(name).observe(time.perf_counter() - started)


def _moment_of(
    catalogue: Catalogue, view: IndexView, known: KnownUser, history: tuple[Interaction, ...], context: Mapping[str, Any]
) -> Moment:
    features = request_features(context, known.profile)
    rows = view.rows_of([interaction.item_id for interaction in history])
    texts = np.zeros((len(history), SEMANTIC.stop - SEMANTIC.start), np.float32)
    here = rows >= 0
    if here.any():
        texts[here] = view.vectors(rows[here])[:, SEMANTIC]
    return Moment(
        catalogue=catalogue,
        view=view,
        known=known,
        history=history,
        features=features,
        user=catalogue.space.user_vector(history, texts, features),
    )


def _order(item_ids: Sequence[ItemId], scores: NDArray[np.float32]) -> list[int]:
    """Returns places by falling score, ties by id, so that neither row numbers nor the source decide."""
    values = scores.tolist()
    return sorted(range(len(values)), key=lambda place: (-values[place], item_ids[place]))


def _best(
    moment: Moment, candidates: Candidates, scores: NDArray[np.float32], query: RecommendQuery, *, limit: int | None = None
) -> tuple[ScoredItem, ...]:
    order = _order(candidates.item_ids, scores)[: query.limit if limit is None else limit]
    if not query.explain:
        return tuple(ScoredItem(candidates.item_ids[place], float(scores[place])) for place in order)
    why = explain(moment.view, moment.catalogue.weights, moment.history, moment.features, candidates, order)
    return tuple(ScoredItem(candidates.item_ids[place], float(scores[place]), reasons) for place, reasons in zip(order, why, strict=True))


def static_list(view: IndexView, eligible: NDArray[np.bool_], limit: int, ladder: Ladder) -> RankedList:
    """Returns the first items that may be shown, in the order they came into the catalogue, all with score 0."""
    items = tuple(ScoredItem(item_id, 0.0) for item_id in view.ids(np.flatnonzero(eligible)[:limit]))
    return RankedList(items, "", tuple(item.item_id for item in items), ladder)


def _list_key(moment: Moment, query: RecommendQuery) -> str:
    """Returns the key of a list that may be kept, else the empty string. A user deleted and met again has another creation time."""
    if query.token or query.extra_history:
        return ""
    profile = moment.known.profile
    version = f"{profile.version}@{profile.create_time.timestamp() if profile.create_time else 0}"
    asked = [query.limit, dict(query.context), query.filter, query.include_seen, query.explain, query.use_history]
    return list_key(query.user_id, version, moment.catalogue.bundle_id, asked)


def _still_eligible(ranked: RankedList, view: IndexView, eligible: NDArray[np.bool_]) -> bool:
    """Returns whether every item of a kept list may still be shown: none was deleted, booked out or changed past the filter."""
    rows = view.rows_of([scored.item_id for scored in ranked.items])
    return bool((rows >= 0).all()) and bool(eligible[rows].all())
