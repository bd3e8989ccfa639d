import pytest

from server.errors import InvalidFieldError
from server.store.keys import parse_scopes


def test_scopes_are_kept_once_and_in_order() -> None:
    """Spaces, repetitions and empty parts do not matter."""
    assert parse_scopes([" items", "events ", "", "items"]) == ("events", "items")
    with pytest.raises(InvalidFieldError, match="'Items' is not a scope"):
        parse_scopes(["Items"])
