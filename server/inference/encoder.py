"""A built text encoder on disk: its files, and the checksums that are verified before any of them is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from server.errors import CorruptDataError, NotFoundError

MANIFEST = "manifest.json"
ONNX = "model.onnx"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class BuiltEncoder:
    """A text encoder that is ready to serve."""

    onnx: Path
    tokenizer: Path
    version: str
    """Names weights and recipe. Vectors of two versions do not compare, so caches and indexes carry it."""
    max_tokens: int
    """Longest text in tokens, the two special ones included."""


def read_encoder(folder: Path) -> BuiltEncoder:
    """Returns the encoder of a folder made by `aisle models build`, after reading every byte of it (some 50 ms).

    Raises:
        NotFoundError: The folder holds no encoder.
        CorruptDataError: A file does not match its checksum.
    """
    mend = "`aisle models build` makes it again"
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        checksums, version, max_tokens = dict(manifest["sha256"]), str(manifest["version"]), int(manifest["max_tokens"])
        found = {name: sha256_of(folder / name) for name in (ONNX, TOKENIZER)}
    except OSError as error:
        if not folder.is_dir():
            raise NotFoundError(str(folder), f"{folder} holds no text encoder; {mend}") from error
        raise CorruptDataError(f"{error.filename} cannot be read ({error.strerror}); {mend}", path=folder) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{folder / MANIFEST} is damaged; {mend}", path=folder) from error
    for name, checksum in found.items():
        if checksums.get(name) != checksum:
            raise CorruptDataError(f"{folder / name} does not match its checksum; {mend}", path=folder)
    return BuiltEncoder(onnx=folder / ONNX, tokenizer=folder / TOKENIZER, version=version, max_tokens=max_tokens)


def write_manifest(folder: Path, *, version: str, max_tokens: int, source: str) -> None:
    """Writes the checksums of a folder's files, last, so that a folder with a manifest is whole."""
    manifest = {
        "version": version,
        "max_tokens": max_tokens,
        "source": source,
        "sha256": {name: sha256_of(folder / name) for name in (ONNX, TOKENIZER)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def sha256_of(path: Path) -> str:
    """Returns the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
