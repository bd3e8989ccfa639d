"""Which tokens open, and with what."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from server.domain.access import ROLES
from server.errors import UnauthenticatedError
from server.identity.keys import IssuerKeys
from server.identity.tokens import ALGORITHMS, Tokens, looks_like_token
from tests.unit.identity.issuer import AUDIENCE, ISSUER, PrivateKey, private_key, public_jwk, token


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    """A private key for each algorithm; RSA algorithms share one."""
    rsa = private_key("RS256")
    return {name: rsa if name[:2] in {"RS", "PS"} else private_key(name) for name in ALGORITHMS}


@pytest.fixture(scope="module")
def tokens(keys: dict[str, PrivateKey], tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """The checker, with every key under its algorithm's name, and `k1` for RSA."""
    path = tmp_path_factory.mktemp("issuer") / "jwks.json"
    described = [public_jwk(key, name, name) for name, key in keys.items()]
    described += [
        public_jwk(keys["RS256"], "k1", "RS256"),
        public_jwk(keys["RS256"], "strict", "RS256", alg="RS256"),
        public_jwk(keys["RS256"], "secret", "RS256", use="enc"),
    ]
    path.write_text(json.dumps({"keys": described}))
    return Tokens(IssuerKeys(str(path)), issuer=ISSUER, audience=AUDIENCE, tenant_claim="tenant", roles_claim="roles")


async def _refused(tokens: Tokens, credential: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens.principal(credential)
    return caught.value.message


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_of_each_algorithm_opens(tokens: Tokens, keys: dict[str, PrivateKey], algorithm: str) -> None:
    """A token signed by any of the asymmetric algorithms is taken, with its tenant, scopes and end."""
    found = await tokens.principal(token(keys[algorithm], algorithm, algorithm, exp=2_000_000_000))
    assert (found.tenant_id, found.scopes, found.credential, found.until_s) == ("shop", {"recommend"}, "token:ann", 2_000_000_030)


async def test_scopes_and_roles_add_up(tokens: Tokens, keys: dict[str, PrivateKey]) -> None:
    """Scopes come as words or as a list, roles as a list; those of other programs open nothing."""
    key = keys["RS256"]
    both = await tokens.principal(token(key, scope="items openid profile", roles=["viewer", "grafana"]))
    assert both.scopes == {"items"} | ROLES["viewer"]
    assert (await tokens.principal(token(key, scope=None, scp=["events", 7]))).scopes == {"events"}
    assert (await tokens.principal(token(key, scope=None, roles="owner"))).scopes == {"admin"}
    assert (await tokens.principal(token(key, scope=None))).scopes == frozenset()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"exp": None}, "'exp'"),
        ({"exp": "soon"}, "wrong"),
        ({"nbf": 10**10}, "to come"),
        ({"iat": 10**10}, "to come"),
        ({"iss": "https://id.example.org"}, "not of 'https://id.example.org/'"),
        ({"iss": None}, "'iss'"),
        ({"aud": "other"}, "not for 'aisle'"),
        ({"aud": ["a", "b"]}, "not for 'aisle'"),
        ({"aud": None}, "'aud'"),
        ({"sub": None}, "'sub'"),
        ({"tenant": None}, "names no tenant"),
        ({"tenant": ["shop"]}, "names no tenant"),
        ({"padding": "x" * 8192}, "longer than 8192"),
    ],
)
async def test_a_wrong_claim_is_named(tokens: Tokens, keys: dict[str, PrivateKey], changes: dict[str, Any], says: str) -> None:
    """A token with one thing wrong is refused, and its holder is told what."""
    assert says in await _refused(tokens, token(keys["RS256"], **changes))


async def test_only_the_issuers_private_keys_can_sign(tokens: Tokens, keys: dict[str, PrivateKey]) -> None:
    """Refused: no signature, a shared secret, the public key used as one, another's key, an encryption key, an algorithm not the key's."""
    public = keys["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    body = token(keys["RS256"]).split(".")[1]
    parts = [base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode(), body]
    import hashlib
    import hmac

    mac = hmac.new(public, ".".join(parts).encode(), hashlib.sha256).digest()
    confused = ".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=").decode()])
    assert "'HS256'" in await _refused(tokens, confused)
    assert "'none'" in await _refused(tokens, token(None, "none"))
    assert "'HS256'" in await _refused(tokens, token("s" * 32, "HS256"))
    assert "signature" in await _refused(tokens, token(private_key("RS256")))
    assert "signature" in await _refused(tokens, token(keys["ES256"], "ES256", "k1"))
    assert "no key 'secret'" in await _refused(tokens, token(keys["RS256"], key_id="secret"))
    assert "no key 'made-up'" in await _refused(tokens, token(keys["RS256"], key_id="made-up"))
    assert "`kid`" in await _refused(tokens, token(keys["RS256"], key_id=None))
    assert "is for RS256" in await _refused(tokens, token(keys["RS256"], "RS512", "strict"))
    good = token(keys["RS256"])
    assert "signature" in await _refused(tokens, good[:-6] + ("A" if good[-6] != "A" else "B") + good[-5:])


@given(st.text(max_size=200) | st.tuples(*[st.text("abcdefgABC-_=", max_size=40)] * 3).map(".".join))
async def test_no_text_is_a_fault(text: str) -> None:
    """Whatever comes as a token is refused in order, never by an unexpected exception."""
    checker = Tokens(IssuerKeys("/nonexistent"), issuer=ISSUER, audience=AUDIENCE, tenant_claim="tenant", roles_claim="roles")
    with pytest.raises(UnauthenticatedError):
        await checker.principal(text)


async def test_deep_json_in_a_header_is_refused(tokens: Tokens) -> None:
    """A header nested beyond the interpreter's stack is a malformed token."""
    deep = base64.urlsafe_b64encode(b"[" * (2 * sys.getrecursionlimit())).rstrip(b"=").decode()
    assert "malformed" in await _refused(tokens, f"{deep}.e30.e30")


def test_no_key_looks_like_a_token() -> None:
    """Keys have no dots."""
    assert not looks_like_token("aisle_shop_" + "a" * 40)
    assert looks_like_token("a.b.c")


async def test_keys_are_read_again_from_a_file_that_changed(tmp_path: Path) -> None:
    """A key that the issuer begins to use opens within half a minute, and while the keys cannot be read those known go on."""
    now_s = 1000.0
    old, new = private_key("ES256"), private_key("ES256")
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public_jwk(old, "old", "ES256")]}))
    keys = IssuerKeys(str(path), clock=lambda: now_s)
    assert await keys.find("old") is not None
    path.write_text(json.dumps({"keys": [public_jwk(new, "new", "ES256")]}))
    assert await keys.find("new") is None
    now_s += 30
    assert await keys.find("new") is not None
    assert await keys.find("old") is None
    path.write_text("{")
    now_s += 601
    assert await keys.find("new") is not None
