"""Our verifier against botocore's signer."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from server.compat.aws.sigv4 import SKEW, Signed, check_signature, parse_authorization
from server.errors import UnauthenticatedError

SECRET = "f" * 64
ACCESS_KEY_ID = "aisle_shop_0123456789ab"

_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_segments = st.lists(st.text(st.sampled_from("abz09.-_~%2F"), max_size=6), max_size=4)
_names = st.from_regex(r"x-(amz|own)-[a-z]{1,8}", fullmatch=True).filter(lambda name: name not in {"x-amz-date", "x-amz-content-sha"})
_pairs = st.lists(
    st.tuples(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.from_regex(r"[A-Za-z0-9%._-]{0,5}", fullmatch=True)), max_size=4
)


def sign(method: str, path: str, query: str, headers: dict[str, str], body: bytes, **options: Any) -> tuple[Signed, str]:
    """Returns the request as it comes after botocore signed it, and the `Authorization` header."""
    url = f"http://127.0.0.1:8080{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(headers), data=body)
    credentials = Credentials(ACCESS_KEY_ID, options.get("secret", SECRET), options.get("token"))
    SigV4Auth(credentials, options.get("service", "personalize"), "eu-west-1").add_auth(request)
    sent = [(name.lower(), value) for name, value in request.headers.items()]
    authorization = next(value for name, value in sent if name == "authorization")
    return Signed(method, urlsplit(url).path, query, [*sent, ("host", "127.0.0.1:8080")], body), authorization


def check(signed: Signed, authorization: str, *, secret: str = SECRET, now: datetime | None = None) -> None:
    """Verifies."""
    check_signature(parse_authorization(authorization), signed, secret, now=now or datetime.now(UTC))


@given(
    method=st.sampled_from(["POST", "GET", "PUT"]),
    segments=_segments,
    pairs=_pairs,
    headers=st.dictionaries(_names, _text, max_size=3),
    body=st.binary(max_size=64),
    token=st.none() | st.text(st.sampled_from("abcXYZ/+="), min_size=1, max_size=20),
)
def test_whatever_botocore_signs_is_accepted(
    method: str, segments: list[str], pairs: list[tuple[str, str]], headers: dict[str, str], body: bytes, token: str | None
) -> None:
    """A request signed by botocore's signer passes, whatever its path, query, headers and body."""
    query = "&".join(f"{name}={value}" for name, value in pairs)
    check(*sign(method, "/" + "/".join(segments), query, headers, body, token=token))


@given(
    body=st.binary(max_size=40),
    changed=st.binary(max_size=40),
    place=st.sampled_from(["body", "path", "query", "method", "header", "secret"]),
)
def test_whatever_was_changed_after_signing_is_refused(body: bytes, changed: bytes, place: str) -> None:
    """A request whose body, path, query, method or signed header is another than the one signed, or whose secret is, is refused."""
    signed, authorization = sign("POST", "/compat/aws/events", "", {"content-type": "application/json"}, body)
    values = {name: getattr(signed, name) for name in ("method", "path", "query", "headers", "body")}
    match place:
        case "body":
            values["body"] = changed if changed != body else body + b"!"
        case "path":
            values["path"] = "/compat/aws/items"
        case "query":
            values["query"] = "a=1"
        case "method":
            values["method"] = "PUT"
        case "header":
            values["headers"] = [(name, "text/plain" if name == "content-type" else value) for name, value in signed.headers]
    with pytest.raises(UnauthenticatedError, match="does not match"):
        check(Signed(**values), authorization, secret="0" * 64 if place == "secret" else SECRET)


@pytest.mark.parametrize(
    ("ahead", "accepted"), [(-SKEW, True), (-SKEW - timedelta(seconds=2), False), (SKEW + timedelta(seconds=2), False)]
)
def test_a_signature_holds_five_minutes_around_its_time(ahead: timedelta, accepted: bool) -> None:  # noqa: FBT001
    """A signature older or newer than five minutes by the server's clock is refused, and the message gives both times."""
    signed, authorization = sign("POST", "/recommendations", "", {}, b"{}")
    stamp = next(value for name, value in signed.headers if name == "x-amz-date")
    moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if accepted:
        check(signed, authorization, now=moment - ahead)
    else:
        with pytest.raises(UnauthenticatedError, match=f"it is of {stamp}"):
            check(signed, authorization, now=moment - ahead)


@pytest.mark.parametrize("name", ["content-type", "x-amz-security-token", "host"])
def test_headers_that_matter_must_be_signed(name: str) -> None:
    """A request with an unsigned host, content type or x-amz header is refused, though its signature is right."""
    signed, authorization = sign("POST", "/recommendations", "", {}, b"{}")
    if name == "host":
        authorization = authorization.replace("host;", "")
    else:
        signed = Signed(signed.method, signed.path, signed.query, [*signed.headers, (name, "x")], signed.body)
    with pytest.raises(UnauthenticatedError, match=f"'{name}' came unsigned"):
        check(signed, authorization)


def test_a_stated_body_hash_must_be_the_bodys() -> None:
    """A signed x-amz-content-sha256 that is not the body's hash, UNSIGNED-PAYLOAD too, is refused."""
    signed, authorization = sign("POST", "/recommendations", "", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, b"{}")
    with pytest.raises(UnauthenticatedError, match="not the SHA-256"):
        check(signed, authorization)


@pytest.mark.parametrize(
    "header",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/20260101/r/personalize/aws4_request",
        "AWS4-HMAC-SHA256 Credential=a/20260101/r/personalize/aws4_request, SignedHeaders=host, Signature=zz",
        f"AWS4-HMAC-SHA256 Credential=a/20260101/r/s3/aws4_request, SignedHeaders=host, Signature={'0' * 64}",
        f"AWS4-HMAC-SHA256 Credential=a/20260101/r/personalize/aws4_request, SignedHeaders=x;host, Signature={'0' * 64}",
        f"AWS4-HMAC-SHA256 Credential=a/b/20260101/r/personalize/aws4_request, SignedHeaders=host, Signature={'0' * 64}",
        f"AWS4-HMAC-SHA256 Credential=a, Credential=b, Signature={'0' * 64}",
        "AWS4-ECDSA-P256-SHA256 Credential=a",
    ],
)
def test_malformed_authorizations_say_what_is_wrong(header: str) -> None:
    """An Authorization header that is not whole, for another service or of another algorithm is refused with its fault."""
    with pytest.raises(UnauthenticatedError, match=r"^authorization: "):
        parse_authorization(header)


@given(header=st.text(max_size=200) | st.text(st.sampled_from("AWS4-HMAC-SHA256 Credential=,;/Signature0"), max_size=200))
def test_no_header_breaks_the_parser(header: str) -> None:
    """Any text is parsed or refused."""
    with suppress(UnauthenticatedError):
        parse_authorization(header)
