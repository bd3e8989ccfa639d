from __future__ import annotations

import pytest

from server.errors import InvalidFieldError
from training.goals import parse_goal_weights


def test_listed_types_have_their_weight_and_others_keep_their_own() -> None:
    """Whatever the capitals and blanks."""
    worth = parse_goal_weights(" Book=10, save = 0 ,")
    assert [worth(kind) for kind in ("book", "BOOK", "save", "click", "enquire", "hide", "Impression")] == [
        10.0,
        10.0,
        0.0,
        1.0,
        3.0,
        0.0,
        0.0,
    ]


def test_by_default_goals_are_worth_more_the_nearer_they_are_to_a_booking() -> None:
    """Click, save, enquire, book."""
    worth = parse_goal_weights("")
    assert worth("click") < worth("save") < worth("enquire") < worth("book")


@pytest.mark.parametrize("text", ["click", "click=", "=1", "click=many", "click=-1", "click=nan", "click=1,Click=2", "click=0,save=0"])
def test_a_wrong_entry_is_refused_by_name(text: str) -> None:
    """The message names the field and says what to write."""
    with pytest.raises(InvalidFieldError, match="goal_weights"):
        parse_goal_weights(text)
