"""PersonalizationService on the wire: pages, and profiles."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty

from aisle.v1 import personalization_service_pb2 as pb
from aisle.v1 import recommendation_service_pb2 as recommendation_pb
from server.api.recommendation import bundle_name
from server.api.wellknown import check_json, check_text, masked_fields, optional_datetime, to_dict, to_struct, to_timestamp, user_id_of
from server.domain import EventId, Interaction, ItemId, Profile, TenantId, UserId
from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.service.personalization import CONTENT_TYPES, CTA_BUTTONS, HERO_BANNER, Block, Page, PageItem, PageQuery, Personalization
from server.service.profiles import Profiles

_WRITABLE = ("traits", "locale", "time_zone", "event_date", "preference_scores")
_USER_ID = re.compile(r"[^/\x00-\x1f]{1,256}")
_DEVICES = (("ipad", "tablet"), ("tablet", "tablet"), ("mobi", "mobile"), ("android", "mobile"), ("iphone", "mobile"))
_NAMES = {
    "guestCount": "party_size",
    "guest_count": "party_size",
    "guests": "party_size",
    "date": "event_date",
    "weddingDate": "event_date",
}


def _user_of(name: str, user_id: str) -> UserId:
    """Returns the user that a request names by resource name or bare id.

    Raises:
        InvalidFieldError: Neither came, or they differ.
    """
    if name and user_id and user_id_of(name) != user_id:
        raise InvalidFieldError("user_id", f"names another user than {name}; send one of them")
    found = user_id_of(name) if name else UserId(user_id)
    if not _USER_ID.fullmatch(found):
        raise InvalidFieldError("name", "is required: users/ID/profile")
    return found


def profile_to_proto(profile: Profile) -> pb.UserProfile:
    """Returns the wire form of a profile."""
    message = pb.UserProfile(
        name=f"users/{profile.user_id}/profile",
        traits=to_struct(profile.traits) if profile.traits else None,
        locale=profile.locale,
        time_zone=profile.time_zone,
        preference_scores=profile.preference_scores,
        history=[
            pb.UserProfile.Interaction(
                item=f"items/{one.item_id}", event_type=one.event_type, occur_time=to_timestamp(one.occur_time), value=one.value
            )
            for one in profile.history
        ],
        engagement_history=profile.engagement_history,
        etag=str(profile.version),
    )
    for field in ("event_date", "create_time", "update_time"):
        moment = getattr(profile, field)
        if moment is not None:
            getattr(message, field).CopyFrom(to_timestamp(moment))
    return message


def _changes(message: pb.UserProfile, fields: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "traits": check_json(message.traits, "profile.traits"),
        "locale": check_text(message.locale, "profile.locale"),
        "time_zone": check_text(message.time_zone, "profile.time_zone"),
        "event_date": optional_datetime(message, "event_date"),
        "preference_scores": dict(message.preference_scores),
    }
    return {field: values[field] for field in fields}


def _version(etag: str) -> int | None:
    if not etag:
        return None
    if not etag.isdecimal():
        raise InvalidFieldError("profile.etag", "is not one that GetUserProfile returned; send it back unchanged")
    return int(etag)


def page_context(message: pb.PersonalizationContext) -> dict[str, Any]:
    """Returns the circumstances by the names that ranking knows.

    Of two that say the same, what is planned counts before where the user is.
    """
    context: dict[str, Any] = {}
    objects = ("location", "session_data", "demographic_data", "brand_preferences", "wedding_context")
    for field in objects:
        for key, value in to_dict(getattr(message, field)).items():
            if isinstance(value, str | int | float | bool | list):
                context[_name(field, key)] = value
    if message.current_page:
        context["page"] = message.current_page.strip("/").rsplit("/", 1)[-1] or "home"
    if message.user_agent:
        agent = message.user_agent.casefold()
        context["device"] = next((device for word, device in _DEVICES if word in agent), "desktop")
    return context


def _name(field: str, key: str) -> str:
    if field == "brand_preferences" and key == "name":
        return "brand"
    return _NAMES.get(key, key)


def _behavior(message: pb.PersonalizationContext) -> tuple[Interaction, ...]:
    """Returns what the page says the user did.

    Raises:
        InvalidFieldError: An entry names an item or event type that is no string.
    """
    now = datetime.now(UTC)
    done = []
    for index, struct in enumerate(message.user_behavior):
        entry: Mapping[str, Any] = to_dict(struct)
        item = entry.get("itemId") or entry.get("item_id") or entry.get("item")
        kind = entry.get("eventType") or entry.get("event_type") or entry.get("type") or "view"
        if item is None:
            continue  # behaviour that concerns no item changes no list
        if not isinstance(item, str) or not isinstance(kind, str):
            raise InvalidFieldError(f"context.user_behavior[{index}]", "itemId and eventType must be strings")
        done.append(Interaction(ItemId(item.removeprefix("items/")), kind, now, 1.0, EventId("")))
    return tuple(done)


def query_from_proto(request: pb.GeneratePersonalizationRequest) -> PageQuery:
    """Returns what the page asks for.

    Raises:
        InvalidFieldError: A content type is unknown.
    """
    kinds = tuple(request.options.content_types or request.content_types) or CONTENT_TYPES
    unknown = [kind for kind in kinds if kind not in CONTENT_TYPES]
    if unknown:
        raise InvalidFieldError("content_types", f"{unknown[0]!r} is not one of {', '.join(CONTENT_TYPES)}", content_type=unknown[0])
    adapt = request.options.real_time_adaptation if request.options.HasField("real_time_adaptation") else True
    return PageQuery(
        user_id=UserId(request.user_id.removeprefix("users/")),
        content_types=kinds,
        depth=request.options.personalization_depth or request.personalization_depth or "advanced",
        context=page_context(request.context),
        behavior=_behavior(request.context) if adapt else (),
        token=request.consistency_token,
        max_results=request.max_results,
    )


def _block_to_proto(block: Block) -> pb.ContentBlock:
    attributes = block.item.attributes
    return pb.ContentBlock(
        item=f"items/{block.item.item_id}",
        headline=str(attributes.get("headline") or block.item.title),
        description=str(attributes.get("description") or block.item.description),
        cta=str(attributes.get("cta") or ""),
        url=str(attributes.get("url") or ""),
        personalization_factors=block.factors,
        confidence=block.confidence,
    )


def _item_to_proto(shown: PageItem) -> pb.RecommendedItem:
    return pb.RecommendedItem(
        item=f"items/{shown.item.item_id}",
        title=shown.item.title,
        score=shown.scored.score,
        probability=shown.scored.probability,
        categories=shown.item.categories,
        price=shown.item.price,
        currency=shown.item.currency,
        reasons=[
            recommendation_pb.Reason(source=reason.source, contribution=reason.contribution, text=reason.text)
            for reason in shown.scored.reasons
        ],
        personalization_factors=shown.factors,
    )


def page_to_proto(page: Page) -> pb.GeneratePersonalizationResponse:
    """Returns the wire form of a page."""
    banners = page.blocks.get(HERO_BANNER, ())
    answer = page.recommendation
    return pb.GeneratePersonalizationResponse(
        success=True,
        personalized_content=pb.PersonalizedContent(
            hero_banner=_block_to_proto(banners[0]) if banners else None,
            recommendations=map(_item_to_proto, page.items),
            cta_buttons=map(_block_to_proto, page.blocks.get(CTA_BUTTONS, ())),
        ),
        confidence=page.confidence,
        processing_time=round(page.elapsed_s * 1000),
        cache_info=pb.CacheInfo(hit=bool(answer.cache_level), level=answer.cache_level, ttl_s=int(answer.expires_in_s)),
        decision=f"decisions/{answer.decision_id}",
        rung=recommendation_pb.Ladder.Rung.Value(answer.rung.name),
        rung_reason=answer.rung_reason,
        bundle=bundle_name(answer.bundle_id),
        consistent=answer.consistent,
        personalization_factors=page.factors,
    )


class PersonalizationServicer:
    """Converts, calls, converts."""

    def __init__(self, personalization: Personalization, profiles: Profiles) -> None:
        self._personalization = personalization
        self._profiles = profiles

    async def GeneratePersonalization(  # noqa: N802
        self, call: Call, request: pb.GeneratePersonalizationRequest
    ) -> pb.GeneratePersonalizationResponse:
        """Fills a page."""
        return page_to_proto(await self._personalization.generate(call.tenant_id, query_from_proto(request), deadline=call.deadline))

    async def WatchPersonalization(  # noqa: N802
        self, call: Call, request: pb.WatchPersonalizationRequest
    ) -> AsyncGenerator[pb.WatchPersonalizationResponse, None]:
        """Opens a watch of a page."""
        asked = pb.GeneratePersonalizationRequest(
            user_id=request.user,
            context=pb.PersonalizationContext(current_page=request.current_page),
            content_types=request.content_types,
            personalization_depth=request.personalization_depth,
            max_results=request.max_results,
        )
        return self._states(call.tenant_id, query_from_proto(asked))

    async def _states(self, tenant_id: TenantId, query: PageQuery) -> AsyncGenerator[pb.WatchPersonalizationResponse, None]:
        async with aclosing(self._personalization.watch(tenant_id, query)) as states:
            async for change, page in states:
                message = pb.WatchPersonalizationResponse(
                    page=page_to_proto(page),
                    cause=pb.WatchPersonalizationResponse.Cause.Value(change.cause.name),
                    change_count=change.count,
                )
                if change.first_time is not None:
                    message.change_time.CopyFrom(to_timestamp(change.first_time))
                yield message

    async def GetUserProfile(self, call: Call, request: pb.GetUserProfileRequest) -> pb.UserProfile:  # noqa: N802
        """Returns a profile."""
        user_id = _user_of(request.name, request.user_id)
        return profile_to_proto(await self._profiles.get(call.tenant_id, user_id, token=request.consistency_token, deadline=call.deadline))

    async def UpdateUserProfile(self, call: Call, request: pb.UpdateUserProfileRequest) -> pb.UserProfile:  # noqa: N802
        """Changes a profile's masked fields."""
        user_id = _user_of(request.profile.name, request.user_id)
        fields = masked_fields(request.update_mask, request.profile, _WRITABLE)
        changes = _changes(request.profile, fields)
        return profile_to_proto(await self._profiles.update(call.tenant_id, user_id, changes, version=_version(request.profile.etag)))

    async def DeleteUserProfile(self, call: Call, request: pb.DeleteUserProfileRequest) -> Empty:  # noqa: N802
        """Deletes a profile."""
        await self._profiles.delete(call.tenant_id, _user_of(request.name, request.user_id))
        return Empty()
