"""Whether the load speaks TLS, and with what: the options of `python -m loadtest`, which it hands on by the environment."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from server.errors import FailedPreconditionError
from server.identity.tls import ClientTls, read_client_tls

_VARIABLES = {"tls_ca": "AISLE_TLS_CA", "tls_certificate": "AISLE_TLS_CLIENT_CERTIFICATE", "tls_key": "AISLE_TLS_CLIENT_KEY"}
_WANTED = "AISLE_LOAD_TLS"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a command line."""
    parser.add_argument("--tls", action="store_true", help="speak TLS with both doors, and check their certificates")
    parser.add_argument(
        "--tls-ca", type=Path, help="PEM file of the authorities to trust in place of the system's (AISLE_TLS_CA); implies --tls"
    )
    parser.add_argument("--tls-certificate", type=Path, help="PEM file of a certificate to show (AISLE_TLS_CLIENT_CERTIFICATE)")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its private key (AISLE_TLS_CLIENT_KEY)")


def hand_on(given: argparse.Namespace) -> None:
    """Writes the options where `client_tls` of the next program finds them."""
    for name, variable in _VARIABLES.items():
        if getattr(given, name) is not None:
            os.environ[variable] = str(getattr(given, name).resolve())
    if given.tls:
        os.environ[_WANTED] = "1"


def client_tls() -> ClientTls | None:
    """Returns how to speak TLS, or None if nothing asks for it. Exits where the files cannot be used."""
    ca, certificate, key = (os.environ.get(variable, "") for variable in _VARIABLES.values())
    if not (ca or certificate or key or os.environ.get(_WANTED)):
        return None
    try:
        return read_client_tls(ca=ca, certificate=certificate, key=key)
    except FailedPreconditionError as error:
        sys.exit(f"loadtest: {error.message}")
