"""What the demo world is made of: cities, styles and the categories that couples book, in the order they book them.

Prices are for a middle-of-the-road vendor in a city of cost 1, in units of the city's currency; the currencies chosen are near enough to
each other that one range serves all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class City:
    """A place where couples marry."""

    name: str
    country: str
    currency: str
    locale: str
    time_zone: str
    cost: float
    """Price level; 1 is the middle."""
    quarters: tuple[str, ...]
    """Neighbourhoods that vendors say they are in."""
    light: str
    """What a local would say of the place, to be used after `the`."""
    estate: str
    """How country houses are called there; `{}` is the name."""
    southern: bool = False


CITIES = (
    City(
        "Porto",
        "Portugal",
        "EUR",
        "pt-PT",
        "Europe/Lisbon",
        0.8,
        ("Ribeira", "Foz do Douro", "Cedofeita", "Bonfim", "Miragaia"),
        "Atlantic light over the Douro",
        "Quinta {}",
    ),
    City(
        "Edinburgh",
        "Scotland",
        "GBP",
        "en-GB",
        "Europe/London",
        1.0,
        ("Leith", "Stockbridge", "Morningside", "the New Town", "Portobello"),
        "long northern dusk",
        "{} House",
    ),
    City(
        "Barcelona",
        "Spain",
        "EUR",
        "es-ES",
        "Europe/Madrid",
        0.95,
        ("Gràcia", "El Born", "Poblenou", "Sarrià", "Poble-sec"),
        "late Mediterranean evening",
        "Masia {}",
    ),
    City(
        "Florence",
        "Italy",
        "EUR",
        "it-IT",
        "Europe/Rome",
        1.15,
        ("Oltrarno", "San Niccolò", "Fiesole", "Santa Croce", "Settignano"),
        "gold of a Tuscan afternoon",
        "Villa {}",
    ),
    City(
        "Dublin",
        "Ireland",
        "EUR",
        "en-IE",
        "Europe/Dublin",
        1.1,
        ("Ranelagh", "Howth", "Stoneybatter", "Dalkey", "Smithfield"),
        "soft Irish weather",
        "{} Hall",
    ),
    City(
        "Austin",
        "United States",
        "USD",
        "en-US",
        "America/Chicago",
        1.2,
        ("South Congress", "Hyde Park", "East Austin", "Zilker", "Clarksville"),
        "Hill Country sunset",
        "{} Ranch",
    ),
    City(
        "Toronto",
        "Canada",
        "CAD",
        "en-CA",
        "America/Toronto",
        1.15,
        ("the Distillery District", "Leslieville", "the Annex", "Liberty Village", "the Beaches"),
        "lakefront breeze",
        "{} Estate",
    ),
    City(
        "Melbourne",
        "Australia",
        "AUD",
        "en-AU",
        "Australia/Melbourne",
        1.25,
        ("Fitzroy", "St Kilda", "Carlton", "Brunswick", "the Yarra Valley"),
        "four seasons of a Melbourne day",
        "{} Homestead",
        southern=True,
    ),
)

STYLES = ("rustic", "modern", "bohemian", "classic", "vintage", "glamorous", "coastal", "garden", "industrial", "romantic")

SEASONS = ("spring", "summer", "autumn", "winter")

# Styles that people who like the first also like, most alike first. Couples' second style and vendors' second style come from here.
NEIGHBOURS = {
    "rustic": ("bohemian", "garden", "vintage"),
    "modern": ("industrial", "glamorous", "coastal"),
    "bohemian": ("rustic", "coastal", "garden"),
    "classic": ("romantic", "glamorous", "garden"),
    "vintage": ("rustic", "romantic", "classic"),
    "glamorous": ("modern", "classic", "romantic"),
    "coastal": ("bohemian", "modern", "garden"),
    "garden": ("romantic", "rustic", "classic"),
    "industrial": ("modern", "vintage", "glamorous"),
    "romantic": ("garden", "classic", "vintage"),
}


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of vendor, and how couples go about booking one."""

    name: str
    plural: str
    price_from: float
    price_to: float
    """Usual prices, lowest to highest, before the city's level."""
    unit: str
    """What the price buys: `event`, `guest` or `piece`."""
    budget_share: float
    """Part of the couple's budget that goes here."""
    start: float
    """When couples turn to it: 0 the first day of planning, 1 the wedding."""
    used_by: float
    """Share of couples who book one at all."""
    kinds: tuple[str, ...]
    seats: bool = False
    """Whether a party can be too large for it."""


CATEGORIES = (
    Category(
        "venue",
        "venues",
        1800,
        14000,
        "event",
        0.36,
        0.0,
        0.97,
        ("barn", "manor", "loft", "winery", "beach house", "glasshouse", "hotel", "gallery"),
        seats=True,
    ),
    Category("planner", "planners", 900, 7500, "event", 0.09, 0.05, 0.45, ("full planning", "partial planning", "day-of coordination")),
    Category("photographer", "photographers", 900, 5200, "event", 0.1, 0.12, 0.95, ("documentary", "editorial", "fine art", "film")),
    Category(
        "caterer",
        "caterers",
        38,
        190,
        "guest",
        0.24,
        0.2,
        0.85,
        ("seasonal menus", "street food", "fine dining", "family-style feasts", "plant-based"),
        seats=True,
    ),
    Category("videographer", "videographers", 700, 4200, "event", 0.06, 0.24, 0.5, ("cinematic", "documentary film", "super 8")),
    Category(
        "dress",
        "dress makers",
        600,
        6500,
        "piece",
        0.07,
        0.28,
        0.8,
        ("made to measure", "sample boutique", "vintage gowns", "suits and tailoring"),
    ),
    Category("band", "bands", 800, 6000, "event", 0.06, 0.34, 0.42, ("soul", "folk", "jazz", "string quartet", "party covers")),
    Category("dj", "DJs", 350, 2400, "event", 0.04, 0.38, 0.55, ("house and disco", "open format", "vinyl only")),
    Category(
        "florist",
        "florists",
        450,
        5200,
        "event",
        0.06,
        0.45,
        0.88,
        ("seasonal", "dried flowers", "large installations", "wild and foraged"),
    ),
    Category("invitations", "stationers", 3, 18, "guest", 0.02, 0.5, 0.7, ("letterpress", "watercolour", "digital", "calligraphy")),
    Category(
        "cake",
        "cake makers",
        220,
        1700,
        "piece",
        0.02,
        0.58,
        0.82,
        ("buttercream", "sugar flowers", "naked cakes", "dessert tables"),
    ),
    Category("jewellery", "jewellers", 380, 5200, "piece", 0.05, 0.62, 0.6, ("hand-forged rings", "antique rings", "heirloom remodelling")),
    Category(
        "hair_makeup",
        "hair and make-up artists",
        180,
        1300,
        "event",
        0.02,
        0.68,
        0.75,
        ("natural", "editorial glam", "braids and texture"),
    ),
    Category(
        "transport",
        "transport companies",
        160,
        1900,
        "event",
        0.02,
        0.78,
        0.5,
        ("classic cars", "vintage buses", "boats", "electric shuttles"),
    ),
)

CATEGORY = {category.name: category for category in CATEGORIES}

# Venue kinds that fit a style; the others' kinds are chosen freely.
VENUE_KINDS = {
    "rustic": ("barn", "winery"),
    "modern": ("gallery", "loft"),
    "bohemian": ("glasshouse", "barn"),
    "classic": ("manor", "hotel"),
    "vintage": ("manor", "barn"),
    "glamorous": ("hotel", "gallery"),
    "coastal": ("beach house", "hotel"),
    "garden": ("glasshouse", "winery"),
    "industrial": ("loft", "gallery"),
    "romantic": ("winery", "manor"),
}


def season_of(month: int, *, southern: bool) -> str:
    """Returns the season of a month in [1, 12]: March begins spring in the north and autumn in the south."""
    return SEASONS[((month - 3) // 3 + (2 if southern else 0)) % 4]
