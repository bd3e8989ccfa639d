"""How an item's price, place and categories fit a user: what was stated, else what the history shows.

Shapes: S slots, H interactions of a history, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.items import Item
from server.domain.profiles import Profile
from server.retrieval.columns import ItemColumns, ListColumn
from server.retrieval.context import PLACE_KEYS, read_number, read_words

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]

HISTORY_DECAY = 0.9
"""Weight of an interaction relative to the one after it. Taste in price and category changes slower than what comes next."""

_PLACE_FIT: Mapping[str, float] = dict(zip(PLACE_KEYS, (1.0, 0.5, 0.25), strict=True))
"""What agreeing on each says: a city is nearer than its region."""

_LATITUDE, _LONGITUDE = ("latitude", "lat"), ("longitude", "lon", "lng")
_HALF_FIT_KM = 30.0
_EARTH_KM = 6371.0


class Affinities(NamedTuple):
    """Each float32, (C,), in [0, 1]; 0 where either side is unknown."""

    price_fit: FloatArray
    """1 at the wanted price, one half at half or double of it."""
    distance_fit: FloatArray
    """1 in the wanted city, one half in its region, a quarter in its country; by coordinates 1 there and one half 30 km away."""
    category_affinity: FloatArray
    """Share of the item's categories in the history's decayed weight."""

    @classmethod
    def unknown(cls, count: int) -> Affinities:
        """Returns zeros for `count` candidates."""
        return cls(*(np.zeros(count, np.float32) for _ in cls._fields))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request or a profile states."""

    budget: float | None = None
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Key of `PLACE_KEYS` -> words, casefolded; without keys that nothing was stated for."""
    coordinates: tuple[float, float] | None = None
    """Latitude and longitude in degrees."""


NOTHING_STATED = Wishes()


def wishes(context: Mapping[str, Any], profile: Profile | None = None) -> Wishes:
    """Returns what a request states, completed by the profile's traits. Values that cannot be read are ignored, as all context is."""
    known: dict[str, Any] = {**(profile.traits if profile else {}), **context}
    places = {key: found for key in PLACE_KEYS if (found := read_words(known.get(key)))}
    latitude, longitude = (_degrees(known, keys) for keys in (_LATITUDE, _LONGITUDE))
    coordinates = None if latitude is None or longitude is None else (latitude, longitude)
    return Wishes(read_number(known.get("budget")), places, coordinates)


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """The facts of the first S slots of item columns."""

    columns: ItemColumns
    size: int
    """S."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> ItemFacts:
        """Returns the facts of items, slot n of item n."""
        columns = ItemColumns()
        columns.extend(items)
        return cls(columns, len(items))

    def affinities(self, slots: IntArray, history: IntArray, weights: FloatArray, stated: Wishes = NOTHING_STATED) -> Affinities:
        """Returns how candidates fit. Some 250 us for 600 candidates.

        Args:
            slots: (C,): the candidates.
            history: (H,): slots of the history's items, oldest first; -1 for an item that is not here.
            weights: float32, (H,): how much each interaction counts.
            stated: Overrides what the history shows.
        """
        if not self.size:
            return Affinities.unknown(len(slots))
        counts = (history >= 0) & (weights > 0)
        known, mass = history[counts], weights[counts]
        return Affinities(
            self._price_fit(slots, known, stated.budget),
            self._distance_fit(slots, known, mass, stated),
            self._shares(self.columns.categories, slots, known, mass),
        )

    def _price_fit(self, slots: IntArray, history: IntArray, budget: float | None) -> FloatArray:
        prices = self.columns.prices(0, self.size)
        if budget is None:
            paid = prices[history]
            paid = paid[paid > 0]
            if not len(paid):
                return np.zeros(len(slots), np.float32)
            paid.sort()
            budget = float(paid[(len(paid) - 1) // 2] + paid[len(paid) // 2]) / 2  # the median; NumPy's takes ten times as long
        ratio = prices[slots] / budget
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN: no price, which fits nothing
            return np.asarray(np.where(ratio > 0, np.minimum(ratio, 1 / ratio), 0.0), np.float32)

    def _distance_fit(self, slots: IntArray, history: IntArray, mass: FloatArray, stated: Wishes) -> FloatArray:
        fit = np.zeros(len(slots), np.float32)
        for key, level in _PLACE_FIT.items():
            column = self.columns.attribute((key,), self.size)
            if stated.places or stated.coordinates:
                share = _among(column, slots, stated.places.get(key, ()))
            else:
                share = self._shares(column, slots, history, mass)
            fit = np.maximum(fit, np.float32(level) * share)
        if stated.coordinates is not None:
            fit = np.maximum(fit, self._nearness(slots, stated.coordinates))
        return fit

    def _nearness(self, slots: IntArray, coordinates: tuple[float, float]) -> FloatArray:
        """Returns 2 ** (-distance / 30 km), 0 without coordinates, by the haversine formula."""
        latitude, longitude = (np.radians(self._numbers(keys, slots)) for keys in (_LATITUDE, _LONGITUDE))
        there, along = math.radians(coordinates[0]), math.radians(coordinates[1])
        half = np.sin((latitude - there) / 2) ** 2 + np.cos(latitude) * math.cos(there) * np.sin((longitude - along) / 2) ** 2
        km = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
        return np.asarray(np.nan_to_num(np.exp2(-km / _HALF_FIT_KM)), np.float32)

    def _numbers(self, keys: tuple[str, ...], slots: IntArray) -> NDArray[np.float64]:
        """Returns the first finite number of each slot under the first key that has one, NaN for none."""
        values = np.full(len(slots), np.nan)
        for key in reversed(keys):
            owners, _, numbers = self.columns.attribute((key,), self.size).gather(slots)
            finite = np.isfinite(numbers)
            values[owners[finite][::-1]] = numbers[finite][::-1]
        return values

    @staticmethod
    def _shares(column: ListColumn, slots: IntArray, history: IntArray, mass: FloatArray) -> FloatArray:
        """Returns the sum of the history's shares of each candidate's texts."""
        owners, codes, _ = column.gather(history)
        owners, codes = owners[codes >= 0], codes[codes >= 0]
        if not len(codes):
            return np.zeros(len(slots), np.float32)
        each = mass[owners] / np.bincount(owners, minlength=len(history))[owners]  # an item's weight is split evenly over its texts
        shares = np.bincount(codes, each, minlength=len(column.texts.all)) / each.sum()
        owners, codes, _ = column.gather(slots)
        owners, codes = owners[codes >= 0], codes[codes >= 0]
        return np.asarray(np.minimum(np.bincount(owners, shares[codes], minlength=len(slots)), 1.0), np.float32)


def _among(column: ListColumn, slots: IntArray, words: tuple[str, ...]) -> FloatArray:
    """Returns 1 for the candidates that name one of the words, else 0."""
    result = np.zeros(len(slots), np.float32)
    if words:
        owners, codes, _ = column.gather(slots)
        owners, codes = owners[codes >= 0], codes[codes >= 0]
        if len(codes):
            result[owners[column.texts.passing(codes, lambda text: read_words(text) != () and read_words(text)[0] in words)]] = 1
    return result


def _degrees(known: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    for key in keys:
        try:
            number = float(known[key])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(number) and abs(number) <= 360:
            return number
    return None
