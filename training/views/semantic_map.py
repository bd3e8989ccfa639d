"""Learns the semantic view from interactions: which words and which directions of text vectors go together in histories.

An item's features x are its text vector and its weighted terms, reduced to their leading directions. Every interaction is one case: the
user's other items, summed, predict the item's features. Two ridge regressions give the bilinear form W of user and item features; its
symmetric positive part is factored into the map, so <z(a), z(b)> = x(a) W x(b) and a user is the mean of their items.

A tenth of the items is held out as if they were new; the ridge, and how much of the plain likeness of texts is kept, are what ranks those
best.

Shapes: U users, N items, F terms, K = 512 directions, D = 384 dimensions.

Source: R. Hoerl, R. W. Kennard, Technometrics 12 (1970) for the ridge; N. Halko et al., SIAM Review 53 (2011) for the directions;
B. Kulis, Metric Learning (2013), section 2.1, for the positive part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.items import Item
from server.domain.ranking import VIEW_DIMENSIONS
from server.retrieval.semantic import SemanticMap, Terms, item_terms, term_weights
from training.metrics import is_better

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

MOST_TERMS = 16_384
_DIRECTIONS = 512
_SPARE = 32
_ROUNDS = 3
_TEXT_SHARE = 0.5
"""Of the text vector in the squared length of the features; the rest is the terms'."""

_MOST_USERS = 50_000
"""Users that teach, drawn at random where there are more: bounds time and memory."""

_USER_RIDGE = 0.3
"""In mean variances of a direction."""

_ITEM_RIDGES = (1.0, 3.0, 10.0, 30.0)
_PLAIN = (0.0, 0.1, 0.3)
"""How much of the plain likeness is added to the learned one, whose largest eigenvalue is 1."""

_COLD_SHARE = 0.1
_ASKED = 2000
_LEAST_ASKED = 100
_LEAST_COLD = 20
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class ItemTexts:
    """What is known of the items' texts."""

    vectors: FloatArray
    """float32, (N, D), unit rows; zero for an item without a text."""
    terms: Sequence[Terms]
    """Of each item, (N,)."""

    @classmethod
    def of(cls, item_ids: Sequence[ItemId], vectors: FloatArray, items: Iterable[Item]) -> ItemTexts:
        """Returns the texts of all ids: their vectors, (N, D), and the terms of those that are among `items`."""
        terms = {item.item_id: item_terms(item) for item in items}
        return cls(vectors, [terms.get(item_id, {}) for item_id in item_ids])

    def mapped(self, semantic: SemanticMap) -> FloatArray:
        """Returns the items' semantic views, float32, (N, D)."""
        return semantic.vectors(self.vectors, self.terms)


@dataclass(frozen=True, slots=True)
class _Design:
    """Features of all items, and how they are made from texts."""

    terms: IntArray
    idf: FloatArray
    basis: FloatArray
    """float32, (D + F, K): text vectors and terms to directions."""
    items: FloatArray
    """float32, (N, K)."""

    def finished(self, projection: FloatArray) -> SemanticMap:
        """Returns the map whose vectors are `items @ projection`, for a projection (K, D)."""
        lengths = np.linalg.norm(self.items @ projection, axis=1)
        scale = np.sqrt(max(float((lengths[lengths > 0] ** 2).mean()) if lengths.any() else 0.0, 1e-12))
        table = self.basis @ (projection / np.float32(scale))  # (D + F, D)
        table[:VIEW_DIMENSIONS] *= np.float32(np.sqrt(_TEXT_SHARE))
        table[VIEW_DIMENSIONS:] *= np.float32(np.sqrt(1 - _TEXT_SHARE))
        return SemanticMap(table[:VIEW_DIMENSIONS].copy(), self.terms, table[VIEW_DIMENSIONS:].copy(), self.idf)


def fit_semantic(held: sp.csr_matrix, texts: ItemTexts, *, seed: int = 0) -> SemanticMap:
    """Returns the map that ranks new items best; the identity unless something beats it there by more than a standard error.

    Vectors have a mean squared length of 1 over the items that have a text.

    Args:
        held: float32, (U, N), 1 where the user has the item.
        texts: Of all items.
        seed: Of the draws.

    Cost: 4 * N * K bytes and about 4 * U * K ** 2 multiplications, U at most 50,000.
    """
    generator = np.random.default_rng(seed)
    held = held[np.diff(held.indptr) > 1]
    if held.shape[0] > _MOST_USERS:
        held = held[np.sort(generator.choice(held.shape[0], _MOST_USERS, replace=False))]
    trial = _trial(held, generator)
    if trial is None:
        return SemanticMap.identity()
    design = _design(texts, generator)
    moments = _moments(trial.known, design.items, ~trial.cold)
    gains = {setting: trial.gains(design.items @ projection) for setting, projection in _projections(moments)}
    best = max(gains, key=lambda setting: float(gains[setting].mean()), default=None)
    if best is None or not is_better(gains[best] - trial.gains(texts.vectors)):
        return SemanticMap.identity()
    moments = _moments(held, design.items, np.ones(len(design.items), np.bool_))
    return design.finished(dict(_projections(moments, (best,)))[best])


@dataclass(frozen=True, slots=True)
class _Trial:
    """Items held out as if they were new, and the users who are asked for them."""

    cold: BoolArray
    """(N,)."""
    known: sp.csr_matrix
    """float32, (U, N): who has what, without the cold items."""
    histories: sp.csr_matrix
    """float32, (B, N): the rows of `known` that are asked."""
    targets: sp.csr_matrix
    """float32, (B, C): their cold items."""

    def gains(self, vectors: FloatArray) -> NDArray[np.float64]:
        """Returns NDCG@10 among the cold items of each user asked, (B,), for semantic views of all items, (N, D)."""
        scores = (self.histories @ vectors) @ vectors[self.cold].T  # (B, C)
        tenth = np.partition(scores, -_DEPTH, axis=1)[:, -_DEPTH:].min(axis=1)
        gains = np.zeros(len(scores))
        for row in range(len(scores)):
            wanted = self.targets.indices[self.targets.indptr[row] : self.targets.indptr[row + 1]]
            hits = wanted[scores[row, wanted] >= tenth[row]]
            ranks = (scores[row][None, :] > scores[row, hits][:, None]).sum(axis=1)
            gains[row] = (1 / np.log2(ranks + 2.0)).sum() / (1 / np.log2(np.arange(min(len(wanted), _DEPTH)) + 2.0)).sum()
        return gains


def _trial(held: sp.csr_matrix, generator: np.random.Generator) -> _Trial | None:
    """Returns what new items are pretended with; None where there is too little."""
    touched = np.flatnonzero(np.bincount(held.indices, minlength=held.shape[1]))
    count = round(_COLD_SHARE * len(touched))
    if count < _LEAST_COLD:
        return None
    cold = np.zeros(held.shape[1], np.bool_)
    cold[generator.choice(touched, count, replace=False)] = True
    known = held @ sp.diags((~cold).astype(np.float32))
    known.eliminate_zeros()
    targets = held[:, np.flatnonzero(cold)].tocsr()
    able = np.flatnonzero((np.diff(known.indptr) > 0) & (np.diff(targets.indptr) > 0))
    if len(able) < _LEAST_ASKED:
        return None
    asked = np.sort(generator.choice(able, min(len(able), _ASKED), replace=False))
    return _Trial(cold, known.tocsr(), known[asked], targets[asked])


def _design(texts: ItemTexts, generator: np.random.Generator) -> _Design:
    """Returns the features of all items in their leading directions."""
    terms, idf, lexical = _lexical(texts.terms)
    dense = texts.vectors * np.float32(np.sqrt(_TEXT_SHARE))
    lexical = lexical * np.float32(np.sqrt(1 - _TEXT_SHARE))
    width = VIEW_DIMENSIONS + len(terms)
    rank = min(_DIRECTIONS, width, len(dense))
    basis = generator.standard_normal((width, min(rank + _SPARE, width))).astype(np.float32)
    transposed = lexical.T.tocsr()
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(basis)
        image = dense @ basis[:VIEW_DIMENSIONS] + lexical @ basis[VIEW_DIMENSIONS:]  # (N, K)
        basis = np.vstack([dense.T @ image, transposed @ image])
    basis, _ = np.linalg.qr(basis)
    image = dense @ basis[:VIEW_DIMENSIONS] + lexical @ basis[VIEW_DIMENSIONS:]
    _, vectors = np.linalg.eigh(image.T @ image)
    vectors = np.ascontiguousarray(vectors[:, ::-1][:, :rank], np.float32)
    return _Design(terms, idf, np.asarray(basis @ vectors, np.float32), np.asarray(image @ vectors, np.float32))


def _lexical(found: Sequence[Terms]) -> tuple[IntArray, FloatArray, sp.csr_matrix]:
    """Returns the commonest terms, ascending, their idf with that of unknown terms behind, and the items' weights of them, (N, F)."""
    everything = np.fromiter((term for terms in found for term in terms), np.int64)
    terms, items = np.unique(everything, return_counts=True)
    keep = np.sort(np.lexsort((terms, -items))[:MOST_TERMS])
    terms, items = terms[keep], items[keep]
    idf = (np.log((1 + len(found)) / (1 + np.append(items, 0))) + 1).astype(np.float32)
    places = {term: place for place, term in enumerate(terms.tolist())}
    listed = idf.tolist()
    rows = [term_weights(one, listed, listed[-1], places) for one in found]
    indptr = np.cumsum([0, *(len(row) for row, _ in rows)])
    indices = np.fromiter((place for row, _ in rows for place in row), np.int64, indptr[-1])
    data = np.fromiter((weight for _, weights in rows for weight in weights), np.float32, indptr[-1])
    return terms, idf, sp.csr_matrix((data, indices, indptr), shape=(len(found), len(terms)))


@dataclass(frozen=True, slots=True)
class _Moments:
    """Second moments, float32, (K, K) each."""

    cross: FloatArray
    """Of users without the item and the item, over interactions."""
    users: FloatArray
    items: FloatArray


def _moments(held: sp.csr_matrix, items: FloatArray, known: BoolArray) -> _Moments:
    """Returns the moments of interactions (U, N) with items of these features, (N, K); `known` items count."""
    lengths = np.diff(held.indptr).astype(np.float32)
    damping = np.where(lengths > 1, np.maximum(lengths - 1, 1) ** -0.5, 0).astype(np.float32)
    sums = np.asarray(held @ items, np.float32) * damping[:, None]  # (U, K)
    targets = np.asarray(held @ items, np.float32)
    own = np.asarray(held.T @ damping, np.float32)  # (N,): an item does not predict itself
    cross = sums.T @ targets - (items * own[:, None]).T @ items
    catalogue = items[known]
    return _Moments(cross, (sums * lengths[:, None]).T @ sums, catalogue.T @ catalogue)


_GRID = tuple((ridge, plain) for ridge in _ITEM_RIDGES for plain in _PLAIN)


def _projections(moments: _Moments, grid: Sequence[tuple[float, float]] = _GRID) -> Iterator[tuple[tuple[float, float], FloatArray]]:
    """Yields settings (ridge of items, share of plain likeness) with their projection, float32, (K, D)."""
    unit = np.eye(len(moments.users), dtype=np.float32)
    spread = float(np.trace(moments.users)) / len(unit)
    by_user = np.linalg.solve(moments.users + (_USER_RIDGE * spread + 1e-6) * unit, moments.cross)
    for ridge in sorted({ridge for ridge, _ in grid}):
        learned = np.linalg.solve(moments.items + ridge * unit, by_user.T)
        values, directions = np.linalg.eigh((learned + learned.T) / 2)
        largest = float(values[-1])
        if largest <= 0:
            continue  # histories say nothing about texts
        for plain in (plain for asked, plain in grid if asked == ridge):
            strengths = np.sqrt(np.maximum(values / largest + plain, 0))[::-1][:VIEW_DIMENSIONS]
            projection = directions[:, ::-1][:, :VIEW_DIMENSIONS] * strengths
            yield (ridge, plain), np.pad(projection, ((0, 0), (0, VIEW_DIMENSIONS - projection.shape[1]))).astype(np.float32)
