"""What takes bytes from strangers, each as a function of bytes that raises where it does what it must not.

A target for another parser is one more entry of `TARGETS`, with seeds from which the fuzzer starts.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from google.protobuf import json_format

from server.compat.aws.sigv4 import Signed, check_signature, parse_authorization
from server.errors import AisleError, FilterSyntaxError, InvalidArgumentError, UnauthenticatedError
from server.gateway.codec import Codec, parse_json
from server.gateway.rules import Match, build_table
from server.identity.keys import IssuerKeys
from server.identity.tokens import Tokens
from server.retrieval.filters import compile_filter
from tests.fixtures_gateway import library, message
from tests.unit.identity.issuer import AUDIENCE, ISSUER, private_key, public_jwk, token

_TABLE = build_table(library().methods)
_CODEC = Codec(library().pool)
_ECHO = next(method for name, method in library().methods.items() if name.endswith("/Echo")).input_type
_LOOP = asyncio.new_event_loop()
_SIGNING = private_key("ES256")


def _tokens() -> Tokens:
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({"keys": [public_jwk(_SIGNING, "k1", "ES256")]}, file)
    tokens = Tokens(IssuerKeys(file.name), issuer=ISSUER, audience=AUDIENCE, tenant_claim="tenant", roles_claim="roles")
    _LOOP.run_until_complete(tokens.principal(token(_SIGNING, "ES256")))  # reads the file
    Path(file.name).unlink()
    return tokens


_TOKENS = _tokens()


def path(data: bytes) -> None:
    """A path matches a route, and then no other time differently, misses all, or is refused in order."""
    text = data.decode("latin-1")
    try:
        found = _TABLE.match("POST", text)
    except InvalidArgumentError:
        return
    if isinstance(found, Match):
        assert found.values == _TABLE.match("POST", text).values
        assert all(isinstance(value, str) and value for value in found.values.values())


def json_body(data: bytes) -> None:
    """A body is refused in order, or read as json_format reads it, and comes back the same from its own JSON."""
    ours = message(_ECHO.name)
    try:
        _CODEC.decode(parse_json(data), ours)
    except AisleError:
        return
    again = message(_ECHO.name)
    _CODEC.decode(parse_json(_CODEC.encode(ours)), again)
    assert again.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
    theirs = message(_ECHO.name)
    try:
        json_format.Parse(data, theirs, descriptor_pool=library().pool)
    except (json_format.ParseError, UnicodeDecodeError):  # a key that comes twice, which we read as the last
        return
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)


def filter_expression(data: bytes) -> None:
    """An expression is refused with a position inside it, or means a tree that prints."""
    text = data.decode(errors="replace")
    try:
        parsed = compile_filter.__wrapped__(text)  # past the cache
    except FilterSyntaxError as error:
        if not 0 <= error.position <= len(text):
            raise
        return
    assert isinstance(str(parsed), str)


def signed_token(data: bytes) -> None:
    """A token that we did not sign is refused, and nothing else happens."""
    text = data.decode("latin-1")
    try:
        _LOOP.run_until_complete(_TOKENS.principal(text))
    except UnauthenticatedError:
        return
    assert text == _GOOD, "a token that nobody signed opened"


def signed_request(data: bytes) -> None:
    """Of a request as header, path, query and body by lines, what was not signed is refused, and nothing else happens."""
    header, path, query, body = (data.split(b"\n", 3) + [b""] * 3)[:4]
    signed = Signed("POST", path.decode("latin-1"), query.decode("latin-1"), _SENT, body)
    try:
        check_signature(parse_authorization(header.decode("latin-1")), signed, _SECRET, now=_NOW)
    except UnauthenticatedError:
        return
    assert _AUTHORIZATION.rpartition("=")[2].encode() in header, "a request that nobody signed was accepted"


_SECRET = "f" * 64
_REQUEST = AWSRequest("POST", "http://a/compat/aws/recommendations", data=b"{}")
SigV4Auth(Credentials("aisle_shop_0123456789ab", _SECRET), "personalize", "eu-west-1").add_auth(_REQUEST)
_AUTHORIZATION = _REQUEST.headers["Authorization"]
_SENT = [("host", "a"), ("x-amz-date", _REQUEST.headers["X-Amz-Date"])]
_NOW = datetime.strptime(_REQUEST.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
_GOOD = token(_SIGNING, "ES256", exp=4_000_000_000)

TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "path": (path, (b"/v1/echo", b"/v1/files/a/b%2Fc:echo", b"/v1/shelves/1/books/2", b"/v1/%ff", b"/" * 100)),
    "json": (
        json_body,
        (b'{"stringField": "a", "int32Field": 1}', b'{"child": {"child": {}}}', b"[]", b'{"stringField": "\\ud800"}', b'{"a": 1e400}'),
    ),
    "filter": (
        filter_expression,
        (b'price <= 5000 AND categories:"venue"', b'NOT (a OR -attributes.city = "Porto")', b"((("),
    ),
    "signature": (
        signed_request,
        (f"{_AUTHORIZATION}\n/compat/aws/recommendations\n\n{{}}".encode(), f"{_AUTHORIZATION}\n/a/../%2F\na=%zz&b\n".encode()),
    ),
    "token": (signed_token, (_GOOD.encode(), _GOOD.rpartition(".")[0].encode() + b".", b"e30.e30.e30", b"..")),
}
"""Name -> function and seeds."""
