import pytest

from server.errors import InvalidFieldError
from server.interceptors import auth
from server.store.keys import SCOPES, parse_scopes


def test_a_key_can_open_every_service() -> None:
    """The scopes that keys take are those that services ask for, and admin."""
    asked = {*auth.SCOPES.values(), *auth.METHOD_SCOPES.values()}
    assert set(SCOPES) == asked | {"admin"}


def test_scopes_are_kept_once_and_in_order() -> None:
    """Spaces, repetitions and empty parts do not matter."""
    assert parse_scopes([" items", "events ", "", "items"]) == ("events", "items")
    with pytest.raises(InvalidFieldError, match="'Items' is not a scope"):
        parse_scopes(["Items"])
