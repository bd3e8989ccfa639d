"""`aisle models`: the models that ship with Aisle, built on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.inference.encoder import BuiltEncoder, read_encoder


@click.group()
def models() -> None:
    """Builds and lists the models that are not part of a bundle."""


@models.command()
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a BERT-type encoder with 384-long vectors: config.json, model.safetensors, tokenizer.json. Default: all-MiniLM-L6-v2.",
)
def build(source: Path | None) -> None:
    """Builds the int8 text encoder, or finds it built."""
    from server.settings import Settings

    encoder = build_with_progress(source, Settings().cache_dir)
    print(encoder.onnx.parent)


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Prints JSON, one array.")
def list_(as_json: bool) -> None:
    """Lists the built encoders and whether their files are whole."""
    import orjson

    from server.settings import Settings
    from training.text_encoder import cached_encoders

    rows = [_row(folder) for folder in cached_encoders(Settings().cache_dir)]
    if as_json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    if not rows:
        print("none built; `aisle models build` builds the text encoder")
    for row in rows:
        print(f"{row['version']}  {row['max_tokens'] or '?'} tokens  {row['bytes'] / 1e6:.0f} MB  {row['state']}  {row['folder']}")


def _row(folder: Path) -> dict[str, Any]:
    from server.errors import AisleError

    size = sum(file.stat().st_size for file in folder.iterdir())
    try:
        encoder = read_encoder(folder)
    except AisleError as error:
        return {"version": folder.name, "max_tokens": 0, "bytes": size, "state": error.message, "folder": str(folder)}
    return {"version": encoder.version, "max_tokens": encoder.max_tokens, "bytes": size, "state": "ok", "folder": str(folder)}


def build_with_progress(source: Path | None, cache_dir: Path) -> BuiltEncoder:
    """Returns the text encoder of `source`, building it under a progress bar on stderr if it is not cached.

    Raises:
        AisleError: As `training.text_encoder.build_text_encoder`.
    """
    from rich.console import Console
    from rich.progress import Progress

    from training.text_encoder import build_text_encoder

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("text encoder", total=1.0)
        return build_text_encoder(source, cache_dir, lambda message, done: bar.update(task, description=message, completed=done))
