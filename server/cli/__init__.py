"""The `aisle` command: argv -> Settings -> one thin function per sub-command."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from typing import NoReturn

import click

from server import __version__

_COMMANDS = {
    "up": "serving",
    "serve": "serving",
    "gateway": "gateway",
    "migrate": "admin",
    "tenants": "tenants",
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


def main() -> NoReturn:
    """Runs the command line. Errors are one line on stderr; exit 1 for a failure, 2 for wrong usage."""
    from server.settings import usable_cores

    serves = sys.argv[1:2] in (["up"], ["serve"])
    # Every thread of a server that searches or infers is ours; pools beneath them fight over the same cores. Other commands' pools may use
    # the cores that this process has, not the machine's: threads without a core spin. Read when numpy, FAISS and torch load.
    threads = "1" if serves else str(usable_cores())
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits for others leaves its core to them
    if serves:
        faulthandler.enable()  # a crash in native code says where
    code = _run()
    if serves:
        leave(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """Ends the process without tearing the interpreter down.

    An index may be learning its codes, minutes inside FAISS that nothing can interrupt; teardown around that thread hangs or crashes. All
    that a server has to finish it finished when its doors closed.
    """
    from server.telemetry import flush_telemetry

    flush_telemetry()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    """Runs the command; returns the exit code."""
    from pydantic import ValidationError

    from server.errors import AisleError
    from server.telemetry import configure_logging

    configure_logging("warning")  # to stderr, so that stdout holds results only; servers set their own level
    try:
        group(prog_name="aisle")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except AisleError as error:
        print(f"aisle: {error.message}", file=sys.stderr)
        return 1
    except ValidationError as error:  # only settings are read by pydantic
        first = error.errors()[0]
        print(f"aisle: AISLE_{'_'.join(map(str, first['loc'])).upper()}: {first['msg']}", file=sys.stderr)
        return 2
    return 0
