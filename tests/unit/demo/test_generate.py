"""The demo world: the same for the same seed, complete, and worth learning from."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from datetime import UTC, datetime

import numpy as np
import pytest
import scipy.sparse as sp

from server.demo import Demo, couples_with_journeys, generate
from server.demo.world import CATEGORIES, CITIES, season_of
from server.errors import InvalidFieldError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def demo() -> Demo:
    """A small world, whole."""
    return generate(400, 3, NOW)


def test_the_same_seed_gives_the_same_world() -> None:
    """Two runs with one seed, size and moment agree in every value; another seed differs."""
    assert generate(5, 9, NOW) == generate(5, 9, NOW)
    assert generate(5, 9, NOW).events != generate(5, 10, NOW).events


def test_a_larger_world_keeps_the_couples_of_a_smaller_one() -> None:
    """The first couples and their events do not depend on how many follow, so a run can go on where one stopped."""
    _, few = couples_with_journeys(3, 1, NOW)
    _, more = couples_with_journeys(6, 1, NOW)
    _, tail = couples_with_journeys(6, 1, NOW, start=3)
    assert [*few, *tail] == list(more)


def test_the_catalogue_is_large_and_covers_every_category_and_city(demo: Demo) -> None:
    """At least 2,000 vendors over at least 12 categories and 8 cities, each priced in its city's currency, with ids that differ."""
    vendors = [item for item in demo.items if not item.content_type]
    assert len(vendors) >= 2000
    assert len({item.item_id for item in demo.items}) == len(demo.items)
    assert len({item.title for item in vendors}) == len(vendors)
    cells = Counter((item.categories[0], item.attributes["city"]) for item in vendors)
    assert len(CATEGORIES) >= 12
    assert len(cells) == len(CATEGORIES) * len(CITIES)
    assert all(item.price and item.currency for item in vendors)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return set(zip(words, words[1:], words[2:], strict=False))


def test_two_vendors_of_one_kind_do_not_read_alike(demo: Demo) -> None:
    """Within one category and style, two descriptions share under a quarter of their three-word runs, and none is repeated."""
    groups = defaultdict(list)
    for item in demo.items:
        if not item.content_type:
            groups[item.categories[0], item.attributes["style"]].append(item.description)
            assert "{" not in item.description
    assert len({text for group in groups.values() for text in group}) == sum(map(len, groups.values()))
    shared = []
    for group in list(groups.values())[::10]:
        for a, b in itertools.combinations([_shingles(text) for text in group[:8]], 2):
            shared.append(len(a & b) / len(a | b))
    assert np.mean(shared) < 0.25


def test_content_blocks_say_what_they_show_and_for_whom(demo: Demo) -> None:
    """Heroes, calls to action and headlines carry their words and at least one targeting attribute."""
    blocks = [item for item in demo.items if item.content_type]
    assert {item.content_type for item in blocks} == {"hero_banner", "cta_buttons", "headlines"}
    for block in blocks:
        assert {"headline", "description", "cta"} <= block.attributes.keys()
        assert {"style", "category", "intent_stage", "season"} & block.attributes.keys()


def test_events_name_known_users_and_items_and_lie_in_the_past(demo: Demo) -> None:
    """Every event is of a couple and a vendor of the world, before now, and its id is its own; the list runs from oldest to newest."""
    users = {user.user_id for user in demo.users}
    vendors = {item.item_id for item in demo.items if not item.content_type}
    assert {event.user_id for event in demo.events} <= users
    assert {event.item_id for event in demo.events} <= vendors
    assert all(event.occur_time < NOW for event in demo.events)
    assert len({event.event_id for event in demo.events}) == len(demo.events)
    assert demo.events == sorted(demo.events, key=lambda event: event.occur_time)


def test_couples_look_then_save_then_enquire_then_book(demo: Demo) -> None:
    """Nobody books a vendor that they did not view, save and ask first; and venues are booked before cakes."""
    order = {"view": 0, "compare": 1, "save": 2, "enquire": 3, "book": 4}
    reached: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
    booked: defaultdict[str, list[str]] = defaultdict(list)
    for event in demo.events:
        steps = reached[event.user_id, event.item_id]
        assert event.event_type == "view" or order[event.event_type] - 1 in steps
        steps.append(order[event.event_type])
        if event.event_type == "book":
            booked[event.user_id].append(event.properties["category"])
    both = [categories for categories in booked.values() if {"venue", "cake"} <= set(categories)]
    assert both
    assert all(categories.index("venue") < categories.index("cake") for categories in both)


def test_behaviour_follows_city_style_and_budget(demo: Demo) -> None:
    """Couples stay in their city, and what they look at is closer to their style and price band than the catalogue at large."""
    items = {item.item_id: item for item in demo.items}
    users = {user.user_id: user for user in demo.users}
    pairs = [
        (users[event.user_id].traits, items[event.item_id].attributes)
        for event in demo.events
        if event.item_id and event.event_type == "view"
    ]
    assert all(traits["city"] == item["city"] for traits, item in pairs)
    vendors = [item.attributes for item in demo.items if not item.content_type]
    style_by_chance = np.mean(
        [bool(set(traits["styles"]) & set(vendor["styles"])) for traits, _ in pairs[:300] for vendor in vendors[:300]]
    )
    assert np.mean([bool(set(traits["styles"]) & set(item["styles"])) for traits, item in pairs]) > 1.3 * style_by_chance
    gap_by_chance = np.mean([abs(traits["price_band"] - vendor["price_band"]) for traits, _ in pairs[:300] for vendor in vendors[:300]])
    assert np.mean([abs(traits["price_band"] - item["price_band"]) for traits, item in pairs]) < 0.8 * gap_by_chance


def test_item_knn_beats_popularity_on_held_out_events(demo: Demo) -> None:
    """The next vendor each couple turns to is foretold by neighbours of earlier ones three times as often as by popularity."""
    rows, columns = {u.user_id: n for n, u in enumerate(demo.users)}, {i.item_id: n for n, i in enumerate(demo.items)}
    histories: dict[int, list[int]] = defaultdict(list)
    for event in demo.events:
        assert event.item_id
        if columns[event.item_id] not in histories[rows[event.user_id]]:
            histories[rows[event.user_id]].append(columns[event.item_id])
    histories = {user: items for user, items in histories.items() if len(items) >= 8}
    held = {user: set(items[-3:]) for user, items in histories.items()}
    seen = [(user, item) for user, items in histories.items() for item in items[:-3]]
    x = sp.csr_matrix((np.ones(len(seen)), tuple(zip(*seen, strict=True))), shape=(len(rows), len(columns)))  # (users, items)
    norms = np.sqrt(np.asarray(x.multiply(x).sum(axis=0))).ravel() + 1e-9
    cosine = (x.T @ x).toarray() / np.outer(norms, norms)  # (items, items)
    np.fill_diagonal(cosine, 0)

    def recall(scores: np.ndarray) -> float:
        scores = np.where(x.toarray() > 0, -np.inf, scores)
        return float(np.mean([len(held[user] & set(np.argsort(-scores[user])[:20].tolist())) / 3 for user in held]))

    popularity = recall(np.broadcast_to(np.asarray(x.sum(axis=0)), x.shape))
    assert recall(x @ cosine) > 3 * popularity
    assert recall(x @ cosine) > 0.1


@pytest.mark.parametrize(
    ("size", "now", "field"),
    [(0, NOW, "size"), (-1, NOW, "size"), (1, datetime(2026, 1, 1), "now")],  # noqa: DTZ001
)
def test_impossible_worlds_are_refused(size: int, now: datetime, field: str) -> None:
    """No couples, or a moment without a time zone, is an error that names the argument."""
    with pytest.raises(InvalidFieldError, match=field):
        generate(size, 1, now)


def test_seasons_are_turned_round_in_the_south() -> None:
    """July is summer in Porto and winter in Melbourne."""
    assert (season_of(7, southern=False), season_of(7, southern=True)) == ("summer", "winter")
    assert [season_of(month, southern=False) for month in (12, 2, 3, 11)] == ["winter", "winter", "spring", "autumn"]
