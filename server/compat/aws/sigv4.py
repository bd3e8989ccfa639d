"""Checks AWS Signature Version 4 in the `Authorization` header.

Source: AWS General Reference, "Create a signed AWS API request"; where that is silent, botocore's signer, against which tests compare.
Not taken: signatures in the query, chunked payloads and unsigned payloads; the SDKs use none of them for Personalize.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from server.errors import UnauthenticatedError

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "personalize"
SKEW = timedelta(minutes=5)
"""How far a signature's time may be from the server's clock, before or after. A signed request can be replayed that long, as at AWS."""

_CREDENTIAL = re.compile(
    r"(?P<access_key_id>[^/,\s]{1,256})/(?P<date>[0-9]{8})/(?P<region>[A-Za-z0-9-]{1,64})/(?P<service>[a-z0-9-]{1,64})/aws4_request"
)
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+(?:;[!#$%&'*+.^_`|~0-9a-z-]+)*")
_TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Signed:
    """What is signed: the request as it came."""

    method: str
    path: str
    """Percent-encoded once, without the query."""
    query: str
    """As it came, without the question mark."""
    headers: Iterable[tuple[str, str]]
    """Names in lower case, in the order they came."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Authorization:
    """The parsed header."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def parse_authorization(header: str) -> Authorization:
    """Returns the parts of an `Authorization` header.

    Raises:
        UnauthenticatedError: It is not what `AWS4-HMAC-SHA256` defines, or for another service.
    """
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"the algorithm is {algorithm[:40]!r}; sign with {ALGORITHM}")
    parts: dict[str, str] = {}
    for part in rest.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name in parts or name not in {"Credential", "SignedHeaders", "Signature"}:
            raise _incomplete("it must be Credential=…, SignedHeaders=…, Signature=…, each once")
        parts[name] = value
    credential = _CREDENTIAL.fullmatch(parts.get("Credential", ""))
    if credential is None:
        raise _incomplete("Credential must be ACCESS_KEY_ID/YYYYMMDD/REGION/personalize/aws4_request")
    names, signature = parts.get("SignedHeaders", ""), parts.get("Signature", "")
    if not _HEADER_NAMES.fullmatch(names):
        raise _incomplete("SignedHeaders must be lower-case names joined by ';'")
    if not _SIGNATURE.fullmatch(signature):
        raise _incomplete("Signature must be 64 hexadecimal digits in lower case")
    if credential["service"] != SERVICE:
        raise _incomplete(f"it is signed for the service {credential['service']!r}; sign for {SERVICE!r}")
    signed = tuple(names.split(";"))
    if list(signed) != sorted(set(signed)):
        raise _incomplete("SignedHeaders must be sorted, each name once")
    return Authorization(credential["access_key_id"], credential["date"], credential["region"], credential["service"], signed, signature)


def check_signature(authorization: Authorization, signed: Signed, secret: str, *, now: datetime) -> None:
    """Accepts the request or refuses it. The comparison takes the same time wherever signatures differ.

    Raises:
        UnauthenticatedError: A header that must be signed is not, the time is too far off, the body is not the one that was signed, or
            the signature is another.
    """
    headers: dict[str, list[str]] = {}
    for name, value in signed.headers:
        headers.setdefault(name, []).append(" ".join(value.split()))
    _check_signed_headers(authorization, headers)
    stamp = _check_time(authorization, headers, now)
    payload = hashlib.sha256(signed.body).hexdigest()
    stated = headers.get("x-amz-content-sha256", [payload])
    if stated != [payload]:
        raise UnauthenticatedError("x-amz-content-sha256 is not the SHA-256 of the body; sign the body that is sent")
    canonical = "\n".join(
        [
            signed.method.upper(),
            quote(_without_dots(signed.path), safe="/~"),
            "&".join(f"{name}={value}" for name, value in sorted(_pairs(signed.query))),
            *(f"{name}:{','.join(headers[name])}" for name in authorization.signed_headers),
            "",
            ";".join(authorization.signed_headers),
            payload,
        ]
    )
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{ALGORITHM}\n{stamp}\n{authorization.scope}\n{hashed}"
    if not hmac.compare_digest(_signature(secret, authorization, text), authorization.signature):
        raise UnauthenticatedError(
            "the request signature we calculated does not match the one that came; check the secret access key, and that no proxy changes "
            "the path, the Host header or the body"
        )


def _check_signed_headers(authorization: Authorization, headers: dict[str, list[str]]) -> None:
    missing = [name for name in authorization.signed_headers if name not in headers]
    if missing:
        raise _incomplete(f"SignedHeaders names {missing[0][:60]!r}, which did not come")
    needed = {"host", *(name for name in headers if name.startswith("x-amz-") or name == "content-type")}
    unsigned = sorted(needed - set(authorization.signed_headers))
    if unsigned:
        raise _incomplete(f"the header {unsigned[0][:60]!r} came unsigned; SignedHeaders must name it")


def _check_time(authorization: Authorization, headers: dict[str, list[str]], now: datetime) -> str:
    """Returns the signature's time as it stands in the text that is signed."""
    stamps = headers.get("x-amz-date", [])
    if len(stamps) != 1 or not _TIME.fullmatch(stamps[0]):
        raise _incomplete("x-amz-date must come once, as YYYYMMDDTHHMMSSZ")
    stamp = stamps[0]
    if stamp[:8] != authorization.date:
        raise _incomplete(f"the credential is for {authorization.date}, x-amz-date for {stamp[:8]}")
    try:
        moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete("x-amz-date is no time") from None
    if abs(now - moment) > SKEW:
        when = "expired" if moment < now else "is not yet current"
        raise UnauthenticatedError(
            f"signature {when}: it is of {stamp}, the server's clock says {now:%Y%m%dT%H%M%SZ}; set the clock, they may differ by 5 minutes"
        )
    return stamp


def _incomplete(message: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"authorization: {message}")


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&"))] if query else []


def _without_dots(path: str) -> str:
    """Returns the path without `.`, `..` and repeated slashes: RFC 3986, 5.2.4, as signers normalize it."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    text = "/".join(kept)
    closing = "/" if text and path.endswith("/") else ""
    return f"/{text}{closing}"


def _signature(secret: str, authorization: Authorization, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in (authorization.date, authorization.region, authorization.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
