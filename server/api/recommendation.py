"""RecommendationService on the wire."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from cachetools import LRUCache

from aisle.v1 import recommendation_service_pb2 as pb
from server.api.wellknown import item_id_of, to_datetime, to_timestamp, user_id_of
from server.domain import Decision, DecisionId, ScoredItem
from server.interceptors.call import Call
from server.service.decisions import Decisions
from server.service.query import RecommendQuery
from server.service.recommendation import Recommendations

_LISTS = 2_000
"""Lists whose wire form is kept, some 3 kB each, beside the objects that `RankedLists` keeps."""


def context_from_proto(message: pb.Context) -> dict[str, Any]:
    """Returns the circumstances by name; what was not sent is absent."""
    context: dict[str, Any] = dict(message.attributes)
    for name in ("page", "device", "brand", "region"):
        value = getattr(message, name)
        if value:
            context[name] = value
    if message.HasField("budget"):
        context["budget"] = message.budget
    if message.HasField("party_size"):
        context["party_size"] = message.party_size
    if message.HasField("event_date"):
        context["event_date"] = to_datetime(message.event_date, "context.event_date").astimezone(UTC).isoformat()
    return context


def ranked_to_proto(scored: ScoredItem) -> pb.RankedItem:
    """Returns the wire form of one place in a list."""
    reasons = [pb.Reason(source=reason.source, contribution=reason.contribution, text=reason.text) for reason in scored.reasons]
    return pb.RankedItem(item=f"items/{scored.item_id}", score=scored.score, reasons=reasons, probability=scored.probability)


def bundle_name(bundle_id: str) -> str:
    """Returns `bundles/ID`; empty without a bundle."""
    return f"bundles/{bundle_id}" if bundle_id else ""


def _decision_to_proto(decision: Decision) -> pb.Decision:
    ranking = decision.ranking
    return pb.Decision(
        name=f"decisions/{decision.decision_id}",
        user=f"users/{decision.user_id}",
        method=decision.method,
        decide_time=to_timestamp(decision.decide_time),
        items=[f"items/{item_id}" for item_id in ranking.items],
        scores=ranking.scores,
        propensities=ranking.propensities,
        probabilities=ranking.probabilities,
        candidates=[f"items/{item_id}" for item_id in decision.candidates],
        rung=pb.Ladder.Rung.Value(decision.rung.name),
        bundle=bundle_name(decision.bundle_id),
        runtime=decision.runtime,
        arms=decision.arms,
        context=decision.context,
    )


class RecommendationServicer:
    """Converts, calls, converts."""

    def __init__(self, recommendations: Recommendations, decisions: Decisions) -> None:
        self._recommendations = recommendations
        self._decisions = decisions
        self._wire: LRUCache[int, tuple[tuple[ScoredItem, ...], bytes]] = LRUCache(_LISTS)

    async def RecommendItems(self, call: Call, request: pb.RecommendItemsRequest) -> pb.RecommendItemsResponse:  # noqa: N802
        """Returns the items that the user is likeliest to want next."""
        query = RecommendQuery(
            user_id=user_id_of(request.user),
            max_results=request.max_results,
            context=context_from_proto(request.context),
            filter=request.filter,
            include_seen=request.include_seen,
            token=request.consistency_token,
            explain=request.explain,
        )
        answer = await self._recommendations.recommend(call.tenant_id, query, deadline=call.deadline)
        reply = self._listed(answer.items)
        reply.decision = f"decisions/{answer.decision_id}"
        reply.rung = pb.Ladder.Rung.Value(answer.rung.name)
        reply.rung_reason = answer.rung_reason
        reply.bundle = bundle_name(answer.bundle_id)
        reply.runtime = answer.runtime
        reply.consistent = answer.consistent
        reply.cached = bool(answer.cache_level)
        return reply

    def _listed(self, items: tuple[ScoredItem, ...]) -> pb.RecommendItemsResponse:
        """Returns a reply with the items in it. A list that is kept is the same object each time, and parsed from its wire form then."""
        kept = self._wire.get(id(items))
        if kept is not None and kept[0] is items:
            return pb.RecommendItemsResponse.FromString(kept[1])
        reply = pb.RecommendItemsResponse(items=map(ranked_to_proto, items))
        self._wire[id(items)] = (items, reply.SerializeToString())
        return reply

    async def RankItems(self, call: Call, request: pb.RankItemsRequest) -> pb.RankItemsResponse:  # noqa: N802
        """Orders the caller's items."""
        query = RecommendQuery(
            user_id=user_id_of(request.user),
            context=context_from_proto(request.context),
            token=request.consistency_token,
            explain=request.explain,
            method="RankItems",
        )
        items = [item_id_of(name) for name in request.items]
        answer = await self._recommendations.rank(call.tenant_id, query, items, deadline=call.deadline)
        return pb.RankItemsResponse(
            items=map(ranked_to_proto, answer.items),
            decision=f"decisions/{answer.decision_id}",
            rung=pb.Ladder.Rung.Value(answer.rung.name),
            rung_reason=answer.rung_reason,
            bundle=bundle_name(answer.bundle_id),
            runtime=answer.runtime,
            consistent=answer.consistent,
            unknown_items=[f"items/{item_id}" for item_id in answer.unknown],
        )

    async def ListSimilarItems(self, call: Call, request: pb.ListSimilarItemsRequest) -> pb.ListSimilarItemsResponse:  # noqa: N802
        """Returns the items most like one."""
        items, bundle_id = await self._recommendations.similar(
            call.tenant_id, item_id_of(request.item), max_results=request.max_results, where=request.filter
        )
        return pb.ListSimilarItemsResponse(items=map(ranked_to_proto, items), bundle=bundle_name(bundle_id))

    async def GetDecision(self, call: Call, request: pb.GetDecisionRequest) -> pb.Decision:  # noqa: N802
        """Returns the record of a decision."""
        decision_id = DecisionId(request.name.removeprefix("decisions/"))
        return _decision_to_proto(await self._decisions.get(call.tenant_id, decision_id))
