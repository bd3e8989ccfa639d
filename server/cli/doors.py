"""What `aisle doctor` asks a server that is running: whether its doors answer, and for how long its certificate is good."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from server.embedded.findings import Finding
from server.identity.tls import ClientTls

_TIMEOUT_S = 5.0
_SOON_DAYS = 14
_MEND = "see the server's log"
_TLS_MEND = (
    "name the authority of the server's certificate by --tls-ca or AISLE_TLS_CA; where the server wants certificates of clients,"
    " one by --tls-certificate and --tls-key"
)


async def check_doors(grpc_address: str, http_address: str, tls: ClientTls | None) -> list[Finding]:
    """Returns the findings on the doors that listen; none on one where nothing does, or whose port is 0.

    The addresses are those that the server binds, which seldom stand in its certificate: `tls` must check its authority and not its name.
    """
    findings: list[Finding] = []
    name = ""
    if tls is not None and (place := await _listening(grpc_address) or await _listening(http_address)):
        finding, name = await asyncio.to_thread(_certificate, place, tls)
        findings.append(finding)
    if place := await _listening(grpc_address):
        findings.append(await _grpc(place, tls, name))
    if place := await _listening(http_address):
        findings.append(await asyncio.to_thread(_http, place, tls))
    return findings


async def _listening(address: str) -> tuple[str, int] | None:
    """Returns host and port to connect to, or None where nobody listens."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    with suppress(ValueError):  # a name
        bound = ip_address(host)
        if bound.is_unspecified:  # who listens on all addresses is asked on this one
            host = "127.0.0.1" if bound.version == 4 else "::1"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return None
    writer.close()
    return host, int(port)


def _certificate(place: tuple[str, int], tls: ClientTls) -> tuple[Finding, str]:
    """Returns the finding on the server's certificate, and a name in it that gRPC can be told to expect."""
    try:
        with socket.create_connection(place, timeout=_TIMEOUT_S) as plain, tls.context.wrap_socket(plain) as secure:
            shown = secure.getpeercert() or {}
    except OSError as error:  # ssl.SSLError is one
        return Finding("tls certificate", "fault", f"{_at(place)}: {error}", _TLS_MEND), ""
    alternatives: Any = shown.get("subjectAltName", ())  # the types are those of all fields at once
    names: list[str] = [value for kind, value in alternatives if kind in {"DNS", "IP Address"}]
    days = (ssl.cert_time_to_seconds(str(shown["notAfter"])) - time.time()) / 86400
    detail = f"{', '.join(names) or 'without a name'}, good for {days:.0f} days"
    if days < _SOON_DAYS:
        mend = "renew AISLE_TLS_CERTIFICATE and AISLE_TLS_KEY, and restart"
        return Finding("tls certificate", "note", detail, mend), names[0] if names else ""
    return Finding("tls certificate", "ok", detail), names[0] if names else ""


async def _grpc(place: tuple[str, int], tls: ClientTls | None, name: str) -> Finding:
    """Returns whether the gRPC door says that it serves."""
    options = [("grpc.ssl_target_name_override", name)] if name else []
    channel = (
        grpc.aio.insecure_channel(_at(place))
        if tls is None
        else grpc.aio.secure_channel(_at(place), grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate), options=options)
    )
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        async with channel:
            reply = health_pb2.HealthCheckResponse.FromString(await check(b"", timeout=_TIMEOUT_S))
    except grpc.aio.AioRpcError as error:
        detail = f"{_at(place)}: {error.code().name}: {error.details()}"
        return Finding("grpc door", "fault", detail, _TLS_MEND if tls else f"{_MEND}; if it speaks TLS, ask with --tls-ca")
    said = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return _answered("grpc door", place, said, fine=said == "SERVING", tls=tls)


def _http(place: tuple[str, int], tls: ClientTls | None) -> Finding:
    """Returns whether the HTTP door says that it is ready."""
    connection = (
        http.client.HTTPConnection(*place, timeout=_TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(*place, timeout=_TIMEOUT_S, context=tls.context)
    )
    try:
        connection.request("GET", "/healthz/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        detail = f"{_at(place)}: {type(error).__name__}: {error}"
        return Finding("http door", "fault", detail, _TLS_MEND if tls else f"{_MEND}; if it speaks TLS, ask with --tls-ca")
    finally:
        connection.close()
    fine = status == http.client.OK
    return _answered("http door", place, "ready" if fine else f"/healthz/ready is {status}", fine=fine, tls=tls)


def _answered(check: str, place: tuple[str, int], said: str, *, fine: bool, tls: ClientTls | None) -> Finding:
    detail = f"{_at(place)} is {said}{' over TLS' if tls else ''}" if fine else f"{_at(place)}: {said}"
    return Finding(check, "ok", detail) if fine else Finding(check, "fault", detail, _MEND)


def _at(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
