"""The demo tenant's couples: what they tell (traits) and what only their behaviour shows (taste)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.demo.vendors import style_taste
from server.demo.world import CITIES, NEIGHBOURS, STYLES, City, season_of
from server.domain import Profile, UserId

# First names only, mixed freely: nobody in particular.
_FIRST_NAMES = (
    "Ada", "Aisha", "Alba", "Amelia", "Anna", "Beatriz", "Bianca", "Camila", "Chiara", "Clara", "Daniel", "David", "Diego",
    "Elena", "Elif", "Emma", "Ethan", "Fatima", "Felix", "Finn", "Giulia", "Grace", "Hana", "Hugo", "Ines", "Isla", "Ivan",
    "Jack", "Jonas", "Joana", "Julia", "Kai", "Kenji", "Laura", "Leo", "Liam", "Lina", "Lucas", "Maeve", "Marco", "Maria",
    "Marta", "Mateo", "Maya", "Mia", "Miguel", "Nadia", "Nina", "Noah", "Nora", "Oliver", "Olivia", "Omar", "Oscar", "Pedro",
    "Petra", "Priya", "Rafael", "Rosa", "Ruth", "Samir", "Sara", "Sean", "Sofia", "Stella", "Tara", "Teresa", "Theo", "Tiago",
    "Tom", "Uma", "Vera", "Victor", "Wei", "Yara", "Yuki", "Zoe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Couple:
    """A profile with what only the generator knows of it."""

    profile: Profile
    city: City
    style: str
    second_style: str
    band: float
    """Price band the budget allows, from 1 to 4; not rounded."""
    guests: int
    taste: tuple[float, ...]
    start: datetime
    """First day of planning."""
    wedding: datetime
    thoroughness: float
    """How much they look around; 1 is usual."""


def couple(seed: int, number: int, now: datetime) -> Couple:
    """Returns the couple of that number. Does not depend on how many couples there are.

    Planning began between 14 months ago and a few days ago and takes 8 to 17 months, so some have married and some have only begun.
    """
    choose = random.Random(f"{seed}:couple:{number}")  # noqa: S311  # invented data, no secret
    city = choose.choices(CITIES, (5, 4, 5, 4, 3, 4, 3, 3))[0]
    home = choose.choice(CITIES) if choose.random() < 0.12 else city  # some marry away from home
    style = choose.choices(STYLES, (6, 5, 5, 6, 3, 4, 4, 5, 3, 5))[0]
    second = choose.choices(NEIGHBOURS[style], (3, 2, 1))[0]
    guests = min(max(int(choose.lognormvariate(4.4, 0.5)), 12), 280)
    band = min(max(choose.gauss(2.3, 0.9), 1.0), 4.0)
    budget = round((9000 + 5500 * band + guests * 45 * band) * city.cost / 500) * 500
    start = now - timedelta(days=choose.uniform(4, 425), hours=choose.uniform(0, 24))
    # Weddings fall on Saturdays, in the warm half of the year more often than not.
    wedding = start + timedelta(days=choose.uniform(240, 510))
    if season_of(wedding.month, southern=city.southern) == "winter" and choose.random() < 0.6:
        wedding += timedelta(days=100)
    wedding = (wedding + timedelta(days=(5 - wedding.weekday()) % 7)).replace(hour=14, minute=0, second=0, microsecond=0)
    first, other = choose.sample(_FIRST_NAMES, 2)
    centre, own = style_taste(seed, style), style_taste(seed, second)
    taste = tuple(0.65 * a + 0.35 * b + choose.gauss(0.0, 0.6) for a, b in zip(centre, own, strict=True))
    profile = Profile(
        user_id=UserId(f"couple-{number:06d}"),
        traits={
            "names": f"{first} and {other}",
            "city": city.name,
            "home_city": home.name,
            "style": style,
            "styles": [style, second],
            "total_budget": budget,
            "currency": city.currency,
            "price_band": round(band),
            "guests": guests,
            "season": season_of(wedding.month, southern=city.southern),
        },
        locale=home.locale,
        time_zone=home.time_zone,
        event_date=wedding,
    )
    return Couple(profile, city, style, second, band, guests, taste, start, wedding, choose.lognormvariate(0.0, 0.25))
