"""Path templates and route tables."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from server.gateway.rules import Match, Miss, Route, RouteTable, build_table
from server.gateway.templates import TemplateError, parse_template
from tests.fixtures_gateway import compile_proto, library


def table(*rules: str) -> RouteTable:
    """Returns a table of rules such as `GET /v1/{name=items/*}`; each route's name is its rule."""
    method = library().methods["/library.v1.Library/Echo"]
    routes = []
    for rule in rules:
        verb, _, path = rule.partition(" ")
        routes.append(Route(rule, method, verb, parse_template(path), "", "", 0))
    return RouteTable(routes)


def found(routes: RouteTable, request: str) -> tuple[str, dict[str, str]] | None:
    """Returns the matched rule and its variables, or None."""
    verb, _, path = request.partition(" ")
    match = routes.match(verb, path)
    if isinstance(match, Miss):
        return None
    return match.route.name, {".".join(name): value for name, value in match.values.items()}


@pytest.mark.parametrize(
    ("rule", "request_line", "values"),
    [
        # The examples in the comment of google/api/http.proto.
        ("GET /v1/{name=messages/*}", "GET /v1/messages/123456", {"name": "messages/123456"}),
        ("GET /v1/messages/{message_id}", "GET /v1/messages/123456", {"message_id": "123456"}),
        ("PATCH /v1/messages/{message_id}", "PATCH /v1/messages/123456", {"message_id": "123456"}),
        ("GET /v1/users/{user_id}/messages/{message_id}", "GET /v1/users/me/messages/123456", {"user_id": "me", "message_id": "123456"}),
        # The grammar.
        ("GET /v1/*/b", "GET /v1/a/b", {}),
        ("GET /v1/**", "GET /v1/a/b/c", {}),
        ("GET /v1/**", "GET /v1", {}),
        ("GET /v1/{name=**}", "GET /v1/a/b/c", {"name": "a/b/c"}),
        ("GET /v1/{name=**}", "GET /v1", {"name": ""}),
        ("GET /v1/{name=shelves/*/books/**}", "GET /v1/shelves/1/books/2/3", {"name": "shelves/1/books/2/3"}),
        ("GET /v1/{a.b.c=x/*}/y", "GET /v1/x/1/y", {"a.b.c": "x/1"}),
        ("POST /v1/{name=items/*}:archive", "POST /v1/items/1:archive", {"name": "items/1"}),
        ("POST /v1/items:batch", "POST /v1/items:batch", {}),
        ("POST /v1/{name=files/**}:echo", "POST /v1/files/a/b:echo", {"name": "files/a/b"}),
        ("GET /v1/{name=fixed}", "GET /v1/fixed", {"name": "fixed"}),
        # Percent-decoding: %2F stays in a variable of several segments and becomes a slash in one of a single segment.
        ("GET /v1/{name}", "GET /v1/a%2Fb%20c", {"name": "a/b c"}),
        ("GET /v1/{name=items/*}", "GET /v1/items/a%2Fb%20c", {"name": "items/a%2Fb c"}),
        ("GET /v1/{name=items/*}", "GET /v1/items/a%2fb", {"name": "items/a%2fb"}),
        ("GET /v1/{name=**}", "GET /v1/a%2Fb/%C3%A9", {"name": "a%2Fb/é"}),
        ("GET /v1/items/{id}", "GET /v1/it%65ms/%25", {"id": "%"}),
        ("POST /v1/{name=items/*}:archive", "POST /v1/items/1%3Aarchive:archive", {"name": "items/1:archive"}),
        # A colon belongs to the id unless a verb of that name exists.
        ("GET /v1/{name=items/*}", "GET /v1/items/urn:isbn:1", {"name": "items/urn:isbn:1"}),
        ("* /v1/any", "DELETE /v1/any", {}),
        ("GET /v1/a", "HEAD /v1/a", {}),
    ],
)
@pytest.mark.feature("templates", "escapes")
def test_templates_match_and_bind(rule: str, request_line: str, values: dict[str, str]) -> None:
    """A request that fits a template finds it, with the variables decoded as http.proto says."""
    assert found(table(rule), request_line) == (rule, values)


@pytest.mark.parametrize(
    ("rule", "request_line"),
    [
        ("GET /v1/{name=items/*}", "GET /v1/items/1/2"),
        ("GET /v1/{name=items/*}", "GET /v1/items"),
        ("GET /v1/{name=items/*}", "GET /v1/items/"),
        ("GET /v1/items", "GET /v1/items/"),
        ("GET /v1/items", "GET /v2/items"),
        ("GET /v1/items", "GET /v1"),
        ("GET /v1/items", "GET /"),
        ("POST /v1/items:batch", "POST /v1/items"),
        ("POST /v1/{name=items/*}:archive", "POST /v1/items/1"),
        ("POST /v1/{name=items/*}:archive", "POST /v1/items/:archive"),
    ],
)
@pytest.mark.feature("templates")
def test_other_paths_miss(rule: str, request_line: str) -> None:
    """A path that a template does not describe finds nothing, and nothing is allowed there."""
    routes = table(rule)
    verb, _, path = request_line.partition(" ")
    assert routes.match(verb, path) == Miss(frozenset())


@pytest.mark.feature("precedence")
def test_a_literal_wins_over_a_star_and_a_star_over_a_double_star() -> None:
    """The most specific template answers, whatever the order they were added in."""
    routes = table("GET /v1/**", "GET /v1/{x=*}", "GET /v1/items", "GET /v1/items/{x=*}", "GET /v1/{x=*}/fixed", "GET /v1/{x=*}/{y=*}/deep")
    expected = {
        "GET /v1/items": "GET /v1/items",
        "GET /v1/other": "GET /v1/{x=*}",
        "GET /v1/items/fixed": "GET /v1/items/{x=*}",
        "GET /v1/users/fixed": "GET /v1/{x=*}/fixed",
        "GET /v1/items/a/deep": "GET /v1/{x=*}/{y=*}/deep",  # items/... leads nowhere: step back to the star
        "GET /v1/items/a/b/c": "GET /v1/**",
    }
    assert {request: found(routes, request) for request in expected} == {
        request: (name, found(routes, request)[1])  # type: ignore[index]  # None would differ from the tuple
        for request, name in expected.items()
    }


@pytest.mark.feature("templates")
def test_a_known_verb_wins_over_an_id_with_a_colon() -> None:
    """`items/1:archive` is the verb for the method that has it and an id for the one that has not."""
    routes = table("POST /v1/{name=items/*}:archive", "GET /v1/{name=items/*}")
    assert found(routes, "POST /v1/items/1:archive") == ("POST /v1/{name=items/*}:archive", {"name": "items/1"})
    assert found(routes, "GET /v1/items/1:archive") == ("GET /v1/{name=items/*}", {"name": "items/1:archive"})


@pytest.mark.feature("bindings")
def test_another_method_of_a_known_path_is_told_what_is_allowed() -> None:
    """A miss on a known path carries the methods of all templates that fit it."""
    routes = table("GET /v1/{name=items/*}", "PATCH /v1/{name=items/*}", "DELETE /v1/{x=**}")
    assert routes.match("PUT", "/v1/items/1") == Miss(frozenset({"GET", "PATCH", "DELETE"}))


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("v1/items", "expected '/' at position 0"),
        ("/v1/{name", "expected '}'"),
        ("/v1/{=x}", "expected a field name"),
        ("/v1/{a={b}}", "a variable inside a variable"),
        ("/v1/**/items", "'**' must be the last segment"),
        ("/v1/{a=**}/items", "'**' must be the last segment"),
        ("/v1//items", "expected '*', '**', '{' or a literal"),
        ("/v1/items:", "expected a verb"),
        ("/v1/{a}/{a}", "a field is bound twice"),
        ("/v1/items ", "unexpected character"),
    ],
)
@pytest.mark.feature("templates")
def test_malformed_templates_are_refused_with_a_position(template: str, complaint: str) -> None:
    """A template outside the grammar is refused, and the message shows where."""
    with pytest.raises(TemplateError) as caught:
        parse_template(template)
    assert complaint in str(caught.value)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ('get: "/v1/{nope}"', "'nope', which is not a singular field"),
        ('get: "/v1/{many}"', "'many', which is not a singular field"),
        ('get: "/v1/{child}"', "'child', which is a message"),
        ('get: "/v1/{name.x}"', "'name.x', which is not a singular field"),
        ('post: "/v1/a" body: "nope"', "body 'nope' is not a field"),
        ('get: "/v1/a" response_body: "nope"', "response_body 'nope' is not a field"),
        ('get: "/v1/a" additional_bindings { get: "/v1/a" }', "change one rule"),
    ],
)
@pytest.mark.feature("bindings")
def test_rules_that_do_not_fit_their_messages_are_refused(rule: str, complaint: str) -> None:
    """A rule that names fields which cannot be bound, or takes another's place, stops the start with its name."""
    from server.gateway.descriptors import load_set

    text = f"""
    syntax = "proto3"; package bad.v1; import "google/api/annotations.proto";
    message M {{ string name = 1; repeated string many = 2; M child = 3; }}
    service S {{ rpc Do(M) returns (M) {{ option (google.api.http) = {{ {rule} }}; }} }}
    """
    described = load_set(compile_proto(text, "--include_imports"))
    with pytest.raises(TemplateError) as caught:
        build_table(described.methods)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("path", ["/v1/%", "/v1/%zz", "/v1/%f", "/v1/%ff", "/v1/a%C3", "/%ff/x"])
@pytest.mark.feature("escapes")
def test_malformed_escapes_are_bad_requests(path: str) -> None:
    """A broken escape, or one that is not UTF-8, is an error that names the path."""
    with pytest.raises(InvalidFieldError) as caught:
        table("GET /v1/{name}", "GET /{x}/y").match("GET", path)
    assert caught.value.field == "path"


@pytest.mark.timeout(30)  # a backtracking matcher would need years
@pytest.mark.feature("hostile-paths")
def test_sixty_four_thousand_slashes_answer_at_once() -> None:
    """A path of slashes costs its length, however many templates could begin it."""
    stars = [f"GET {'/*' * depth}/end" for depth in range(1, 12)]
    routes = table(*stars, "GET /a/{rest=**}", "POST /{x=**}:verb")
    assert isinstance(routes.match("GET", "/" * 64_000), Miss)
    assert isinstance(routes.match("GET", "/x" * 32_000), Miss)
    deep = routes.match("GET", "/a" + "/" * 64_000)
    assert isinstance(deep, Match)
    assert deep.values[("rest",)] == "/" * 63_999


_SEGMENT = st.text(string.ascii_letters + string.digits + "-._~!$&'()+,;=@", min_size=1, max_size=8)


@given(st.lists(_SEGMENT, min_size=1, max_size=6), st.data())
@pytest.mark.feature("templates")
def test_every_path_finds_the_template_made_from_it(segments: list[str], data: st.DataObject) -> None:
    """Replacing any segments of a path by wildcards gives a template that matches the path and captures them."""
    wild = [data.draw(st.booleans()) for _ in segments]
    parts = [f"{{f{index}}}" if star else segment for index, (segment, star) in enumerate(zip(segments, wild, strict=True))]
    if any(set(part) & set("=") for part, star in zip(segments, wild, strict=True) if not star):
        return
    rule = "GET /" + "/".join(parts)
    expected = {f"f{index}": segment for index, (segment, star) in enumerate(zip(segments, wild, strict=True)) if star}
    assert found(table(rule), "GET /" + "/".join(segments)) == (rule, expected)


@given(st.text(alphabet="/*{}=:.%ab2F", max_size=40))
def test_any_text_as_a_template_parses_or_is_refused(text: str) -> None:
    """The template parser ends every input with a template or a TemplateError."""
    try:
        template = parse_template(text)
    except TemplateError:
        return
    assert template.segments


@given(st.text(alphabet="/:%ab2Fc.", max_size=60))
def test_any_path_matches_misses_or_is_a_bad_request(text: str) -> None:
    """The matcher ends every path with a match, a miss or an error that names the path."""
    routes = build_table(library().methods)
    with contextlib.suppress(InvalidFieldError):
        assert isinstance(routes.match("GET", "/" + text), (Match, Miss))
