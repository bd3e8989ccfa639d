"""Virtual environments of the peers: made when first needed, under the cache folder, never part of Aisle's install."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_INSTALL_S = 1500


class UnavailablePeerError(Exception):
    """A peer cannot run here; the message says why."""


def environment(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """Returns the folder of an environment with exactly these requirements, installed by pip if it is not there yet (minutes, once).

    Its name carries a checksum of Python's version and of the requirements, so a changed pin makes a new one. A half-made one is removed.

    Raises:
        UnavailablePeerError: pip could not install them.
    """
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:10]
    folder = cache / f"{name}-{key}"
    done = folder / ".installed"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        shutil.rmtree(folder, ignore_errors=True)
        raise UnavailablePeerError(f"pip did not finish within {_INSTALL_S} s") from None
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in str(error.stderr).splitlines() if line.startswith("ERROR")] or str(error.stderr).splitlines() or ["?"]
        raise UnavailablePeerError(f"pip: {lines[-1].removeprefix('ERROR: ')}") from error
    done.touch()
    return folder
