"""Personalize's filter expressions against a plain evaluation of them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.compat.aws.filters import Circumstances, Selection, check_expressible, parse_filter, resolve
from server.compat.aws.filters.resolve import parameter_values
from server.domain import Interaction, Item, ItemId
from server.errors import FilterSyntaxError, InvalidFieldError
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex

WORDS = ["red", "blue", 'say "hi"', "50*", "5", "Porto|Braga", "a\\b"]


def passing(where: str, items: list[Item]) -> set[str]:
    """Returns the items that an AIP-160 filter lets through."""
    index = ItemIndex(2)
    index.upsert(items, np.ones((len(items), 2), np.float32))
    view = index.view()
    return set(view.ids(np.flatnonzero(view.mask(compile_filter(where)))))


def quoted(text: str) -> str:
    """Returns a text literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Compared:
    """A condition: its text, and whether an item passes."""

    def __init__(self, field: str, operator: str, values: list[Any]) -> None:
        self.field, self.operator, self.values = field, operator, values

    @property
    def text(self) -> str:
        """As Personalize writes it."""
        name = f"Items.{self.field.upper()}"
        if self.operator in {"IN", "NOT IN"}:
            return f"{name} {self.operator} ({', '.join(map(quoted, self.values))})"
        return f"{name} {self.operator} {self.values[0]}"

    def holds(self, item: Item) -> bool:
        """By the definition."""
        value = item.price if self.field == "price" else item.attributes.get(self.field)
        have = value if isinstance(value, list) else [] if value is None else [value]
        if self.operator in {"IN", "NOT IN"}:
            return bool(set(have) & set(self.values)) == (self.operator == "IN")
        wanted = self.values[0]
        tests = {
            "<": lambda one: one < wanted,
            "<=": lambda one: one <= wanted,
            ">": lambda one: one > wanted,
            ">=": lambda one: one >= wanted,
        }
        equal = any(one == wanted for one in have)
        return {"=": equal, "!=": bool(have) and not equal}.get(self.operator, any(map(tests.get(self.operator, bool), have)))


_number = st.integers(-20, 20) | st.sampled_from([0.5, -2.25, 1e9])
_conditions = st.builds(
    Compared,
    st.sampled_from(["color", "style"]),
    st.sampled_from(["IN", "NOT IN"]),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
) | st.builds(
    Compared,
    st.sampled_from(["price", "size"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.lists(_number, min_size=1, max_size=1),
)
_attributes = st.fixed_dictionaries(
    {}, optional={"color": st.sampled_from(WORDS), "style": st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), "size": _number}
)
_items = st.lists(st.tuples(_attributes, st.none() | _number), min_size=1, max_size=8).map(
    lambda rows: [Item(item_id=ItemId(f"i{row}"), title="t", attributes=made, price=price) for row, (made, price) in enumerate(rows)]
)


@given(
    items=_items,
    statements=st.lists(
        st.tuples(st.booleans(), st.lists(_conditions, min_size=1, max_size=3), st.sampled_from(["AND", "OR"])), min_size=1, max_size=3
    ),
)
def test_filters_over_items_pass_what_their_definition_passes(
    items: list[Item], statements: list[tuple[bool, list[Compared], str]]
) -> None:
    """Any chain of conditions, included or excluded and joined by `|`, lets through just the items for which all statements hold."""
    text = " | ".join(
        f"{'INCLUDE' if include else 'EXCLUDE'} ItemID WHERE {f' {word} '.join(one.text for one in chain)}"
        for include, chain, word in statements
    )
    selection = resolve(parse_filter(text), Circumstances())
    wanted = {
        item.item_id
        for item in items
        if all((all if word == "AND" else any)(one.holds(item) for one in chain) == include for include, chain, word in statements)
    }
    assert passing(selection.where, items) == wanted


@given(values=st.lists(st.text(min_size=1, max_size=8).filter(lambda text: text.strip() == text), min_size=1, max_size=4))
def test_parameters_hold_any_texts(values: list[str]) -> None:
    """Values that were quoted and joined by commas are read back as they were."""
    assert parameter_values(",".join(map(quoted, values)), "P") == values


def test_one_bare_value_needs_no_quotes() -> None:
    """A parameter of one value may come without quotes, as numbers do."""
    assert parameter_values("500", "P") == ["500"]
    with pytest.raises(InvalidFieldError, match=r"filterValues\.P"):
        parameter_values('"open', "P")


ITEMS = [
    Item(item_id=ItemId("a"), title="a", attributes={"city": "Porto"}, price=5.0, categories=("Venue",)),
    Item(item_id=ItemId("b"), title="b", attributes={"city": "Braga"}, price=50.0),
]


def selected(text: str, **given_: Any) -> Selection:
    """Returns a filter's selection."""
    return resolve(parse_filter(text), Circumstances(**given_))


def test_and_binds_before_or() -> None:
    """`a OR b AND c` is `a OR (b AND c)`, and parentheses change it; keywords may be in any case."""
    either = 'include itemid where Items.CITY in ("Braga") or Items.CITY in ("Porto") and Items.PRICE > 10'
    assert passing(selected(either).where, ITEMS) == {"b"}
    grouped = 'INCLUDE ItemID WHERE (Items.CITY IN ("Braga") OR Items.CITY IN ("Porto")) AND Items.PRICE < 10'
    assert passing(selected(grouped).where, ITEMS) == {"a"}


def test_parameters_are_required_to_include_and_may_be_left_out_to_exclude() -> None:
    """An INCLUDE filter without a parameter's value is refused, an EXCLUDE filter does without that part."""
    with pytest.raises(InvalidFieldError, match=r"filterValues\.CITY"):
        selected("INCLUDE ItemID WHERE Items.CITY IN ($CITY)")
    assert selected("EXCLUDE ItemID WHERE Items.CITY IN ($CITY)") == Selection()
    part = selected("EXCLUDE ItemID WHERE Items.CITY IN ($CITY) OR Items.PRICE > $MOST", values={"MOST": "10"})
    assert passing(part.where, ITEMS) == {"a"}


def test_interactions_give_sets_of_items() -> None:
    """Conditions on interactions select the items of those; `*` means all; event types compare as they are stored."""
    history = [
        Interaction(ItemId(item), kind, datetime.now(UTC)) for item, kind in (("a", "view"), ("b", "add_to_cart"), ("a", "purchase"))
    ]
    for text, without in (
        ('IN ("AddToCart")', {"b"}),
        ('IN ("view", "Add to Cart")', {"a", "b"}),
        ('NOT IN ("view")', {"a", "b"}),
        ('IN ("*")', {"a", "b"}),
    ):
        assert selected(f"EXCLUDE ItemID WHERE Interactions.EVENT_TYPE {text}", history=history).without == without
    both = 'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("view") | EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("purchase")'
    assert selected(both, history=history) == Selection("", frozenset({"a"}), frozenset({"a"}), includes=True)


@pytest.mark.parametrize(
    ("condition", "traits", "applies"),
    [
        ("CurrentUser.AGE > 18", {"age": 30}, True),
        ("CurrentUser.AGE > 18", {"age": "30"}, True),
        ("CurrentUser.AGE > 18", {}, False),
        ('CurrentUser.TIER IN ("gold") AND CurrentUser.AGE <= 30', {"age": 30, "tier": ["gold", "old"]}, True),
        ('CurrentUser.TIER NOT IN ("gold")', {}, True),
        ("CurrentUser.AGE != 18", {"age": 18}, False),
    ],
)
def test_the_condition_on_the_user_decides_whether_a_statement_counts(condition: str, traits: dict[str, Any], applies: bool) -> None:  # noqa: FBT001
    """Where the IF does not hold of the user, the statement has no effect."""
    selection = selected(f'INCLUDE ItemID WHERE Items.CITY IN ("Porto") IF {condition}', traits=traits)
    assert passing(selection.where, ITEMS) == ({"a"} if applies else {"a", "b"})


def test_the_current_items_values() -> None:
    """CurrentItem gives the values of the item asked about; nothing passes where it has none; without an item it is refused."""
    text = "INCLUDE ItemID WHERE Items.CITY IN (CurrentItem.CITY) AND Items.PRICE <= CurrentItem.PRICE"
    assert passing(selected(text, item=ITEMS[0]).where, ITEMS) == {"a"}
    assert passing(selected(text, item=Item(item_id=ItemId("c"), title="c", price=9.0)).where, ITEMS) == set()
    with pytest.raises(InvalidFieldError, match="itemId"):
        selected(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected INCLUDE or EXCLUDE"),
        ("INCLUDE ActionID WHERE Actions.A IN (1)", "actions cannot be expressed"),
        ('INCLUDE UserID WHERE Users.A IN ("x")', "user segments cannot be expressed"),
        ("INCLUDE ItemID WHERE Interactions.EVENT_VALUE > 3", "EVENT_VALUE cannot be expressed"),
        ('INCLUDE ItemID WHERE Items.A IN ("x") AND Interactions.EVENT_TYPE IN ("x")', "join two statements"),
        ("INCLUDE ItemID WHERE Items.A = CurrentUser.B", "send the value as a"),
        ("INCLUDE ItemID WHERE CurrentUser.B > 1", "only behind IF"),
        ('INCLUDE ItemID WHERE Items.A IN ("x") IF Items.B > 1', "only CurrentUser"),
        ('INCLUDE ItemID WHERE Items.A IN ("*")', "types of interaction only"),
        ('INCLUDE ItemID WHERE Items.A LIKE "x"', "expected IN"),
        ('INCLUDE ItemID WHERE Items.A IN ("x"', r"expected '\)'"),
        ('INCLUDE ItemID WHERE Items.A IN ("x") ; DROP', "has no meaning here"),
        ('INCLUDE ItemID WHERE Items.A IN ("x") EXCLUDE', "or the end"),
    ],
)
def test_what_cannot_be_expressed_is_named(text: str, message: str) -> None:
    """An expression that is wrong, or asks what Aisle cannot, is refused with the place and the mend."""
    with pytest.raises(FilterSyntaxError, match=message):
        parse_filter(text)


@pytest.mark.parametrize("text", ['Items.PRICE IN ("cheap")', "Items.CATEGORIES > 5", 'Items.PRICE > "much"'])
def test_fields_compared_with_what_they_never_hold_are_refused_at_import(text: str) -> None:
    """A comparison that no request could make hold is found before any request."""
    with pytest.raises(InvalidFieldError):
        check_expressible(parse_filter(f"INCLUDE ItemID WHERE {text}"))
    check_expressible(parse_filter("INCLUDE ItemID WHERE Items.PRICE > $LEAST AND Items.SIZE = $SIZE IF CurrentUser.AGE > $AGE"))


@given(
    text=st.text(max_size=80)
    | st.lists(st.sampled_from(["INCLUDE", "ItemID", "WHERE", "Items.A", "IN", "(", ")", '"x"', "|", "IF", "5", "AND"])).map(" ".join)
)
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is parsed or refused."""
    with suppress(FilterSyntaxError):
        parse_filter(text)
