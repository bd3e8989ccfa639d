"""Credentials for a server with TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc


def tls_credentials(*, ca: str | Path = "", certificate: str | Path = "", key: str | Path = "") -> grpc.ChannelCredentials:
    """Returns what `AisleClient(credentials=...)` needs to speak TLS.

    Args:
        ca: PEM file of the authorities that sign servers. Empty: the system's.
        certificate: PEM file of the client's own certificate chain, where the server asks for one.
        key: PEM file of its private key, without a password.

    Raises:
        ValueError: A file cannot be read or is no PEM, the two do not fit, or one of them is missing.
    """
    if bool(certificate) != bool(key):
        raise ValueError("a client certificate needs both certificate and key; name the file that is missing")
    try:
        # gRPC says of a wrong file only that no connection can be had, so it is read once by ssl, which says why.
        context = ssl.create_default_context(cafile=str(ca) or None)
        if certificate:
            context.load_cert_chain(certificate, key, password=lambda: "")
        return grpc.ssl_channel_credentials(*(Path(name).read_bytes() if name else None for name in (ca, key, certificate)))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = ", ".join(f"{what}={name}" for what, name in (("ca", ca), ("certificate", certificate), ("key", key)) if name)
        raise ValueError(f"{named or 'the authorities of this system'}: {error}; name PEM files that fit together") from error
