from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain import Rung
from server.service.personalization import matched_factors, page_confidence

_FEATURES = st.dictionaries(st.sampled_from(["style=rustic", "place=porto", "season=summer", "price=3", "party=2"]), st.floats(0.01, 1))


@given(st.integers(0, 200), st.integers(0, 50), st.sampled_from(Rung))
def test_confidence_grows_with_what_is_known(history: int, context: int, rung: Rung) -> None:
    """Confidence is in [0, 1] and never falls when more history or context is known, or the reply came further."""
    here = page_confidence(history, context, rung)
    assert 0 <= here <= 1
    assert here <= page_confidence(history + 1, context, rung)
    assert here <= page_confidence(history, context + 1, rung)
    assert here <= page_confidence(history, context, Rung.FULL)


@given(_FEATURES, _FEATURES)
def test_factors_are_what_both_sides_have(wanted: dict[str, float], offered: dict[str, float]) -> None:
    """Factors are named features of both sides, strongest product first; bands of numbers are left out."""
    found = matched_factors(wanted, offered)
    names = [factor.replace(":", "=", 1) for factor in found]
    assert set(names) == {name for name in wanted.keys() & offered.keys() if not name.startswith(("price", "party"))}
    products = [wanted[name] * offered[name] for name in names]
    assert products == sorted(products, reverse=True)
