"""How a couple plans: category by category, looking around, comparing, saving, enquiring and booking over months.

What they look at follows from their city, style, budget, party and a taste no attribute tells; so a model that learns from the events can
foretell the rest, and one that only counts cannot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import mul

from server.demo.couples import Couple
from server.demo.vendors import Vendor
from server.demo.world import CATEGORIES, Category
from server.domain import Event, EventId

Market = Mapping[tuple[str, str], Sequence[Vendor]]
"""Vendors by category and city."""


def affinity(couple: Couple, vendor: Vendor) -> float:
    """Returns how well a vendor suits a couple, in logits: a difference of 1 makes the better one 2.7 times as likely to be looked at."""
    styles = {couple.style: 1.0, couple.second_style: 0.5}
    style = max(styles.get(vendor.style, 0.0), 0.6 * styles.get(vendor.second_style, 0.0))
    too_dear = max(vendor.band - couple.band, 0.0)
    too_plain = max(couple.band - vendor.band - 0.5, 0.0)
    too_small = 2.5 if vendor.capacity and vendor.capacity < couple.guests else 0.0
    taste = math.fsum(map(mul, couple.taste, vendor.taste)) / len(couple.taste)
    return 2.4 * style - 1.3 * too_dear - 0.7 * too_plain - too_small + 0.9 * taste + 0.8 * (vendor.rating - 4.45) + 0.45 * vendor.fame


def _open(vendor: Vendor, moment: datetime) -> bool:
    return (vendor.open_from is None or vendor.open_from <= moment) and (vendor.open_until is None or moment < vendor.open_until)


def _noisy_best(choose: random.Random, scored: Sequence[tuple[float, Vendor]], count: int) -> list[tuple[float, Vendor]]:
    """Returns `count` vendors drawn without replacement, each by the softmax of its score (the Gumbel top-k rule)."""
    drawn = sorted(
        ((score - math.log(-math.log(choose.random() or 1e-12)), score, vendor) for score, vendor in scored), key=lambda it: -it[0]
    )
    return [(score, vendor) for _, score, vendor in drawn[:count]]


class _Diary:
    """Collects one couple's events up to now, with ids and sessions that number them."""

    def __init__(self, couple: Couple, now: datetime) -> None:
        self.events: list[Event] = []
        self._couple = couple
        self._now = now
        self._sessions = 0

    def session(self, choose: random.Random, start: datetime, acts: Sequence[tuple[str, Vendor]]) -> bool:
        """Writes one visit, a few minutes between its acts. Returns whether all of it lies in the past."""
        self._sessions += 1
        user_id = self._couple.profile.user_id
        moment = start
        for event_type, vendor in acts:
            moment += timedelta(seconds=choose.expovariate(1 / 80) + 4)
            if moment >= self._now:
                return False
            self.events.append(
                Event(
                    event_id=EventId(f"demo-{user_id}-{len(self.events):04d}"),
                    user_id=user_id,
                    item_id=vendor.item.item_id,
                    event_type=event_type,
                    occur_time=moment.replace(microsecond=0),
                    session_id=f"{user_id}-{self._sessions:03d}",
                    properties={"category": vendor.category.name},
                )
            )
        return True


def _evening(choose: random.Random, moment: datetime) -> datetime:
    """Moves a moment to an hour at which people plan weddings: mostly evenings, some lunch breaks."""
    hour = choose.choices((8, 12, 13, 18, 19, 20, 21, 22), (1, 3, 2, 2, 4, 6, 5, 2))[0]
    return moment.replace(hour=hour, minute=choose.randrange(60), second=choose.randrange(60))


def _plan_category(choose: random.Random, diary: _Diary, couple: Couple, category: Category, market: Market) -> None:
    planning = (couple.wedding - couple.start) * 0.9
    begin = couple.start + planning * min(max(category.start + choose.gauss(0.0, 0.03), 0.0), 0.97)
    scored = [(affinity(couple, vendor), vendor) for vendor in market[category.name, couple.city.name] if _open(vendor, begin)]
    seen = _noisy_best(choose, scored, max(2, min(10, round(choose.gauss(4.2, 1.1) * couple.thoroughness))))
    if not seen:
        return
    # Looking around takes one visit or two; the second goes on where the first stopped.
    visits = [seen] if len(seen) < 5 else [seen[: len(seen) // 2 + 1], seen[len(seen) // 2 :]]
    moment = _evening(choose, begin)
    for visit in visits:
        if not diary.session(choose, moment, [("view", vendor) for _, vendor in visit]):
            return
        moment = _evening(choose, moment + timedelta(days=choose.uniform(1, 5)))
    # Those that suit best are looked at again side by side; saved; asked; one is booked.
    short = _noisy_best(choose, [(2.0 * score, vendor) for score, vendor in seen], min(len(seen), choose.choice((2, 3, 3))))
    saved = short[: choose.choice((1, 2, 2))]
    acts = [("compare", vendor) for _, vendor in short] + [("save", vendor) for _, vendor in saved]
    if not diary.session(choose, moment, acts):
        return
    moment = _evening(choose, moment + timedelta(days=choose.uniform(2, 9)))
    asked = saved[: choose.choice((1, 1, 2))]
    if not diary.session(choose, moment, [("enquire", vendor) for _, vendor in asked]):
        return
    if choose.random() < 0.85:
        moment = _evening(choose, moment + timedelta(days=choose.uniform(3, 14)))
        diary.session(choose, moment, [("book", asked[0][1])])


def journey(seed: int, couple: Couple, market: Market, now: datetime) -> list[Event]:
    """Returns the couple's events before `now`, oldest first. Cost grows with the vendors of one city, not with the number of couples."""
    choose = random.Random(f"{seed}:journey:{couple.profile.user_id}")  # noqa: S311  # invented data, no secret
    diary = _Diary(couple, now)
    for category in CATEGORIES:
        if choose.random() < category.used_by:
            _plan_category(choose, diary, couple, category, market)
    return sorted(diary.events, key=lambda event: (event.occur_time, event.event_id))
