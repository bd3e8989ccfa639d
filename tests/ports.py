"""Ports for servers that must know theirs before they start."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

_PORTS = range(20_000, 32_000)
"""Below those that Linux hands out by itself: what else runs meanwhile, another process of the suite too, is given none of them."""


def free_port() -> int:
    """Returns a port of the loopback address that nobody listens on, and that nobody is likely to take before the caller does."""
    while True:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
