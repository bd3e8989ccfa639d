"""An index on disk: written whole beside the last one, checked when read.

    DIRECTORY/CURRENT         name of the folder that counts, and the SHA-256 of its manifest; replaced by one rename
    DIRECTORY/v-.../          manifest.json, vectors.bin, scales.f32 (of packed vectors), items.jsonl, rows.json,
                              and where there are codes base.faiss, fresh.faiss, lists.u16 and prefix.f32

A crash while writing leaves the last snapshot as it was. What deleted or replaced items held is not written, but for the compressed codes
of their vectors, nameless, which stay until the slots are dropped.

Shapes: N rows, S slots, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson

from server.domain import Item, ItemId
from server.errors import CorruptDataError, NotFoundError, UnavailableError
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import Limits
from server.retrieval.nearest import CodeIndex, Setting, from_parts
from server.retrieval.prefix import Prefix
from server.retrieval.slots import SlotStore
from server.retrieval.vector_rows import VectorRows
from server.retrieval.view import IndexView

_FORMAT = 2
_BLOCK = 4096
"""Slots written at once."""
_TIMES = ("available_from", "available_until", "create_time", "update_time")


def save(view: IndexView, directory: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a view as the snapshot in `directory`, replacing the one there.

    Args:
        view: What to write; searches and writes on its index go on.
        directory: Made if missing. Belongs to snapshots alone.
        metadata: Handed back by `load`, such as the revision of the catalogue that the view has seen.

    Raises:
        UnavailableError: The disk is full or refuses. The snapshot before is untouched.
    """
    name = f"v-{uuid.uuid4().hex}"
    folder = directory / name
    try:
        folder.mkdir(parents=True)
        files = {file: _write(folder / file, parts) for file, parts in _contents(view)}
        manifest = orjson.dumps({**_description(view), "metadata": dict(metadata or {}), "files": files}, option=orjson.OPT_INDENT_2)
        _write(folder / "manifest.json", [manifest])
        _write(folder / "CURRENT", [f"{name} {hashlib.sha256(manifest).hexdigest()}".encode()])
        _sync(folder)
        (folder / "CURRENT").replace(directory / "CURRENT")
        _sync(directory)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UnavailableError("disk", f"the index snapshot in {directory} was not written ({error}); the one before stays") from error
    for old in directory.glob("v-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)


def load(
    directory: Path, *, executor: Executor | None = None, limits: Limits | None = None, background: bool = True
) -> tuple[ItemIndex, dict[str, str]]:
    """Returns the index that was saved, rows numbered as they were, and its metadata. Reads about 0.4 GB/s.

    Args:
        directory: What `save` was given.
        executor: See `ItemIndex`.
        limits: See `ItemIndex`.
        background: See `ItemIndex`.

    Raises:
        NotFoundError: No snapshot is there.
        CorruptDataError: A file is missing, cut, changed or of another format. Build the index anew from the database.
    """
    if not (directory / "CURRENT").exists():
        raise NotFoundError(str(directory), f"{directory} holds no index snapshot")
    try:
        folder, manifest = _manifest(directory)
        files = {file: _read(folder / file, entry) for file, entry in manifest["files"].items()}
        view = _view(manifest, files, limits or Limits())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptDataError(
            f"the index snapshot in {directory} is not usable ({error}); it will be built anew", path=directory
        ) from error
    index = ItemIndex(view.dimension, executor=executor, limits=limits or Limits(), background=background)
    index.adopt(view)
    return index, manifest["metadata"]


def _description(view: IndexView) -> dict[str, Any]:
    codes = view.codes
    return {
        "format": _FORMAT,
        "dimension": view.dimension,
        "generation": view.generation,
        "version": view.version,
        "slots": view.slots,
        "rows": view.rows,
        "packed": view.store.vectors.packed,
        "max_norm": view.store.max_norm,
        "codes": codes and {"prefix": codes.prefix.dimensions, "setting": asdict(codes.setting), "trained_on": codes.trained_on},
    }


def _contents(view: IndexView) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yields file names and their bytes. Dead slots are written as zeros and null, so that codes keep their places."""
    kept = view.store.vectors

    def vectors() -> Iterator[bytes]:
        for first in range(0, view.slots, _BLOCK):
            last = min(first + _BLOCK, view.slots)
            numbers = kept.raw(first, last)[0]
            yield (numbers * view.alive[first:last, None]).astype(numbers.dtype.newbyteorder("<")).tobytes()

    def scales() -> Iterator[bytes]:
        found = kept.raw(0, view.slots)[1]
        assert found is not None
        yield np.where(view.alive, found, 1).astype("<f4").tobytes()

    def items() -> Iterator[bytes]:
        for slot, item in enumerate(view.store.columns.items[: view.slots]):
            yield (orjson.dumps(item, default=dict) if view.alive[slot] else b"null") + b"\n"

    ids = [item_id if live else None for item_id, live in zip(view.row_ids, view.live.tolist(), strict=False)]
    rows = {"ids": ids, "slot_of": view.slot_of.tolist(), "rows": view.store.rows[: view.slots].tolist()}
    yield "vectors.bin", vectors()
    if kept.packed:
        yield "scales.f32", scales()
    yield "items.jsonl", items()
    yield "rows.json", [orjson.dumps(rows)]
    if view.codes is not None:
        codes = view.codes
        yield "base.faiss", [bytes(faiss.serialize_index(codes.base))]
        yield "fresh.faiss", [bytes(faiss.serialize_index(codes.fresh))]
        yield "lists.u16", [codes.list_of.astype("<u2").tobytes()]
        matrices = [matrix for matrix in (codes.prefix.of_items, codes.prefix.of_queries) if matrix is not None]
        yield "prefix.f32", [matrix.astype("<f4").tobytes() for matrix in matrices]


def _write(path: Path, parts: Iterable[bytes]) -> dict[str, Any]:
    """Writes a file and returns its size and checksum."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _manifest(directory: Path) -> tuple[Path, dict[str, Any]]:
    name, checksum = (directory / "CURRENT").read_text().split()
    folder = directory / Path(name).name
    data = (folder / "manifest.json").read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError("manifest.json was changed")
    manifest: dict[str, Any] = orjson.loads(data)
    if manifest["format"] != _FORMAT:
        raise ValueError(f"it has format {manifest['format']}; this version reads {_FORMAT}")
    return folder, manifest


def _read(path: Path, entry: Mapping[str, Any]) -> bytes:
    data = path.read_bytes()
    if len(data) != entry["bytes"]:
        raise ValueError(f"{path.name} has {len(data)} of {entry['bytes']} bytes")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path.name} was changed")
    return data


def _view(manifest: Mapping[str, Any], files: Mapping[str, bytes], limits: Limits) -> IndexView:
    dimension, slots = manifest["dimension"], manifest["slots"]
    rows = orjson.loads(files["rows.json"])
    packed = manifest["packed"]
    numbers = np.frombuffer(files["vectors.bin"], "<i2" if packed else "<f4").reshape(slots, dimension)
    vectors = VectorRows(numbers, np.frombuffer(files["scales.f32"], "<f4") if packed else None)
    items = [_item(line) for line in files["items.jsonl"].splitlines()]
    store = SlotStore.holding(items, vectors, np.array(rows["rows"], np.int32), packed_numbers=limits.packed_numbers)
    store.max_norm = manifest["max_norm"]
    # A dead row's name was not kept. One that nobody can send takes its place.
    row_ids = [ItemId(f"/{row}") if item_id is None else ItemId(item_id) for row, item_id in enumerate(rows["ids"])]
    slot_of = np.array(rows["slot_of"], np.int32)
    alive = np.zeros(slots, np.bool_)
    alive[slot_of[slot_of >= 0]] = True
    return IndexView(
        store=store,
        generation=manifest["generation"],
        version=manifest["version"],
        slots=slots,
        slot_of=slot_of,
        alive=alive,
        row_ids=row_ids,
        row_by_id={item_id: row for row, item_id in enumerate(row_ids)},
        codes=_codes(manifest, files, store),
    )


def _codes(manifest: Mapping[str, Any], files: Mapping[str, bytes], store: SlotStore) -> CodeIndex | None:
    described = manifest["codes"]
    if described is None:
        return None
    source, short = manifest["dimension"], described["prefix"]
    matrices = np.frombuffer(files["prefix.f32"], "<f4")
    prefix = Prefix(source, short, *matrices.reshape(2, source, short)) if len(matrices) else Prefix(source, short)
    codes = from_parts(
        files["base.faiss"],
        files["fresh.faiss"],
        prefix=prefix,
        list_of=np.frombuffer(files["lists.u16"], "<u2"),
        setting=Setting(**described["setting"]),
        trained_on=described["trained_on"],
    )
    if codes.size > store.size:
        raise ValueError("the codes cover more than there is")
    return codes.on_gpu(store.vectors)


_DEAD = Item(item_id=ItemId(""), title="")


def _item(line: bytes) -> Item:
    fields = orjson.loads(line)
    if fields is None:
        return _DEAD
    item = Item(**{**fields, "categories": tuple(fields["categories"])})
    times: dict[str, Any] = {name: datetime.fromisoformat(fields[name]) for name in _TIMES if fields[name]}
    return replace(item, **times) if times else item
