"""The files that TLS needs, read and checked once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from server.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class Tls:
    """A server's certificate, and whose clients it lets in."""

    certificate: bytes
    """The chain, the server's own first; PEM."""
    key: bytes
    """Unencrypted; PEM."""
    client_ca: bytes | None
    """Certificates that clients' must be signed by. None: clients need none. PEM."""
    context: ssl.SSLContext
    """TLS 1.2 and above, for the HTTP door."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Which servers a client of ours believes, and what it shows them."""

    authorities: bytes | None
    """Certificates that servers' must be signed by. None: the system's. PEM."""
    certificate: bytes | None
    """The client's own chain; None: none is shown. PEM."""
    key: bytes | None
    """Unencrypted; PEM."""
    context: ssl.SSLContext
    """The same for HTTP and plain sockets."""


def read_client_tls(*, ca: str, certificate: str, key: str, check_name: bool = True) -> ClientTls:
    """Returns what a client needs. Empty names: the system's authorities, no certificate.

    `check_name`: Whether `context` wants the server's certificate to have the name by which it was called.

    Raises:
        FailedPreconditionError: A file is missing or unreadable, they do not fit, or one of certificate and key is named alone.
    """
    if bool(certificate) != bool(key):
        raise FailedPreconditionError(
            "a client certificate needs both --tls-certificate (AISLE_TLS_CLIENT_CERTIFICATE) and --tls-key (AISLE_TLS_CLIENT_KEY);"
            " name the one that is missing"
        )
    try:
        context = ssl.create_default_context(cafile=ca or None)
        context.check_hostname = check_name
        if certificate:
            context.load_cert_chain(certificate, key, password=lambda: "")
        authorities, shown, secret = (Path(name).read_bytes() if name else None for name in (ca, certificate, key))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        options = (("--tls-ca", ca), ("--tls-certificate", certificate), ("--tls-key", key))
        named = ", ".join(f"{option} {name}" for option, name in options if name)
        raise FailedPreconditionError(f"{named}: {error}; name PEM files that fit together, the key without a password") from error
    return ClientTls(authorities, shown, secret, context)


def read_tls(*, certificate: str, key: str, client_ca: str) -> Tls | None:
    """Returns what the files hold; None if none is named.

    Raises:
        FailedPreconditionError: One is missing or unreadable, they do not fit, or one is named without the other.
    """
    if not certificate and not key and not client_ca:
        return None
    if not certificate or not key:
        raise FailedPreconditionError("TLS needs both AISLE_TLS_CERTIFICATE and AISLE_TLS_KEY; set the one that is missing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return Tls(Path(certificate).read_bytes(), Path(key).read_bytes(), Path(client_ca).read_bytes() if client_ca else None, context)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = f"AISLE_TLS_CERTIFICATE={certificate}, AISLE_TLS_KEY={key}" + (f", AISLE_TLS_CLIENT_CA={client_ca}" if client_ca else "")
        raise FailedPreconditionError(f"{named}: {error}; name PEM files that fit together, the key without a password") from error
