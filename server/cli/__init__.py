"""The `aisle` command: argv -> Settings -> one thin function per sub-command."""

from __future__ import annotations

import importlib
import os

import click

from server import __version__

_COMMANDS = {
    "up": "serving",
    "serve": "serving",
    "gateway": "gateway",
    "migrate": "admin",
    "tenants": "admin",
    "keys": "admin",
    "doctor": "doctor",
    "import": "data",
    "demo": "demo",
    "train": "registry",
    "evaluate": "evaluation",
    "bundles": "registry",
    "models": "models",
}


class _LazyGroup(click.Group):
    """Imports a sub-command's module when it is called, so that `aisle --help` and `aisle keys` do not load FAISS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"server.cli.{module}"), cmd_name.replace("-", "_").replace("import", "import_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="aisle")
def group() -> None:
    """Aisle: a personalization inference server."""


def main() -> None:
    """Runs the command line. Errors are one line on stderr; exit 1 for a failure, 2 for wrong usage."""
    import sys

    if sys.argv[1:2] in (["up"], ["serve"]):
        # Every thread that searches or infers is ours; pools beneath them fight over the same cores. Read when numpy and FAISS load.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from pydantic import ValidationError

    from server.errors import AisleError

    try:
        group(prog_name="aisle")
    except AisleError as error:
        print(f"aisle: {error.message}", file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:  # only settings are read by pydantic
        first = error.errors()[0]
        print(f"aisle: AISLE_{'_'.join(map(str, first['loc'])).upper()}: {first['msg']}", file=sys.stderr)
        sys.exit(2)
