import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from server.store.page_tokens import decode_page_token, encode_page_token, page_limit

_patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_arguments = st.dictionaries(_text, _text, max_size=3)


@_patient
@given(_text.filter(bool), _arguments)
def test_a_token_leads_back_to_its_row_and_is_url_safe(last: str, arguments: dict[str, str]) -> None:
    """What was encoded is decoded under the same arguments, whatever the id holds."""
    token = encode_page_token(last, arguments)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert decode_page_token(token, dict(reversed(arguments.items()))) == last


@_patient
@given(_text.filter(bool), _arguments, _arguments)
def test_a_token_is_bound_to_its_arguments(last: str, arguments: dict[str, str], others: dict[str, str]) -> None:
    """Other arguments refuse the token."""
    if arguments != others:
        with pytest.raises(InvalidFieldError, match="page_token"):
            decode_page_token(encode_page_token(last, arguments), others)


@_patient
@given(_text.filter(bool), st.text(max_size=60))
def test_an_altered_token_is_refused(last: str, noise: str) -> None:
    """A token that was not issued is an error of page_token and never another exception."""
    token = encode_page_token(last, {})
    for wrong in (noise, token + noise, token[: len(noise)]):
        if wrong not in {"", token}:
            with pytest.raises(InvalidFieldError, match="page_token"):
                decode_page_token(wrong, {})


def test_page_sizes_are_coerced_or_refused() -> None:
    """0 asks for the default, more than 1000 gets 1000, a negative size is an error."""
    assert [page_limit(size) for size in (0, 1, 1000, 1001, 2**31 - 1)] == [50, 1, 1000, 1000, 1000]
    with pytest.raises(InvalidFieldError, match="page_size"):
        page_limit(-1)
