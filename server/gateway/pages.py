"""The page at `/`: pick a user, see what they are recommended and why, act for them, and see the list change.

Rendered here, by forms and links alone, so that it works without scripts. It calls the API as any client does.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import personalization_service_pb2 as personalization
from aisle.v1 import recommendation_service_pb2 as recommendation
from server.gateway.http import AsgiApp, call_of, cross_site, headers_of
from server.gateway.replies import HTTP_STATUS
from server.interceptors.call import CallError, Dispatcher

ACTIONS = {"view": "Look closer", "save": "Save", "enquire": "Enquire", "book": "Book"}
"""Event types that the page sends, and the words on their buttons."""

_SHOWN = 12
_FORM_BYTES = 16 * 1024
_OFFERED = tuple(f"couple-{number:06d}" for number in range(16))
"""The first users of the demo tenant."""

_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Moved:
    """Where an item stood before the last action, and where it stands now; places count from 1."""

    before: int | None
    now: int

    @property
    def text(self) -> str:
        """Says it in words; empty where nothing moved."""
        if self.before is None:
            return "new"
        if self.before == self.now:
            return ""
        return f"{'up' if self.before > self.now else 'down'} from {self.before}"


def moves(before: Sequence[str], now: Sequence[str]) -> list[Moved]:
    """Returns each present item's move. Without an earlier list nothing has moved."""
    places = {item: place for place, item in enumerate(before, 1)}
    return [Moved(places.get(item) if before else place, place) for place, item in enumerate(now, 1)]


class Pages:
    """The page's handlers.

    Args:
        dispatcher: Answers the calls. A visitor on this machine is the local tenant; others need a key, which browsers do not send.
        timeout_s: Deadline of all calls of one page together.
    """

    def __init__(self, dispatcher: Dispatcher, *, timeout_s: float = 5.0) -> None:
        self._dispatcher = dispatcher
        self._timeout_s = timeout_s
        folder = Path(__file__).parent / "templates"
        self._templates = Environment(
            loader=FileSystemLoader(folder), autoescape=True, enable_async=True, trim_blocks=True, lstrip_blocks=True
        )

    def app(self) -> Starlette:
        """Returns the application of both paths."""
        return Starlette(routes=[Route("/", self.home, methods=["GET"]), Route("/act", self.act, methods=["POST"])])

    async def home(self, request: Request) -> Response:
        """Shows the users to pick from, and the one picked."""
        query = request.query_params
        user_id = query.get("user", "").strip().removeprefix("users/")
        calls = _Calls(self._dispatcher, request, self._timeout_s)
        try:
            shown = await _user_page(calls, user_id, query.get("token", ""), [item for item in query.get("before", "").split(",") if item])
            shown["did"] = await _what_was_done(calls, query.get("did", ""), query.get("item", ""))
            return await self._page(200, "home.html", offered=await _offered_users(calls), user_id=user_id, actions=ACTIONS, **shown)
        except CallError as error:
            return await self._failure(error, user_id)

    async def act(self, request: Request) -> Response:
        """Sends the event of a button, then shows the page that has seen it. Reloading that page sends nothing again."""
        if cross_site(headers_of(request.scope)):
            return await self._page(
                403, "home.html", error="This form was sent from another site, so nothing was done. Open / and use the buttons there."
            )
        form = await _form(request)
        user_id, item, did = form.get("user", ""), form.get("item", ""), form.get("did", "")
        if did not in ACTIONS or not user_id or not item:
            return await self._page(400, "home.html", error=f"The form needs user, item and did, which is one of {', '.join(ACTIONS)}.")
        calls = _Calls(self._dispatcher, request, self._timeout_s)
        event = events.Event(event_id=str(uuid.uuid4()), user=f"users/{user_id}", item=item, event_type=did)
        try:
            reply = await calls.get("EventService", "IngestEvents", events.IngestEventsRequest(events=[event]), events.IngestEventsResponse)
        except CallError as error:
            return await self._failure(error, user_id)
        if reply.rejected:
            return await self._page(400, "home.html", user_id=user_id, error=reply.rejected[0].message)
        query = {"user": user_id, "did": did, "item": item, "token": reply.consistency_token, "before": form.get("before", "")}
        return RedirectResponse(f"/?{urlencode(query)}", status_code=303)

    async def _failure(self, error: CallError, user_id: str) -> HTMLResponse:
        return await self._page(HTTP_STATUS.get(error.status.code, 500), "home.html", user_id=user_id, error=error.status.message)

    async def _page(self, status: int, template: str, **values: object) -> HTMLResponse:
        nonce = secrets.token_urlsafe(12)
        html = await self._templates.get_template(template).render_async(nonce=nonce, **values)
        policy = ("default-src 'none'", f"style-src 'nonce-{nonce}'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'")
        headers = {
            "content-security-policy": "; ".join(policy),
            "referrer-policy": "same-origin",
            "cache-control": "no-store",
        }
        return HTMLResponse(html, status, headers)


def demo_pages(dispatcher: Dispatcher) -> Mapping[str, AsgiApp]:
    """Returns the page for a gateway's `mounts`."""
    app = Pages(dispatcher).app()
    return {"/": app, "/act": app}


async def _form(request: Request) -> dict[str, str]:
    """Returns the fields of a form; none where it is larger than any of ours."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            return {}
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=8))
    except ValueError:  # not UTF-8, or more fields than ours have
        return {}


class _Calls:
    """Sends one visitor's calls through the same chain as everybody's."""

    def __init__(self, dispatcher: Dispatcher, request: Request, timeout_s: float) -> None:
        self._dispatcher = dispatcher
        self._scope = request.scope
        self._headers = headers_of(request.scope)
        self._deadline = time.monotonic() + timeout_s

    async def get(self, service: str, method: str, request: Message, kind: type[_Reply]) -> _Reply:
        """Returns the reply of a method.

        Raises:
            CallError: The call failed.
        """
        name = f"/aisle.v1.{service}/{method}"
        call = call_of(self._scope, self._headers, method=name, default_timeout_s=self._deadline - time.monotonic())
        reply = await self._dispatcher.unary(call, request)
        assert isinstance(reply, kind)
        return reply

    async def get_or_none(self, service: str, method: str, request: Message, kind: type[_Reply]) -> _Reply | None:
        """Returns the reply, or None where the call failed: what the page can do without."""
        try:
            return await self.get(service, method, request, kind)
        except CallError:
            return None

    async def item(self, name: str) -> items.Item | None:
        """Returns an item, None where it is gone."""
        return await self.get_or_none("ItemService", "GetItem", items.GetItemRequest(name=name), items.Item)

    async def profile(self, user_id: str, token: str = "") -> personalization.UserProfile | None:
        """Returns a profile, None where the user is unknown."""
        request = personalization.GetUserProfileRequest(name=f"users/{user_id}/profile", consistency_token=token)
        return await self.get_or_none("PersonalizationService", "GetUserProfile", request, personalization.UserProfile)


async def _offered_users(calls: _Calls) -> list[dict[str, object]]:
    profiles = await asyncio.gather(*(calls.profile(user_id) for user_id in _OFFERED))
    return [
        {"user_id": user_id, "traits": MessageToDict(profile.traits)}
        for user_id, profile in zip(_OFFERED, profiles, strict=True)
        if profile and len(profile.traits.fields)
    ]


async def _what_was_done(calls: _Calls, did: str, item: str) -> str:
    if did not in ACTIONS or not item:
        return ""
    found = await calls.item(item)
    words = {"view": "looked closer at", "save": "saved", "enquire": "enquired at", "book": "booked"}
    return f"{words[did]} {found.title}" if found else ""


async def _user_page(calls: _Calls, user_id: str, token: str, before: Sequence[str]) -> dict[str, object]:
    """Returns what the template shows of a user; nothing if none is picked.

    Raises:
        CallError: No list could be had.
    """
    if not user_id:
        return {}
    request = recommendation.RecommendItemsRequest(user=f"users/{user_id}", max_results=_SHOWN, explain=True, consistency_token=token)
    started = time.perf_counter()
    reply = await calls.get("RecommendationService", "RecommendItems", request, recommendation.RecommendItemsResponse)
    took_ms = (time.perf_counter() - started) * 1000
    wanted = personalization.GeneratePersonalizationRequest(
        user_id=user_id, content_types=["hero_banner", "cta_buttons"], consistency_token=token
    )
    page, profile, patterns = await asyncio.gather(
        calls.get_or_none("PersonalizationService", "GeneratePersonalization", wanted, personalization.GeneratePersonalizationResponse),
        calls.profile(user_id, token),
        calls.get_or_none(
            "EventService",
            "GetBehaviorPatterns",
            events.GetBehaviorPatternsRequest(user=f"users/{user_id}", consistency_token=token),
            events.BehaviorPatterns,
        ),
    )
    history = list(profile.history)[-6:][::-1] if profile else []
    names = [ranked.item for ranked in reply.items]
    found = dict(
        zip(
            names + [one.item for one in history],
            await asyncio.gather(*map(calls.item, names + [one.item for one in history])),
            strict=True,
        )
    )
    return {
        "reply": reply,
        "rung": recommendation.Ladder.Rung.Name(reply.rung),
        "took_ms": took_ms,
        "cards": [
            {
                "ranked": ranked,
                "item": found[ranked.item],
                "facts": _facts(found[ranked.item]),
                "moved": moved,
                "reasons": list(ranked.reasons)[:3],
            }
            for ranked, moved in zip(reply.items, moves(before, names), strict=True)
        ],
        "gone": [item for item in before if item not in names],
        "names": ",".join(names),
        "content": page.personalized_content if page else None,
        "profile": profile,
        "traits": MessageToDict(profile.traits) if profile else {},
        "history": [(one, found[one.item]) for one in history],
        "patterns": patterns,
        "stage": events.BehaviorPatterns.IntentStage.Name(patterns.intent_stage).lower() if patterns else "",
    }


def _facts(item: items.Item | None) -> list[str]:
    """Returns the few words under an item's title: its categories, its text attributes that are short, its price."""
    if item is None:
        return []
    attributes = MessageToDict(item.attributes)
    words = [str(attributes[key]) for key in ("city", "style") if key in attributes]
    if item.HasField("price"):
        unit = attributes.get("price_unit")
        words.append(f"{item.price:,.0f} {item.currency}{f' per {unit}' if unit else ''}")
    if "rating" in attributes:
        words.append(f"rated {attributes['rating']}")
    return [*item.categories[:2], *words]
