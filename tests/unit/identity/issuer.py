"""An identity provider in small: keys, their JWKS, and tokens."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://id.example.org/"
AUDIENCE = "aisle"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private_key(algorithm: str) -> PrivateKey:
    """Returns a fresh key for the algorithm."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm])
    return rsa.generate_private_key(65537, 2048)


def public_jwk(key: PrivateKey, key_id: str, algorithm: str, **fields: Any) -> dict[str, Any]:
    """Returns the public half as a JWK."""
    handler: Any = get_default_algorithms()[algorithm]
    return {**json.loads(handler.to_jwk(key.public_key())), "kid": key_id, "use": "sig", **fields}


def token(key: Any, algorithm: str = "RS256", key_id: str | None = "k1", **changes: Any) -> str:
    """Returns a good token, but for the changes; a claim that is None is left out."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 300, "tenant": "shop", "scope": "recommend", **changes}
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm, headers=headers)
