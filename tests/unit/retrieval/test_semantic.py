from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ids import ItemId
from server.domain.items import Item
from server.retrieval.semantic import SemanticMap, item_terms, term_weights
from server.retrieval.vectors import SEMANTIC, VectorSpace


def _item(title: str, *categories: str) -> Item:
    return Item(item_id=ItemId("a"), title=title, categories=categories)


def _map(*titles: str) -> SemanticMap:
    generator = np.random.default_rng(0)
    terms = np.unique([term for title in titles for term in item_terms(_item(title))]).astype(np.int64)
    dense = generator.standard_normal((384, 384)).astype(np.float32) / 20
    lexical = generator.standard_normal((len(terms), 384)).astype(np.float32)
    return SemanticMap(dense, terms, lexical, np.linspace(1, 3, len(terms) + 1, dtype=np.float32))


def test_the_same_words_are_the_same_terms() -> None:
    """Case, width and composition of letters do not matter, nor do punctuation and the order of words."""
    assert item_terms(_item("Cafe\u0301, \uff22\uff21\uff32!")) == item_terms(_item("bar CAF\u00c9"))
    assert item_terms(_item("Stra\u00dfe")) == item_terms(_item("STRASSE"))


def test_a_category_is_a_term_beside_its_words() -> None:
    """Items that share a whole category share more than its words."""
    whole = item_terms(_item("x", "Live Music"))
    words = item_terms(_item("x live music"))
    assert words.keys() < whole.keys()
    assert len(whole) == len(words) + 1


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 9), min_size=1, max_size=20))
def test_weights_have_unit_length_over_known_and_unknown_terms(terms: dict[int, int]) -> None:
    """What the map does not know takes its share of the length, so an item of strange words is not taken for one of a single word."""
    places = {term: term for term in range(0, 51, 2)}
    idf = [2.0] * 51
    found, weights = term_weights(terms, idf, 2.0, places)
    _, everything = term_weights(terms, idf, 2.0, {term: term for term in range(51)})
    assert found == sorted(term for term in terms if term % 2 == 0)
    assert np.linalg.norm(everything) == pytest.approx(1.0)
    assert np.linalg.norm(weights) <= 1.0 + 1e-9


def test_an_item_has_the_same_view_alone_and_among_others() -> None:
    """What the server computes for one new item is what training computed for all of them."""
    titles = ["quiet garden", "garden party", "loud bar", "nothing known", ""]
    semantic = _map("quiet garden party", "loud bar")
    texts = np.random.default_rng(1).standard_normal((5, 384)).astype(np.float32)
    together = semantic.vectors(texts, [item_terms(_item(title)) for title in titles])
    alone = [semantic.vectors(texts[row : row + 1], [item_terms(_item(title))])[0] for row, title in enumerate(titles)]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together[3], texts[3] @ semantic.dense, rtol=1e-5, atol=1e-5)


def test_words_stand_for_an_item_until_its_text_is_encoded() -> None:
    """With a zero text vector the view is what the words add, linear in their weights."""
    semantic = _map("garden")
    found = semantic.vectors(np.zeros((1, 384), np.float32), [item_terms(_item("garden"))])
    np.testing.assert_allclose(found[0], semantic.lexical[0], rtol=1e-6)


def test_the_identity_leaves_text_vectors_as_they_are() -> None:
    """A tenant without a bundle is served the text encoder's vectors, bit for bit."""
    texts = np.random.default_rng(2).standard_normal((2, 384)).astype(np.float32)
    vectors = VectorSpace.untrained().item_vectors([_item("one"), _item("two")], texts)
    assert np.array_equal(vectors[:, SEMANTIC], texts)
    assert not SemanticMap.identity().vectors(np.zeros((0, 384), np.float32), []).size
