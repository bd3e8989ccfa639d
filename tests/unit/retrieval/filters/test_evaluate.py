from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import Item, ItemId
from server.retrieval.columns import ItemColumns
from server.retrieval.filters import Filter, compile_filter
from server.retrieval.filters.evaluate import evaluate
from server.retrieval.filters.fields import FIELDS, FieldKind
from server.retrieval.filters.syntax import EPOCH, And, Anything, Boolean, Everything, Moment, Node, Not, Number, Or, Restriction, Text

BARN = Item(
    item_id=ItemId("barn"),
    title="The Rustic  Barn, Porto",
    categories=("Venue", "outdoor space"),
    price=5000.0,
    currency="EUR",
    available_from=datetime(2026, 5, 1, tzinfo=UTC),
    attributes={
        "city": "Porto",
        "capacity": 120,
        "parking": True,
        "zip": "4000",
        "tags": ["Garden", "river view", 7],
        "rooms": [{"name": "Blue"}, {"name": "Red"}],
        "empty": [],
        "nothing": None,
        "size": {"width": 9},
        "a b": {"c.d": 1},
    },
)


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("", True),
        ('price <= 5000 AND categories:"venue" AND attributes.city = "Porto"', True),
        ("price != 5000", False),
        ("currency = eur", False),
        ("currency:eur", True),
        ("title:rustic", True),
        ('title:"rustic barn"', True),
        ('title:"BARN, porto"', True),
        ("title:rust", False),
        ("title:rust*", True),
        ('title = "The*"', True),
        ('title = "*Porto"', True),
        ('title = "*rustic*"', False),
        ("categories:outdoor", False),
        ('categories:"out*"', True),
        ("categories:(photographer OR venue)", True),
        ("language:*", False),
        ('language != "pt"', False),
        ('NOT language = "pt"', True),
        ("attributes.capacity >= 100 attributes.capacity < 121", True),
        ('attributes.capacity = "120"', False),
        ("attributes.zip = 4000", True),
        ("attributes.zip >= 4000", False),
        ("attributes.parking = true", True),
        ("attributes.parking = 1", False),
        ("attributes.tags:garden", True),
        ("attributes.tags = garden", False),
        ('attributes.tags = "river view"', True),
        ("attributes.tags:7", True),
        ("attributes.tags > 6", True),
        ("attributes.tags != 7", False),
        ("attributes.tags != 8", True),
        ("attributes.rooms.name:red", True),
        ("attributes.empty:*", False),
        ("attributes.nothing:*", False),
        ("attributes:nothing", False),
        ("attributes:parking", True),
        ("attributes:*", True),
        ("attributes.size:*", True),
        ("attributes.size:width", True),
        ("attributes.size:depth", False),
        ('attributes."a b"."c.d" = 1', True),
        ("available_from <= 2026-05-01", True),
        ('available_from < "2026-05-01T01:00:00+02:00"', False),
        ("available_until > 2000-01-01", False),
        ("NOT available_until < 2026-06-01", True),
        ("available_until:*", False),
    ],
)
def test_filter_on_a_barn(expression: str, *, passes: bool) -> None:
    """Each operator means what the package's docstring says."""
    columns = ItemColumns()
    columns.extend([BARN])
    assert evaluate(compile_filter(expression).root, columns, 0, 1).tolist() == [passes]


def test_huge_and_deep_attributes_are_taken() -> None:
    """An integer beyond float64 compares as infinite, and lists nested without end are cut, not followed."""
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]
    columns = ItemColumns()
    columns.extend([Item(item_id=ItemId("i"), title="t", attributes={"big": -(10**400), "deep": deep})])
    assert evaluate(compile_filter("attributes.big < -1e300 AND NOT attributes.deep:*").root, columns, 0, 1).tolist() == [True]


# --- property: columns agree with a reader of one item at a time ---------------------------------------------------

WORDS = ["Porto", "porto", "Quinta do Rio", "rio", "4000", "a*b", 'q"t', "true", "é", ""]
PATHS = [("city",), ("tags",), ("size", "w"), ("x y",)]
texts = st.sampled_from(WORDS)
numbers = st.sampled_from([-1.5, 0.0, 1.0, 4000.0, 7.0])
times = st.integers(-3, 3).map(lambda days: EPOCH + timedelta(days=days))
scalars = st.one_of(texts, numbers, st.booleans(), st.none())
attributes = st.fixed_dictionaries(
    {},
    optional={
        "city": scalars,
        "tags": st.lists(scalars, max_size=3),
        "size": st.one_of(
            scalars, st.fixed_dictionaries({}, optional={"w": scalars}), st.lists(st.fixed_dictionaries({"w": scalars}), max_size=2)
        ),
        "x y": scalars,
    },
)
items = st.builds(
    Item,
    item_id=texts.filter(bool).map(ItemId),
    title=texts,
    categories=st.lists(texts.filter(bool), max_size=3).map(tuple),
    attributes=attributes,
    price=st.none() | numbers,
    currency=texts,
    available_from=st.none() | times,
)

text_values = st.builds(Text, texts, st.booleans(), st.booleans()).filter(lambda value: value.text or not value.open_end)
number_values = numbers.map(lambda value: Number(value, repr(value)))
moments = st.integers(-3, 3).map(lambda days: Moment(days * 86_400_000_000))
ordered = st.sampled_from(["<", "<=", ">", ">="])
equality = st.sampled_from(["=", "!=", ":"])


@st.composite
def restrictions(draw: st.DrawFn) -> Restriction:
    """Draws one comparison that the parser would take."""
    name = draw(st.sampled_from(["title", "currency", "categories", "price", "available_from", "attributes"]))
    path = (name, *draw(st.sampled_from(PATHS))) if name == "attributes" else (name,)
    if draw(st.integers(0, 5)) == 0:
        return Restriction(path, ":", Anything())
    match FIELDS[name]:
        case FieldKind.TEXTS:
            return Restriction(path, ":", draw(text_values))
        case FieldKind.NUMBER:
            return Restriction(path, draw(equality | ordered), draw(number_values))
        case FieldKind.TIME:
            return Restriction(path, draw(equality | ordered), draw(moments))
        case kind:
            operator = draw(equality | ordered)
            plain = texts.map(Text) if operator[0] in "<>" else text_values
            others = number_values if operator[0] in "<>" else number_values | st.booleans().map(Boolean)
            return Restriction(path, operator, draw(plain if kind is FieldKind.TEXT else plain | others))


def _joined(kind: type[And | Or], nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.lists(nodes, min_size=2, max_size=3).map(lambda operands: kind(tuple(operands)))


trees: st.SearchStrategy[Node] = st.recursive(
    restrictions(), lambda nodes: nodes.map(Not) | _joined(And, nodes) | _joined(Or, nodes), max_leaves=6
)


def passes(node: Node, item: Item) -> bool:  # noqa: PLR0911  # one return a node kind
    """Evaluates one item the slow way, by the package's docstring."""
    match node:
        case Everything():
            return True
        case Not(operand):
            return not passes(operand, item)
        case And(operands):
            return all(passes(operand, item) for operand in operands)
        case Or(operands):
            return any(passes(operand, item) for operand in operands)
        case Restriction(path, operator, value):
            reached = _reach(getattr(item, path[0]), path[1:])
            words = FIELDS[path[0]] is FieldKind.TEXT
            if isinstance(value, Anything):
                return any(one not in (None, "") and one != {} for one in reached)
            scalars = [one for one in reached if one is not None and not isinstance(one, Mapping) and not (words and one == "")]
            if operator == "!=":
                return bool(scalars) and not any(_equal(one, value) for one in scalars)
            if operator == ":" and path[0] == "attributes" and isinstance(value, Text | Number):
                inner = _reach(item.attributes, (*path[1:], value.text))
                if any(one not in (None, "") and one != {} for one in inner):
                    return True
            return any(_compare(one, operator, value, words=words) for one in scalars)


def _reach(value: Any, path: tuple[str, ...]) -> list[Any]:
    if isinstance(value, list | tuple):
        return [found for element in value for found in _reach(element, path)]
    if not path:
        return [value]
    return _reach(value[path[0]], path[1:]) if isinstance(value, Mapping) and path[0] in value else []


def _equal(one: Any, value: Any) -> bool:
    if isinstance(value, Moment):
        return bool(one == EPOCH + timedelta(microseconds=value.microseconds))
    if isinstance(one, str):
        if isinstance(value, Text):
            return re.fullmatch(".*" * value.open_start + re.escape(value.text) + ".*" * value.open_end, one, re.DOTALL) is not None
        return one == str(value)
    if isinstance(value, Text) or isinstance(one, bool) != isinstance(value, Boolean):
        return False
    return bool(one == value.value)


def _compare(one: Any, operator: str, value: Any, *, words: bool) -> bool:
    if operator == ":" and isinstance(one, str) and isinstance(value, Text):
        folded = Text(value.text.casefold(), value.open_start, value.open_end)
        if not words:
            return _equal(one.casefold(), folded)
        wanted = folded.text
        starts = [found.start() for found in re.finditer(f"(?={re.escape(wanted)})", one.casefold())]
        return any(_bounded(one.casefold(), start, wanted, value) for start in starts)
    if operator in "=:":
        return _equal(one, value)
    if isinstance(value, Moment):
        value = EPOCH + timedelta(microseconds=value.microseconds)
    elif isinstance(one, str) != isinstance(value, Text) or isinstance(one, bool):
        return False
    else:
        value = value.text if isinstance(value, Text) else value.value
    return bool({"<": one < value, "<=": one <= value, ">": one > value, ">=": one >= value}[operator])


def _bounded(text: str, start: int, wanted: str, value: Text) -> bool:
    """Says whether an occurrence starts and ends at the edge of a word, where the value's own edge is a word's."""
    stop = start + len(wanted)
    word = re.compile(r"\w")
    left = value.open_start or not wanted or not word.match(wanted[0]) or start == 0 or not word.match(text[start - 1])
    right = value.open_end or not wanted or not word.match(wanted[-1]) or stop == len(text) or not word.match(text[stop])
    return left and right


@given(trees, st.lists(items, min_size=1, max_size=6), st.integers(0, 6))
def test_columns_agree_with_reading_each_item(root: Node, catalogue: list[Item], split: int) -> None:
    """A tree, printed and parsed again, passes exactly the items that reading each one passes, however the slots are cut."""
    parsed = compile_filter(str(Filter(root)))
    columns = ItemColumns()
    columns.extend(catalogue[:split])
    early = evaluate(parsed.root, columns, 0, min(split, len(catalogue)))
    columns.extend(catalogue[split:])
    late = evaluate(parsed.root, columns, len(early), len(catalogue))
    assert np.concatenate([early, late]).tolist() == [passes(root, item) for item in catalogue]


@given(trees)
def test_printed_tree_parses_to_itself(root: Node) -> None:
    """Printing a tree loses nothing but the grouping of equal operators."""
    text = str(Filter(root))
    assert str(compile_filter(text)) == text
