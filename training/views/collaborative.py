"""Item factors in closed form: what a decayed history predicts of the next item.

Every place in every history is one row of a regression: its input is the decayed history before it, its target the item that came. Inputs
are projected on their leading directions, so a user is folded in by one weighted sum, and the ridge solution is a D x N array: the items'
own side.

Shapes: E places that have a history, N items, D = 384 dimensions.

Source: reduced-rank ridge regression (A. E. Hoerl, R. W. Kennard, Technometrics 12 (1970)) on session inputs as in M. Choi et al.,
Session-aware Linear Item-Item Models, WWW 2021; subspace by N. Halko et al., SIAM Review 53 (2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS
from training.data import Interactions

FloatArray: TypeAlias = NDArray[np.float32]

DECAY = 0.8
"""Weight of an interaction relative to the one after it."""

_LONGEST = 30
"""Steps back that an input reaches; 0.8 ** 30 is a thousandth."""

_RIDGE = 10.0
_ROWS = 131_072
"""Places or items worked on at once: some 200 MB."""
_ROUNDS = 4
_SPARE = 32


@dataclass(frozen=True, slots=True)
class Factors:
    """Both sides of the view, float32, (N, D) each."""

    incoming: FloatArray
    outgoing: FloatArray


def fit_factors(interactions: Interactions, *, seed: int = 0) -> Factors:
    """Returns factors such that unit(sum of weight * incoming) . outgoing estimates the chance that an item comes next.

    Cost: about 60 * E * D * 8 multiplications, 4 * E * 30 * 8 bytes, and two (N, D) arrays beside the result where every item has come
    before another. Too few users for D directions leave the rest zero.
    """
    items = interactions.item_count
    inputs, targets = _places(interactions)
    incoming, outgoing = (np.zeros((items, VIEW_DIMENSIONS), np.float32) for _ in range(2))
    if inputs.shape[0] == 0:
        return Factors(incoming, outgoing)
    popularity = np.maximum(np.bincount(interactions.items, minlength=items), 1).astype(np.float32)
    damping = (popularity**-0.5).astype(np.float32)
    basis = _leading_directions(_unit_rows((inputs @ sp.diags(damping)).tocsr()), min(VIEW_DIMENSIONS, items), seed)  # (N, D')
    width = basis.shape[1]
    np.multiply(basis, damping[:, None], out=incoming[:, :width])
    del basis
    _regress(inputs, targets, incoming[:, :width], outgoing[:, :width])
    return Factors(incoming, outgoing)


def _regress(inputs: sp.csr_matrix, targets: NDArray[np.int64], incoming: FloatArray, outgoing: FloatArray) -> None:
    """Writes the ridge solution, (N, D'), to `outgoing`, which holds zeros."""
    order = np.argsort(targets, kind="stable")  # the places of a block then concern neighbouring rows only
    gram = _RIDGE * np.eye(incoming.shape[1], dtype=np.float32)
    for part in _parts(len(order)):
        places = order[part.start : part.stop]
        projected = inputs[places] @ incoming  # (block, D')
        projected /= np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-9)
        gram += projected.T @ projected
        first, last = int(targets[places[0]]), int(targets[places[-1]]) + 1
        shape = (last - first, len(places))
        wanted = sp.csr_matrix((np.ones(len(places), np.float32), (targets[places] - first, np.arange(len(places)))), shape=shape)
        outgoing[first:last] += wanted @ projected
    for part in _parts(len(outgoing)):
        block = outgoing[part.start : part.stop]
        block[:] = np.linalg.solve(gram, block.T).T


def _places(interactions: Interactions) -> tuple[sp.csr_matrix, NDArray[np.int64]]:
    """Returns the decayed history before each place that has one, (E, N), and the item at the place, (E,)."""
    users, items = interactions.users, interactions.items
    rows, columns, values = [], [], []
    for distance in range(1, _LONGEST + 1):
        same = np.flatnonzero(users[distance:] == users[:-distance])
        if not len(same):
            break
        rows.append(same + distance)
        columns.append(items[same])
        values.append((interactions.weights[same] * DECAY ** (distance - 1)).astype(np.float32))
    if not rows:
        return sp.csr_matrix((0, interactions.item_count), dtype=np.float32), np.zeros(0, np.int64)
    places, compact = np.unique(np.concatenate(rows), return_inverse=True)
    shape = (len(places), interactions.item_count)
    return sp.csr_matrix((np.concatenate(values), (compact, np.concatenate(columns))), shape=shape), items[places]


def _unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    return (sp.diags((1 / np.maximum(lengths, 1e-9)).astype(np.float32)) @ matrix).tocsr()


def _leading_directions(matrix: sp.csr_matrix, rank: int, seed: int) -> FloatArray:
    """Returns the leading right singular vectors, float32, (N, at most rank), by subspace iteration on the item side.

    Columns without an entry are zero in all of them and left out of the work: of a large catalogue much was never touched.
    """
    items = matrix.shape[1]
    used = np.unique(matrix.indices)
    matrix = matrix if len(used) == items else matrix[:, used]
    width = min(rank + _SPARE, len(used))
    generator = np.random.default_rng(seed)
    basis = np.concatenate([generator.standard_normal((len(rows), width)).astype(np.float32) for rows in _parts(len(used))])
    basis, _ = np.linalg.qr(basis)
    for _ in range(_ROUNDS):
        image = _gram_times(matrix, basis)
        del basis  # as large as the image, and QR takes two more
        basis, _ = np.linalg.qr(image)
    small = basis.T @ _gram_times(matrix, basis)
    _, vectors = np.linalg.eigh((small + small.T) / 2)
    found = np.zeros((items, min(rank, width)), np.float32)
    for rows in _parts(len(used)):
        found[used[rows.start : rows.stop]] = (basis[rows.start : rows.stop] @ vectors[:, ::-1])[:, :rank]
    return found


def _gram_times(matrix: sp.csr_matrix, basis: FloatArray) -> FloatArray:
    """Returns matrix.T @ matrix @ basis, holding a block of rows of the inner product at a time."""
    total = np.zeros_like(basis)
    for rows in _parts(matrix.shape[0]):
        block = matrix[rows.start : rows.stop]
        total += block.T @ (block @ basis)
    return total


def _parts(count: int) -> list[range]:
    return [range(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]
