"""Reads bundles: immutable directories that hold everything a tenant's recommendations are computed from.

    manifest.json      format, tenant, lineage, fusion weights, metrics, and size, SHA-256, shape and type of every other file
    item_ids.txt       one id a line, as JSON strings; row n of every array below is item n
    *.npy              arrays, memory-mapped
    ranker.onnx        the fusion as a model of kind `ranker`
    sequence.onnx      a model of kind `sequence_encoder`, where a sequential view was trained
    report.json        how good it is, for whom, on what; report.html shows it. Bundles may lack both

Shapes: N items, D dimensions of a view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import BundleId, ItemId
from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS, VIEWS
from server.errors import CorruptDataError
from server.retrieval.fusion import FusionWeights
from server.retrieval.semantic import SemanticMap
from server.retrieval.sequence import SequenceSpace
from server.retrieval.sources import CsrCounts, SparseSource
from server.retrieval.vectors import VectorSpace

Array: TypeAlias = NDArray[Any]

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
ITEM_IDS = "item_ids.txt"
RANKER = "ranker.onnx"
SEQUENCE = "sequence.onnx"
REPORT = "report.json"
REPORT_PAGE = "report.html"
SHARED_OUT = "shared_out"
"""Of the manifest's `ranking`: whether the calibration was fitted so that shares in a sum over candidates are probabilities."""
ARRAYS: Mapping[str, str] = {
    "factors_in": "<f4",
    "factors_out": "<f4",
    "popularity": "<f4",
    "mass": "<f4",
    "users": "<f4",
    "transitions_indptr": "<i8",
    "transitions_indices": "<i4",
    "transitions_data": "<f4",
    "together_indptr": "<i8",
    "together_indices": "<i4",
    "together_data": "<f4",
    "regression_indptr": "<i8",
    "regression_indices": "<i4",
    "regression_data": "<f4",
    "sequence_items": "<f4",
    "sequence_stranger": "<f4",
    "sequence_projection": "<f4",
    "semantic_dense": "<f4",
    "semantic_terms": "<i8",
    "semantic_lexical": "<f4",
    "semantic_idf": "<f4",
}
"""Name -> type of every array; its file is NAME.npy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A loaded bundle. Arrays are read-only views of the files."""

    bundle_id: BundleId
    directory: Path
    manifest: Mapping[str, Any]
    item_ids: tuple[ItemId, ...]
    space: VectorSpace
    weights: FusionWeights
    popularity: Mapping[ItemId, float]
    """Share of the most popular item's users, in (0, 1]. Items nobody touched are absent."""
    arrays: Mapping[str, Array]

    @property
    def ranker_path(self) -> Path:
        """The ranker's ONNX file."""
        return self.directory / RANKER

    @property
    def sequence_path(self) -> Path | None:
        """The sequence encoder's ONNX file; None where no sequential view was trained."""
        return self.directory / SEQUENCE if self.space.sequence.trained else None

    @property
    def calibrated(self) -> bool:
        """Whether shares of what the ranker calls probability are some: it was fitted to be shared out, and on anything."""
        return bool(self.manifest["ranking"].get(SHARED_OUT, False))

    @property
    def text_model(self) -> str:
        """Version of the text encoder whose vectors the bundle was fitted on; empty if it was fitted on none."""
        return str(self.manifest["text_model"])

    def sparse_source(self) -> SparseSource:
        """Returns a new item-to-item source that starts from the bundle's counts."""
        decays = self.manifest["decays"]
        return SparseSource(
            self.item_ids,
            self._counts("transitions"),
            self._counts("together"),
            self.arrays["mass"],
            self.arrays["users"],
            regression=self._counts("regression"),
            decays=(float(decays["transitions"]), float(decays["cosine"]), float(decays["regression"])),
        )

    def _counts(self, name: str) -> CsrCounts:
        return CsrCounts(*(np.asarray(self.arrays[f"{name}_{part}"]) for part in ("indptr", "indices", "data")))


def bundle_id_of(manifest: bytes) -> BundleId:
    """Returns the id of the bundle with this manifest: its content decides, since it holds the hash of every file."""
    return BundleId(f"b-{hashlib.sha256(manifest).hexdigest()[:16]}")


def load_bundle(directory: Path) -> Bundle:
    """Returns the bundle in a directory. Every file is read once to compare its hash.

    Raises:
        CorruptDataError: A file is missing, damaged, or does not fit the others. `metadata["part"]` names it.
    """
    raw = _read(directory, MANIFEST)
    try:
        manifest = json.loads(raw)
        files = manifest["files"]
        if manifest["format"] != FORMAT_VERSION or tuple(manifest["features"]) != RANKER_FEATURES or tuple(manifest["views"]) != VIEWS:
            raise _corrupt(MANIFEST, "was written by another version of Aisle; train the bundle again")
        weights = FusionWeights.from_json(manifest["fusion"])
        view_weights = np.array([manifest["view_weights"][view] for view in VIEWS], np.float32)
        decay = float(manifest["decays"]["collaborative"])
        event_types = tuple(map(str, manifest["event_types"]))
        context_axes = {axis: float(weight) for axis, weight in manifest.get("context_axes", {}).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(MANIFEST, "is damaged; fetch or train the bundle again") from error
    expected = {ITEM_IDS, RANKER, *(f"{name}.npy" for name in ARRAYS)}
    expected |= {SEQUENCE, REPORT, REPORT_PAGE} & set(files)
    if set(files) != expected:
        raise _corrupt(MANIFEST, f"lists {sorted(set(files) ^ expected)} too many or too few; train the bundle again")
    for name in sorted(expected):
        if hashlib.sha256(_read(directory, name)).hexdigest() != files[name]["sha256"]:
            raise _corrupt(name, "does not match its SHA-256 in the manifest; fetch or train the bundle again")
    item_ids = tuple(ItemId(json.loads(line)) for line in _read(directory, ITEM_IDS).decode().splitlines())
    arrays = {name: _array(directory, name, kind) for name, kind in ARRAYS.items()}
    _check_shapes(arrays, len(item_ids), encoder=SEQUENCE in files)
    sequence = SequenceSpace(arrays["sequence_items"], arrays["sequence_stranger"], arrays["sequence_projection"], event_types)
    popularity = arrays["popularity"]
    return Bundle(
        bundle_id=bundle_id_of(raw),
        directory=directory,
        manifest=manifest,
        item_ids=item_ids,
        space=VectorSpace(
            item_ids,
            arrays["factors_in"],
            arrays["factors_out"],
            sequence=sequence,
            semantic=_semantic_map(arrays),
            decay=decay,
            weights=view_weights,
            context_axes=context_axes,
        ),
        weights=weights,
        popularity={item_ids[row]: float(popularity[row]) for row in np.flatnonzero(popularity).tolist()},
        arrays=arrays,
    )


def _read(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise _corrupt(name, "cannot be read; fetch or train the bundle again") from error


def _array(directory: Path, name: str, kind: str) -> Array:
    try:
        array = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _corrupt(f"{name}.npy", "is not an array; fetch or train the bundle again") from error
    if array.dtype != np.dtype(kind):
        raise _corrupt(f"{name}.npy", f"holds {array.dtype}, not {kind}; train the bundle again")
    return cast("Array", array)


def _check_shapes(arrays: Mapping[str, Array], items: int, *, encoder: bool) -> None:
    expected: dict[str, tuple[int, ...]] = {
        "factors_in": (items, VIEW_DIMENSIONS),
        "factors_out": (items, VIEW_DIMENSIONS),
        "popularity": (items,),
        "mass": (items,),
        "users": (items,),
        "sequence_items": (items if encoder else 0, VIEW_DIMENSIONS),
        "sequence_stranger": (VIEW_DIMENSIONS,),
        "sequence_projection": (VIEW_DIMENSIONS, VIEW_DIMENSIONS),
    }
    for name in ("transitions", "together", "regression"):
        entries = (len(arrays[f"{name}_data"]),)
        expected |= {f"{name}_indptr": (items + 1,), f"{name}_indices": entries, f"{name}_data": entries}
        indptr, indices = arrays[f"{name}_indptr"], arrays[f"{name}_indices"]
        if len(indptr) and (indptr[-1] != entries[0] or indptr[0] != 0 or (np.diff(indptr) < 0).any()):
            raise _corrupt(f"{name}_indptr.npy", "does not fit the data beside it; train the bundle again")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < items:
            raise _corrupt(f"{name}_indices.npy", "names items that the bundle does not have; train the bundle again")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise _corrupt(f"{name}.npy", f"has shape {arrays[name].shape}, not {shape}; train the bundle again")


def _semantic_map(arrays: Mapping[str, Array]) -> SemanticMap:
    dense, terms, lexical, idf = (arrays[f"semantic_{part}"] for part in ("dense", "terms", "lexical", "idf"))
    wanted = {
        "dense": (VIEW_DIMENSIONS, VIEW_DIMENSIONS),
        "terms": (len(terms),),
        "lexical": (len(terms), VIEW_DIMENSIONS),
        "idf": (len(terms) + 1,),
    }
    for part, shape in wanted.items():
        found = arrays[f"semantic_{part}"].shape
        if found != shape:
            raise _corrupt(f"semantic_{part}.npy", f"has shape {found}, not {shape}; train the bundle again")
    if (np.diff(terms) <= 0).any():
        raise _corrupt("semantic_terms.npy", "is not in ascending order; train the bundle again")
    return SemanticMap(dense, terms, lexical, idf)


def _corrupt(part: str, message: str) -> CorruptDataError:
    return CorruptDataError(f"bundle file {part} {message}", part=part)
