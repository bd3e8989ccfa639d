"""Building the text encoder: cached by content, whole or not at all, mended when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.errors import CorruptDataError, FailedPreconditionError, InvalidFieldError, NotFoundError
from server.inference import read_encoder
from tests.model_factories import tiny_bert
from training.text_encoder import build_text_encoder, cached_encoders


def quiet(_message: str, _done: float) -> None:
    """Shows nothing."""


def test_a_second_build_finds_the_first(tmp_path: Path) -> None:
    """Same weights, same folder, and nothing is computed; progress ends at 1."""
    source = tiny_bert(tmp_path / "tiny")
    first = build_text_encoder(source, tmp_path / "cache", quiet)
    seen: list[tuple[str, float]] = []
    second = build_text_encoder(source, tmp_path / "cache", lambda message, done: seen.append((message, done)))
    assert second == first
    assert [done for _, done in seen] == [0.0, 1.0]
    assert first.max_tokens == 48
    assert first.version.startswith("tiny-")
    assert cached_encoders(tmp_path / "cache") == [first.onnx.parent]
    assert [path.name for path in (tmp_path / "cache" / "text_encoder").iterdir()] == [first.version]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "sentence_bert_config.json"])
def test_other_content_is_another_version(tmp_path: Path, file: str) -> None:
    """A change of weights, tokenizer or limits never meets vectors of the old one."""
    source = tiny_bert(tmp_path / "tiny")
    first = build_text_encoder(source, tmp_path / "cache", quiet)
    other = tiny_bert(tmp_path / "other" / "tiny", seed=1)
    if file == "tokenizer.json":
        tokenizer = json.loads((source / file).read_text())
        tokenizer["model"]["max_input_chars_per_word"] = 50
        (source / file).write_text(json.dumps(tokenizer))
    elif file == "sentence_bert_config.json":
        (source / file).write_text('{"max_seq_length": 32}')
    else:
        (source / file).write_bytes((other / file).read_bytes())
    assert build_text_encoder(source, tmp_path / "cache", quiet).version != first.version


def test_a_damaged_cache_is_found_and_built_again(tmp_path: Path) -> None:
    """Reading says what is wrong and how to mend it; building mends it."""
    source = tiny_bert(tmp_path / "tiny")
    built = build_text_encoder(source, tmp_path / "cache", quiet)
    whole = built.onnx.read_bytes()
    built.onnx.write_bytes(whole[:1000] + b"\0" + whole[1001:])
    with pytest.raises(CorruptDataError, match=r"model\.onnx does not match its checksum; `aisle models build`"):
        read_encoder(built.onnx.parent)
    assert build_text_encoder(source, tmp_path / "cache", quiet) == built
    assert read_encoder(built.onnx.parent) == built


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle leaves no folder that could pass for an encoder; the next build succeeds."""
    source = tiny_bert(tmp_path / "tiny")

    def interrupt(_message: str, done: float) -> None:
        if done > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_text_encoder(source, tmp_path / "cache", interrupt)
    assert cached_encoders(tmp_path / "cache") == []
    assert list((tmp_path / "cache" / "text_encoder").iterdir()) == []
    assert build_text_encoder(source, tmp_path / "cache", quiet).onnx.is_file()


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    """The error names what is missing."""
    with pytest.raises(InvalidFieldError, match=r"no model\.safetensors and no tokenizer\.json"):
        build_text_encoder(tmp_path, tmp_path / "cache", quiet)


def test_a_tokenizer_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    source = tiny_bert(tmp_path / "tiny")
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptDataError, match=r"tokenizer\.json"):
        build_text_encoder(source, tmp_path / "cache", quiet)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the place of the cache folder is an error that says which setting to change."""
    source = tiny_bert(tmp_path / "tiny")
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FailedPreconditionError, match="AISLE_CACHE_DIR"):
        build_text_encoder(source, tmp_path / "cache", quiet)


def test_a_folder_without_an_encoder_is_not_found(tmp_path: Path) -> None:
    """Reading where nothing was built says so and how to build."""
    with pytest.raises(NotFoundError, match="aisle models build"):
        read_encoder(tmp_path / "nothing")
