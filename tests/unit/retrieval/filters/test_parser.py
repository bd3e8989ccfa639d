import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import FilterSyntaxError
from server.retrieval.filters import MAX_DEPTH, MAX_LENGTH, Filter, compile_filter
from server.retrieval.filters.syntax import And, Anything, Boolean, Everything, Moment, Not, Number, Or, Restriction, Text


def price(operator: str, value: str) -> Restriction:
    """Returns the tree of a comparison of price."""
    return Restriction(("price",), operator, Number(float(value), value))


@pytest.mark.parametrize(
    ("expression", "root"),
    [
        ("", Everything()),
        (" \n ", Everything()),
        ("price <= 5000", price("<=", "5000")),
        ("price>-5.5e1", price(">", "-5.5e1")),
        ("price < 1 OR price > 3 AND price != 2", And((Or((price("<", "1"), price(">", "3"))), price("!=", "2")))),
        ("price < 1 price > 3 OR price = 2", And((price("<", "1"), Or((price(">", "3"), price("=", "2")))))),
        ("-price = 1", Not(price("=", "1"))),
        ("NOT price = 1 OR price = 2", Or((Not(price("=", "1")), price("=", "2")))),
        ("NOT (price = 1 AND price = 2)", Not(And((price("=", "1"), price("=", "2"))))),
        ('categories:"venue"', Restriction(("categories",), ":", Text("venue"))),
        ("title = 'it\\'s'", Restriction(("title",), "=", Text("it's"))),
        ('title = "Quinta*"', Restriction(("title",), "=", Text("Quinta", open_end=True))),
        ('title = "*\\*"', Restriction(("title",), "=", Text("*", open_start=True))),
        ("currency = EUR", Restriction(("currency",), "=", Text("EUR"))),
        ("item_id = 007", Restriction(("item_id",), "=", Text("007"))),
        ("price:*", Restriction(("price",), ":", Anything())),
        ("attributes.rooms.name:blue", Restriction(("attributes", "rooms", "name"), ":", Text("blue"))),
        ('attributes."a b".2024.c = true', Restriction(("attributes", "a b", "2024", "c"), "=", Boolean(value=True))),
        ("attributes.site = example.com", Restriction(("attributes", "site"), "=", Text("example.com"))),
        ("attributes:parking", Restriction(("attributes", "parking"), ":", Anything())),
        ("create_time >= 1970-01-01T01:00:00+01:00", Restriction(("create_time",), ">=", Moment(0))),
        ('create_time >= "1970-01-02"', Restriction(("create_time",), ">=", Moment(86_400_000_000))),
        ("categories:(a OR -b)", Or((Restriction(("categories",), ":", Text("a")), Not(Restriction(("categories",), ":", Text("b")))))),
    ],
)
def test_expression_means_this_tree(expression: str, root: object) -> None:
    """An expression parses to the tree that AIP-160's precedence gives it."""
    assert compile_filter(expression).root == root


@pytest.mark.parametrize(
    ("expression", "position", "message"),
    [
        ('title = "abc', 8, "closing quote"),
        ("price <", 7, "expected a value"),
        ("price < AND price > 2", 8, "expected a value"),
        ("AND price > 2", 0, "expected a comparison"),
        ("price > 2 AND", 13, "expected a comparison"),
        ("pric > 2", 0, "did you mean price?"),
        ("colour = red", 0, "filters know item_id"),
        ("price > 2 and price < 3", 10, "write AND in upper case"),
        ("garden", 0, "a bare value searches no field"),
        ('"rustic barn"', 0, "a bare value searches no field"),
        ('price = "5"', 8, "holds a number"),
        ("price = cheap", 8, "holds a number"),
        ("price = 1e999", 8, "too large"),
        ("price.low = 1", 0, "price has no parts"),
        ("create_time > soon", 14, "RFC 3339"),
        ('create_time > "2026-13-01"', 14, "RFC 3339"),
        ("categories = venue", 13, "write field:value"),
        ("title = *", 8, "write field:*"),
        ("title < Q*", 8, "wildcard has no order"),
        ("attributes.x = null", 15, "NOT field:*"),
        ("attributes.x < true", 15, "have no order"),
        ("attributes = x", 11, "attributes.NAME"),
        ("attributes. = x", 12, "expected a name"),
        ("now() > 5", 0, "functions are not supported"),
        ("title = lower(x)", 8, "functions are not supported"),
        ("(price = 1", 10, "for the '(' at position 0"),
        ("price = 1)", 9, "no '(' was opened"),
        ("()", 1, "expected a comparison"),
        ("price ! 1", 6, "write != or NOT"),
        ("price = 1, price = 2", 9, "expected AND, OR or the end"),
        ("NOT NOT price = 1", 4, "expected a comparison"),
        ("(" * (MAX_DEPTH + 1) + "price = 1" + ")" * (MAX_DEPTH + 1), MAX_DEPTH, "nested deeper"),
        ("price = 1 " * 500, MAX_LENGTH, "4096"),
    ],
)
def test_mistake_is_shown_at_its_position(expression: str, position: int, message: str) -> None:
    """A wrong filter is refused with the 0-based position of the mistake and what to write instead."""
    with pytest.raises(FilterSyntaxError, match=re.escape(message)) as caught:
        compile_filter(expression)
    assert caught.value.position == position
    assert caught.value.metadata["position"] == str(position)


def test_nesting_up_to_the_limit_parses() -> None:
    """A filter nested exactly to the limit is taken."""
    assert compile_filter("(" * MAX_DEPTH + "price = 1" + ")" * MAX_DEPTH) == compile_filter("price = 1")


_PIECES = st.sampled_from(
    [
        "price",
        "title",
        "attributes",
        "categories",
        ".",
        ":",
        "=",
        "!=",
        "<",
        "(",
        ")",
        '"',
        "'",
        "\\",
        "*",
        "-",
        "1",
        "2.5",
        "AND",
        "OR",
        "NOT",
        " ",
        ",",
        "x",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=25).map("".join), st.lists(_PIECES, max_size=25).map(" ".join)))
def test_any_text_parses_or_is_refused(expression: str) -> None:
    """Whatever text comes, the outcome is a filter that prints and parses again to itself, or FilterSyntaxError inside the text."""
    position = 0
    try:
        parsed = compile_filter(expression)
    except FilterSyntaxError as error:
        position = error.position
    else:
        assert compile_filter(str(parsed)) == Filter(parsed.root)
    assert 0 <= position <= len(expression)
