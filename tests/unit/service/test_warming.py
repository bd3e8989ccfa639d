from __future__ import annotations

import asyncio

from server.domain import TenantId, UserId
from server.errors import UnavailableError
from server.service.recommendation import RecommendQuery
from server.service.users import PROFILES
from server.service.warming import _WAITING, Warming

ACME = TenantId("acme")
HOME, VENUES = {"page": "home"}, {"page": "venues"}


def _query(user: str, context: dict[str, str], **fields: str) -> RecommendQuery:
    return RecommendQuery(user_id=UserId(user), context=context, **fields)  # type: ignore[arg-type]  # fields are strings here


class _Warmed:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fails = False

    async def warm(self, _tenant_id: TenantId, query: RecommendQuery, _deadline: float) -> None:
        """Notes what was made."""
        if self.fails:
            self.fails = False
            raise UnavailableError("database", "is away")
        self.asked.append((query.user_id, query.context["page"]))


async def _until(warmed: _Warmed, count: int) -> None:
    async with asyncio.timeout(20):
        while len(warmed.asked) < count:  # noqa: ASYNC110  # the work is another task's
            await asyncio.sleep(0.001)


async def test_an_active_user_s_list_is_made_after_an_event() -> None:
    """When more is known of a user who asked a while ago the same page is made anew; of one who did not ask, nothing is."""
    warmed = _Warmed()
    async with Warming(warmed.warm).running() as warming:
        warming.served(ACME, _query("ann", HOME))
        warming.on_invalidation(ACME, PROFILES, ["bob", "ann"])
        warming.on_invalidation(ACME, "recommendations", ["ann"])
        warming.on_invalidation(TenantId("other"), PROFILES, ["ann"])
        await _until(warmed, 1)
    assert warmed.asked == [("ann", "home")]


async def test_the_page_that_mostly_follows_is_made_ahead() -> None:
    """Once users went from one page to another often enough, asking for the first makes the second, for that user of that tenant."""
    warmed = _Warmed()
    warming = Warming(warmed.warm)
    for number in range(3):
        for context in (HOME, VENUES):
            warming.served(ACME, _query(f"u{number}", context))
    async with warming.running():
        warming.served(TenantId("other"), _query("zoe", HOME))
        warming.served(ACME, _query("zoe", HOME))
        await _until(warmed, 1)
    assert warmed.asked == [("zoe", "venues")]


async def test_what_is_not_kept_is_not_made_and_the_queue_is_bounded() -> None:
    """Lists with a token teach nothing; of many users who change at once only as many wait as the queue holds; a failure ends nothing."""
    warmed = _Warmed()
    warming = Warming(warmed.warm)
    warming.served(ACME, _query("tim", HOME, token="t"))
    warming.on_invalidation(ACME, PROFILES, ["tim"])
    users = [f"u{number}" for number in range(_WAITING + 50)]
    for user in users:
        warming.served(ACME, _query(user, HOME))
    warming.on_invalidation(ACME, PROFILES, users)
    warmed.fails = True
    async with warming.running():
        await _until(warmed, _WAITING - 1)
        await asyncio.sleep(0.05)
    assert [user for user, _ in warmed.asked] == users[1:_WAITING]
