from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.domain.ids import ItemId
from server.domain.items import Item
from server.retrieval.semantic import item_terms
from tests.unit.training.synthetic import two_tastes
from training.counting import user_items
from training.data import Interactions
from training.views.semantic_map import MOST_TERMS, ItemTexts, _lexical, fit_semantic


def _texts(titles: list[str], *, seed: int = 0) -> ItemTexts:
    """Returns texts whose vectors say nothing and whose words are those of the titles."""
    vectors = np.random.default_rng(seed).standard_normal((len(titles), 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ItemTexts(vectors, [item_terms(Item(item_id=ItemId(title), title=title)) for title in titles])


def _camp_gap(views: np.ndarray) -> float:
    """Returns the cosine of the two camps' centres, even rows and odd ones."""
    centres = np.stack([views[0::2].mean(axis=0), views[1::2].mean(axis=0)])
    return float(centres[0] @ centres[1] / np.prod(np.linalg.norm(centres, axis=1)))


@pytest.fixture(scope="module")
def learned() -> tuple[Interactions, list[str], ItemTexts]:
    """Two camps with words of their own."""
    _, interactions, titles = two_tastes()
    return interactions, titles, _texts(titles)


def test_new_items_are_near_what_their_words_go_with(learned: tuple[Interactions, list[str], ItemTexts]) -> None:
    """Items nobody has touched lie nearer to all items of the camp whose words they use than to any camp's mean of the other."""
    interactions, _, texts = learned
    semantic = fit_semantic(user_items(interactions), texts)
    views = texts.mapped(semantic)
    new = _texts(["w0 w2 strange", "w1 w3 strange"], seed=9).mapped(semantic)
    likeness = new @ np.stack([views[0::2].mean(axis=0), views[1::2].mean(axis=0)]).T
    assert likeness[0, 0] > likeness[0, 1]
    assert likeness[1, 1] > likeness[1, 0]
    assert _camp_gap(views) < 0.5


def test_lengths_are_of_the_size_of_text_vectors(learned: tuple[Interactions, list[str], ItemTexts]) -> None:
    """The mean squared length is 1, so weights chosen for text vectors keep their meaning."""
    interactions, _, texts = learned
    views = texts.mapped(fit_semantic(user_items(interactions), texts))
    assert float((views**2).sum(axis=1).mean()) == pytest.approx(1.0, abs=1e-3)


def test_the_same_data_gives_the_same_map(learned: tuple[Interactions, list[str], ItemTexts]) -> None:
    """Draws are seeded."""
    interactions, _, texts = learned
    first, second = (fit_semantic(user_items(interactions), texts) for _ in range(2))
    for part in ("dense", "terms", "lexical", "idf"):
        assert np.array_equal(getattr(first, part), getattr(second, part))


def test_histories_without_a_pattern_leave_text_vectors_alone() -> None:
    """Where users choose at random and nothing beats plain text vectors on items held out, the map is the identity."""
    _, interactions, titles = two_tastes()
    shuffled = np.random.default_rng(5).permutation(interactions.items)
    held = user_items(replace(interactions, items=shuffled))
    texts = ItemTexts(_texts(titles).vectors, [{}] * len(titles))
    semantic = fit_semantic(held, texts)
    assert np.array_equal(semantic.dense, np.eye(384, dtype=np.float32))
    assert not len(semantic.terms)


@pytest.mark.parametrize(("users", "items"), [(60, 300), (600, 40), (0, 40)])
def test_too_little_data_leaves_text_vectors_alone(users: int, items: int) -> None:
    """With few users or few items nothing can be held out, and nothing is learned."""
    _, interactions, titles = two_tastes(users=users, items=items)
    semantic = fit_semantic(user_items(interactions), _texts(titles))
    assert np.array_equal(semantic.dense, np.eye(384, dtype=np.float32))


def test_the_table_of_terms_is_bounded() -> None:
    """Past the limit the commonest terms are kept: memory does not grow with the vocabulary."""
    found = [{-1: 1, **dict.fromkeys(range(1000 * item, 1000 * (item + 1)), 1)} for item in range(20)]
    terms, idf, weights = _lexical(found)
    assert terms.tolist() == [-1, *range(MOST_TERMS - 1)]
    assert len(idf) == MOST_TERMS + 1
    assert idf[0] == idf.min()
    assert weights.shape == (20, MOST_TERMS)
