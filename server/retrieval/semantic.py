"""The semantic view of an item: a fixed linear map of its text vector and of its words, the same in training and serving.

Shapes: B items, D = 384 dimensions, T terms that the map knows.

Terms are the words of the item's text and its whole categories, hashed to 31 bits. A text is normalized by NFKC and casefold; a word is a
run of letters, digits and underscores. Terms weigh (1 + ln count) * idf, scaled to unit length over all terms of the item; a term that the
map does not know adds to the length only.

Source: G. Salton, C. Buckley, Term-weighting approaches in automatic text retrieval, IPM 24 (1988).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.items import Item, item_text
from server.domain.ranking import VIEW_DIMENSIONS

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
Terms: TypeAlias = Mapping[int, int]
"""Hash of a term -> how often the item has it."""

_WORD = re.compile(r"\w+")


def item_terms(item: Item) -> Terms:
    """Returns the terms of an item with their counts."""
    terms = [_hashed(word) for word in _WORD.findall(_normalized(item_text(item)))]
    terms += [_hashed(f"category={_normalized(category).strip()}") for category in item.categories]
    return Counter(terms)


def term_weights(terms: Terms, idf: Sequence[float], unknown: float, places: Mapping[int, int]) -> tuple[list[int], list[float]]:
    """Returns the places of the known terms, ascending, and their weights.

    Args:
        terms: Of one item.
        idf: Of each place.
        unknown: The idf of terms without a place.
        places: Hash of a term -> its place.
    """
    known, squares = [], 0.0
    for term, count in sorted(terms.items()):
        place = places.get(term)
        weight = (1.0 + math.log(count)) * (unknown if place is None else idf[place])
        squares += weight * weight
        if place is not None:
            known.append((place, weight))
    known.sort()
    length = math.sqrt(squares) or 1.0
    return [place for place, _ in known], [weight / length for _, weight in known]


@dataclass(frozen=True, slots=True, eq=False)
class SemanticMap:
    """The map. At most T = 16,384 terms are learned, so the arrays hold at most 26 MB."""

    dense: FloatArray
    """float32, (D, D): applied to text vectors from the right."""
    terms: IntArray
    """int64, (T,): hashes of the known terms, ascending."""
    lexical: FloatArray
    """float32, (T, D): what a term of weight 1 adds."""
    idf: FloatArray
    """float32, (T + 1,): of each term; the last is of terms that are not known."""

    @classmethod
    def identity(cls) -> SemanticMap:
        """Returns the map that gives text vectors as they are."""
        nothing = np.zeros((0, VIEW_DIMENSIONS), np.float32)
        return cls(np.eye(VIEW_DIMENSIONS, dtype=np.float32), np.zeros(0, np.int64), nothing, np.ones(1, np.float32))

    def vectors(self, text_vectors: FloatArray, terms: Sequence[Terms]) -> FloatArray:
        """Returns the semantic views of items, float32, (B, D), for text vectors, (B, D), and the terms of each.

        Text vectors may be zero: until an item's text is encoded, its words stand for it.
        """
        vectors = np.asarray(text_vectors @ self.dense, np.float32)
        if not len(self.terms):
            return vectors
        places = self._places(terms)
        idf = self.idf.tolist()
        for row, found in enumerate(terms):
            rows, weights = term_weights(found, idf, idf[-1], places)
            if rows:
                vectors[row] += np.array(weights, np.float32) @ self.lexical[rows]
        return vectors

    def _places(self, terms: Sequence[Terms]) -> dict[int, int]:
        """Returns the places of the known ones among the terms asked for."""
        asked = np.array(sorted({term for found in terms for term in found}), np.int64)
        places = np.searchsorted(self.terms, asked)
        here = places < len(self.terms)
        here[here] = self.terms[places[here]] == asked[here]
        return dict(zip(asked[here].tolist(), places[here].tolist(), strict=True))


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=65536)
def _hashed(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little") >> 1
