"""Content blocks of the demo tenant: heroes, headlines and calls to action, each with whom it is for."""

from __future__ import annotations

import itertools

from server.demo.world import CATEGORIES, SEASONS, STYLES
from server.domain import Item, ItemId

STAGES = ("explore", "compare", "decide")
"""How near a couple is to a decision: the intent stages of behaviour patterns, in lower case."""

_HERO_LINES = {
    "rustic": ("Barn doors open wide", "Timber, linen and a long table under the rafters."),
    "modern": ("Less, but yours", "Clean rooms and clear plans for a day without clutter."),
    "bohemian": ("Shoes off, lanterns up", "Rugs, pampas and a fire for the people you love."),
    "classic": ("Always in good form", "White linen, silver and a toast that everyone hears."),
    "vintage": ("An old song, danced again", "Lace, brass and cars with running boards."),
    "glamorous": ("Make an entrance", "Champagne, mirrors and a room that gasps."),
    "coastal": ("Vows with salt in the air", "White canvas, bare feet and a table by the water."),
    "garden": ("In full bloom", "Roses at the gate and dinner beneath the trees."),
    "industrial": ("City bones, warm light", "Brick, steel and a skyline for a backdrop."),
    "romantic": ("By candlelight", "Soft colours, slow songs and a corner for two."),
}

_STAGE_HERO = {
    "explore": ("Start with a look around", "See ideas"),
    "compare": ("Put your favourites side by side", "Compare favourites"),
    "decide": ("Ask about your date before it goes", "Check your date"),
}

_CATEGORY_CTA = {
    "explore": ("Meet {plural} in your style", "Browse {plural}"),
    "compare": ("Narrow down your {plural}", "Compare {plural}"),
    "decide": ("Ask two {plural} about your date", "Write to {plural}"),
}

_SEASON_LINES = {
    "spring": ("Blossom season is near", "What florists cut in April, and venues that open their lawns first."),
    "summer": ("Long evenings ahead", "Shade, ices and bands that play outdoors."),
    "autumn": ("Harvest light", "Vineyards, russet flowers and suppers that begin early."),
    "winter": ("Warm rooms, cold stars", "Fires lit, menus slow-cooked and prices gentler."),
}


def _block(kind: str, name: str, headline: str, description: str, cta: str, **target: str) -> Item:
    url = f"/{target.get('category', 'ideas')}"
    return Item(
        item_id=ItemId(f"{kind.replace('_', '-')}-{name.replace('_', '-')}"),
        title=headline,
        description=description,
        categories=(target["category"],) if "category" in target else (),
        attributes={"headline": headline, "description": description, "cta": cta, "url": url, **target},
        content_type=kind,
        language="en",
    )


def content_blocks() -> list[Item]:
    """Returns all blocks. Attributes: `headline description cta url`, and the aim, some of `style category intent_stage season`."""
    blocks = []
    for style, stage in itertools.product(STYLES, STAGES):
        headline, line = _HERO_LINES[style]
        ask, cta = _STAGE_HERO[stage]
        blocks.append(_block("hero_banner", f"{style}-{stage}", headline, f"{line} {ask}.", cta, style=style, intent_stage=stage))
    for season in SEASONS:
        headline, line = _SEASON_LINES[season]
        blocks.append(_block("hero_banner", season, headline, line, f"Plan for {season}", season=season))
    for category, (stage, (line, cta)) in itertools.product(CATEGORIES, _CATEGORY_CTA.items()):
        headline = line.format(plural=category.plural)
        text = f"{headline}, chosen for your city, your budget and the party you expect."
        blocks.append(
            _block(
                "cta_buttons",
                f"{category.name}-{stage}",
                headline,
                text,
                cta.format(plural=category.plural),
                category=category.name,
                intent_stage=stage,
            )
        )
    for style, season in itertools.product(STYLES, SEASONS):
        headline = f"{style.capitalize()} weddings in {season}"
        text = f"{_HERO_LINES[style][1]} {_SEASON_LINES[season][0]}."
        blocks.append(_block("headlines", f"{style}-{season}", headline, text, "Read on", style=style, season=season))
    return blocks
