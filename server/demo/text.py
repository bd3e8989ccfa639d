"""Descriptions by grammar: an opening for the trade, then style, craft, place and practical sentences in an order that varies."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from server.demo.wording import DETAILS, NAME_FIRST, NAME_SECOND, OPENINGS, PLACE_LINES, PRACTICAL_LINES, STYLE_LINES, TRADE_NAMES
from server.demo.world import Category, City


def business_name(choose: random.Random, category: Category, city: City, taken: set[str]) -> str:
    """Returns an invented name that is not in `taken`, and adds it there. Half of the venues are named the way estates of the city are."""
    while True:
        first, second = choose.choice(NAME_FIRST), choose.choice(NAME_SECOND)
        if category.name == "venue" and choose.random() < 0.5:
            name = city.estate.format(f"{first}{second.lower()}")
        else:
            name = choose.choice(TRADE_NAMES[category.name]).format(a=first, b=second, b_low=second.lower())
        if name in taken:  # short patterns have few names; the quarter of a second shop tells it from the first
            name = f"{name} of {choose.choice(city.quarters).removeprefix('the ')}"
        if name not in taken:
            taken.add(name)
            return name


# "a industrial" cannot be told while the template is written; "a one-minute film" is right as it stands.
_WRONG_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIOu])(?!one|uni|use|eu|Eu)")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe(choose: random.Random, category: str, style: str, slots: Mapping[str, str]) -> str:
    """Returns four to five sentences on one vendor.

    Args:
        choose: Decides every choice.
        category: Name of a `Category`.
        style: One of `world.STYLES`.
        slots: Words for the templates: `name kind quarter city country light capacity price_words season other_season yearly`.
    """
    words = dict(slots)
    words |= {
        "style": "garden-style" if style == "garden" else style,  # the only style whose name is no adjective
        "kind_cap": _capital(words["kind"]),
        "quarter_cap": _capital(words["quarter"]),
        "season_cap": _capital(words["season"]),
        "price_low": words["price_words"][:1].lower() + words["price_words"][1:],
    }
    middle = [*choose.sample(STYLE_LINES[style], choose.choice((1, 1, 2))), choose.choice(DETAILS[category])]
    if choose.random() < 0.55:
        middle.append(choose.choice(PLACE_LINES))
    choose.shuffle(middle)
    sentences = [choose.choice(OPENINGS[category]), *middle]
    sentences.insert(choose.choice((2, len(sentences), len(sentences))), choose.choice(PRACTICAL_LINES))
    return _WRONG_ARTICLE.sub(r"\1n ", " ".join(_capital(sentence.format_map(words)) for sentence in sentences))
