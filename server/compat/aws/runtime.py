"""GetRecommendations and GetPersonalizedRanking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from aisle.v1 import recommendation_service_pb2 as pb
from server.compat.aws.filter_cache import Filters
from server.compat.aws.filters import Circumstances, Selection, resolve
from server.compat.aws.names import column, resource_name
from server.compat.exchange import Body, Exchange, json_reply, read_json
from server.compat.names import snake
from server.domain import Item, ItemId, TenantId, UserId
from server.domain.access import Principal
from server.errors import InvalidFieldError
from server.gateway.replies import Reply
from server.interceptors.call import Call
from server.retrieval.filters import compile_filter
from server.retrieval.view import IndexView
from server.service.catalogues import Catalogues
from server.service.users import Users

DEFAULT_RESULTS = 25
MAX_RESULTS = 500
MAX_WITH_METADATA = 50

Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^/\x00-\x1f]+$")]
Name = Annotated[str, Field(max_length=256)]
Context = Annotated[dict[Annotated[str, Field(max_length=150)], Annotated[str, Field(max_length=1000)]], Field(max_length=150)]
FilterValues = Annotated[dict[Annotated[str, Field(max_length=50)], Annotated[str, Field(max_length=1000)]], Field(max_length=25)]
Columns = dict[str, Annotated[list[str], Field(max_length=10)]]

_POPULAR = frozenset({pb.Ladder.SEGMENT_POPULAR, pb.Ladder.STATIC})


class _Filtered(Body):
    filter_arn: Name = ""
    filter_values: FilterValues = Field(default_factory=dict)


class Promotion(_Filtered):
    """Items that get a share of the list."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = "promotion"
    percent_promoted_items: Annotated[int, Field(ge=1, le=100)]
    filter_arn: Annotated[str, Field(min_length=1, max_length=256)]


class GetRecommendations(_Filtered):
    """The request's body."""

    user_id: Id | None = None
    item_id: Id | None = None
    num_results: Annotated[int, Field(ge=0, le=MAX_RESULTS)] = 0
    context: Context = Field(default_factory=dict)
    promotions: Annotated[list[Promotion], Field(max_length=1)] = Field(default_factory=list)
    metadata_columns: Columns = Field(default_factory=dict)


class GetPersonalizedRanking(_Filtered):
    """The request's body."""

    user_id: Id
    input_list: Annotated[list[Id], Field(min_length=1, max_length=MAX_RESULTS)]
    context: Context = Field(default_factory=dict)
    metadata_columns: Columns = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A ranked list, before it is written."""

    items: Sequence[pb.RankedItem]
    decision: str = ""
    rung: int = 0

    def but(self, names: set[str]) -> list[pb.RankedItem]:
        """Returns the items that are not named."""
        return [one for one in self.items if one.item not in names]


class Runtime:
    """The runtime service. Names of campaigns and recommenders are not looked at: the tenant's live bundle answers."""

    def __init__(self, principal: Callable[[Call], Awaitable[Principal]], filters: Filters, catalogues: Catalogues, users: Users) -> None:
        self._principal = principal
        self._filters = filters
        self._catalogues = catalogues
        self._users = users

    async def get_recommendations(self, exchange: Exchange) -> Reply:
        """Returns items for a user, or items related to one."""
        body = read_json(GetRecommendations, exchange.body)
        columns = _columns(body.metadata_columns)
        wanted = body.num_results or DEFAULT_RESULTS
        if columns and wanted > MAX_WITH_METADATA:
            raise InvalidFieldError("numResults", f"must be at most {MAX_WITH_METADATA} with metadataColumns")
        if body.user_id is None and body.item_id is None:
            raise InvalidFieldError("userId", "or itemId is required")
        tenant_id, view = await self._tenant(exchange)
        promoted: list[pb.RankedItem] = []
        for promotion in body.promotions:
            share = max(1, wanted * promotion.percent_promoted_items // 100)
            promoted = list((await self._list(exchange, tenant_id, view, body, promotion, share)).items)[:share]
        names = {one.item for one in promoted}
        listed = await self._list(exchange, tenant_id, view, body, body, min(MAX_RESULTS, wanted + len(promoted)))
        order = _interleaved(listed.but(names)[: wanted - len(promoted)], promoted)
        promotion_name = body.promotions[0].name if body.promotions else ""
        entries = []
        for one in order:
            entry = _entry(one, view, columns)
            if one.item in names:
                entry |= {"promotionName": promotion_name, "reason": ["Promoted"]}
            elif listed.rung in _POPULAR:
                entry["reason"] = ["Popular"]
            entries.append(entry)
        return json_reply({"itemList": entries, **_recommendation_id(listed)})

    async def get_personalized_ranking(self, exchange: Exchange) -> Reply:
        """Returns the caller's items in order for a user; those that do not exist last."""
        body = read_json(GetPersonalizedRanking, exchange.body)
        columns = _columns(body.metadata_columns)
        tenant_id, view = await self._tenant(exchange)
        selection = await self._selection(exchange, tenant_id, view, body, body.user_id, None)
        items = _passing(list(dict.fromkeys(map(ItemId, body.input_list))), selection, view)
        listed = await self._ranked(exchange, body.user_id, items, body.context)
        entries = [_entry(one, view, columns) for one in listed.items]
        return json_reply({"personalizedRanking": entries, **_recommendation_id(listed)})

    async def _tenant(self, exchange: Exchange) -> tuple[TenantId, IndexView]:
        tenant_id = (await self._principal(exchange.call)).tenant_id
        return tenant_id, (await self._catalogues.get(tenant_id)).index.view()

    async def _selection(
        self, exchange: Exchange, tenant_id: TenantId, view: IndexView, asked: _Filtered, user_id: str | None, item_id: str | None
    ) -> Selection:
        if not asked.filter_arn:
            return Selection()
        deadline = exchange.call.deadline
        expression = await self._filters.get(tenant_id, resource_name(asked.filter_arn), deadline=deadline)
        unknown = sorted(asked.filter_values.keys() - set(expression.parameters))
        if unknown:
            raise InvalidFieldError(f"filterValues.{unknown[0]}", f"is no parameter of the filter; it has {list(expression.parameters)}")
        known = None
        if expression.needs_user and user_id is not None:
            known = (await self._users.known(tenant_id, UserId(user_id), deadline=deadline)).profile
        item = view.item(ItemId(item_id)) if item_id is not None else None
        return resolve(
            expression,
            Circumstances(
                values=asked.filter_values,
                traits={snake(name): value for name, value in known.traits.items()} if known else {},
                history=known.history if known else (),
                item=item,
            ),
        )

    async def _list(
        self, exchange: Exchange, tenant_id: TenantId, view: IndexView, body: GetRecommendations, asked: _Filtered, limit: int
    ) -> _Listed:
        """Returns up to `limit` items that pass a filter."""
        selection = await self._selection(exchange, tenant_id, view, asked, body.user_id, body.item_id)
        without = {f"items/{item_id}" for item_id in selection.without}
        # What is left out is taken off the list, so the list is asked for longer by as much.
        longer = min(MAX_RESULTS, limit + len(without))
        if selection.only is not None:
            return await self._of_few(exchange, view, body, selection, limit)
        if body.item_id is not None:
            similar = pb.ListSimilarItemsRequest(item=f"items/{body.item_id}", max_results=longer, filter=selection.where)
            found = await exchange.ask("RecommendationService/ListSimilarItems", similar, pb.ListSimilarItemsResponse)
            return _Listed([one for one in found.items if one.item not in without][:limit])
        request = pb.RecommendItemsRequest(
            user=f"users/{body.user_id}",
            max_results=longer,
            filter=selection.where,
            include_seen=True,  # as Personalize does, unless a filter excludes interactions
            context=_context(body.context),
        )
        reply = await exchange.ask("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse)
        kept = [one for one in reply.items if one.item not in without][:limit]
        return _Listed(kept, reply.decision.removeprefix("decisions/"), reply.rung)

    async def _of_few(self, exchange: Exchange, view: IndexView, body: GetRecommendations, selection: Selection, limit: int) -> _Listed:
        """Returns a list of nothing but what the user interacted with."""
        items = [one for one in _passing(sorted(selection.only or ()), selection, view) if one in view]
        if body.user_id is None or not items:
            return _Listed([])
        ranked = await self._ranked(exchange, body.user_id, items, body.context)
        return _Listed(ranked.items[:limit], ranked.decision, ranked.rung)

    async def _ranked(self, exchange: Exchange, user_id: str, items: Sequence[ItemId], context: Mapping[str, str]) -> _Listed:
        if not items:
            return _Listed([])
        request = pb.RankItemsRequest(user=f"users/{user_id}", items=[f"items/{item_id}" for item_id in items], context=_context(context))
        reply = await exchange.ask("RecommendationService/RankItems", request, pb.RankItemsResponse)
        return _Listed(reply.items, reply.decision.removeprefix("decisions/"), reply.rung)


def _passing(items: Sequence[ItemId], selection: Selection, view: IndexView) -> list[ItemId]:
    """Returns the items that a selection lets through, in their order."""
    rows = view.rows_of(items)
    mask = view.mask(compile_filter(selection.where)) if selection.where else None

    def passes(item_id: ItemId, row: int) -> bool:
        if item_id in selection.without or (selection.only is not None and item_id not in selection.only):
            return False
        if row < 0:
            return not selection.includes
        return mask is None or bool(mask[row])

    return [item_id for item_id, row in zip(items, rows.tolist(), strict=True) if passes(item_id, row)]


def _recommendation_id(listed: _Listed) -> dict[str, str]:
    """Returns what PutEvents may name later; nothing for a list that was not decided for a user."""
    return {"recommendationId": listed.decision} if listed.decision else {}


def _context(given: Mapping[str, str]) -> pb.Context:
    """Returns the circumstances; keys come in the case of the interactions schema, such as `DEVICE`."""
    named = {snake(key): value for key, value in given.items()}
    page, device, brand, region = (named.pop(key, "") for key in ("page", "device", "brand", "region"))
    return pb.Context(page=page, device=device, brand=brand, region=region, attributes=named)


def _columns(given: Columns) -> list[str]:
    """Returns the columns wanted.

    Raises:
        InvalidFieldError: Of another dataset than ITEMS.
    """
    for dataset in given:
        if dataset.upper() != "ITEMS":
            raise InvalidFieldError("metadataColumns", f"names the dataset {dataset[:40]!r}; only ITEMS has columns to return")
    return [name for names in given.values() for name in names]


def _interleaved(rest: Sequence[pb.RankedItem], promoted: Sequence[pb.RankedItem]) -> list[pb.RankedItem]:
    """Returns both in one list, each in its order, the promoted ones spread evenly."""
    total = len(rest) + len(promoted)
    places = {int((number + 0.5) * total / len(promoted)) for number in range(len(promoted))}
    ordinary, special = iter(rest), iter(promoted)
    return [next(special) if place in places else next(ordinary) for place in range(total)]


def _entry(one: pb.RankedItem, view: IndexView, columns: Sequence[str]) -> dict[str, Any]:
    item_id = one.item.removeprefix("items/")
    entry: dict[str, Any] = {"itemId": item_id, "score": one.score}
    item = view.item(ItemId(item_id)) if columns else None
    if item is not None:
        entry["metadata"] = {name: text for name in columns if (text := _column_text(item, name)) is not None}
    return entry


def _column_text(item: Item, name: str) -> str | None:
    value = column(item, name)
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return "|".join(map(str, value))
    return str(value)
