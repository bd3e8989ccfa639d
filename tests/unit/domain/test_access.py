"""What scopes and roles open."""

from __future__ import annotations

import pytest

from server.domain.access import ADMIN, AWS, ROLES, SCOPES, opens, scopes_of_roles


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_itself_its_reads_and_nothing_else(scope: str) -> None:
    """Each scope opens what it names and, of the same noun, reading; admin opens all but signing; reading never opens writing."""
    opened = {one for one in SCOPES if opens({scope}, one)}
    wanted = set(SCOPES) - {AWS} if scope == ADMIN else {scope, f"{scope}.read"} & set(SCOPES)
    assert opened == wanted


def test_no_scope_opens_nothing() -> None:
    """Without scopes every method is shut."""
    assert not any(opens(frozenset(), one) for one in SCOPES)


def test_roles_add_up_and_unknown_ones_open_nothing() -> None:
    """A person's scopes are those of all their roles; a role of another program adds none; a viewer changes nothing."""
    assert scopes_of_roles([]) == scopes_of_roles(["grafana-admin"]) == frozenset()
    assert scopes_of_roles(["viewer", "editor", "x"]) == ROLES["viewer"] | ROLES["editor"]
    assert scopes_of_roles(["owner"]) == {ADMIN}
    assert not any(opens(ROLES["viewer"], one) for one in ("events", "items", "profiles", "vectors", ADMIN))
    assert set().union(*ROLES.values()) <= set(SCOPES)
