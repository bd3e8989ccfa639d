"""JSON Web Tokens of one issuer (RFC 7519, RFC 9068): checked by its public keys, turned into tenant and scopes."""

from __future__ import annotations

from typing import Any

import jwt

from server.domain import TenantId
from server.domain.access import SCOPES, Principal, scopes_of_roles
from server.errors import UnauthenticatedError
from server.identity.keys import IssuerKeys

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by private keys alone: with a shared secret whoever can check a token can make one."""

LEEWAY_S = 30
"""What clocks may differ."""

_MOST_CHARS = 8192
_REQUIRED = ("exp", "iss", "aud", "sub")


def looks_like_token(credential: str) -> bool:
    """Returns whether it has a token's three parts. No API key has."""
    return credential.count(".") == 2


class Tokens:
    """Checks tokens."""

    def __init__(self, keys: IssuerKeys, *, issuer: str, audience: str, tenant_claim: str, roles_claim: str) -> None:
        """Stores its arguments.

        Args:
            keys: The issuer's.
            issuer: What `iss` must be, to the letter.
            audience: What `aud` must be or hold.
            tenant_claim: The claim that names the tenant.
            roles_claim: The claim that lists roles. Scopes come from it and from `scope` (or `scp`) together.
        """
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._tenant_claim = tenant_claim
        self._roles_claim = roles_claim

    async def principal(self, token: str) -> Principal:
        """Returns who the token speaks for, until it expires.

        Raises:
            UnauthenticatedError: It is malformed, expired, not of the issuer, not for us, or names no tenant; the message says which.
            UnavailableError: The issuer's keys cannot be had.
        """
        if len(token) > _MOST_CHARS:
            raise UnauthenticatedError(f"the token is longer than {_MOST_CHARS} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise UnauthenticatedError("the token is malformed; send the access token as the issuer gave it") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise UnauthenticatedError(f"tokens are signed by one of {', '.join(ALGORITHMS)}, not {str(algorithm)[:20]!r}")
        if not isinstance(key_id, str):
            raise UnauthenticatedError("the token names no key; its header needs `kid`")
        key = await self._keys.find(key_id)
        if key is None:
            raise UnauthenticatedError(f"the issuer has no key {key_id[:80]!r}")
        return self._principal(self._claims(token, key, algorithm))

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        if key.algorithm_name != algorithm and "alg" in _described(key):
            raise UnauthenticatedError(f"the issuer's key is for {key.algorithm_name}, the token says {algorithm}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError as error:
            raise UnauthenticatedError("the token has expired; get a new one", issued=True) from error
        except jwt.ImmatureSignatureError as error:
            message = "the token is of a time to come; set the issuer's clock and this server's, they may differ by 30 seconds"
            raise UnauthenticatedError(message, issued=True) from error
        except jwt.InvalidAudienceError as error:
            raise UnauthenticatedError(f"the token is not for {self._audience!r}; ask the issuer for that audience") from error
        except jwt.InvalidIssuerError as error:
            raise UnauthenticatedError(f"the token is not of {self._issuer!r}") from error
        except jwt.MissingRequiredClaimError as error:
            raise UnauthenticatedError(f"the token lacks the claim {error.claim!r}") from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            # A key of another kind than the algorithm is a TypeError of the library that checks.
            raise UnauthenticatedError("the token's signature or a claim is wrong") from error
        return claims

    def _principal(self, claims: dict[str, Any]) -> Principal:
        tenant = claims.get(self._tenant_claim)
        if not isinstance(tenant, str) or not tenant:
            raise UnauthenticatedError(f"the token names no tenant; the claim {self._tenant_claim!r} must be one's name")
        named = _words(claims.get("scope", claims.get("scp")))
        scopes = (named & set(SCOPES)) | scopes_of_roles(_words(claims.get(self._roles_claim)))
        return Principal(TenantId(tenant), scopes, f"token:{claims['sub']}", float(claims["exp"]) + LEEWAY_S)


def _described(key: jwt.PyJWK) -> dict[str, Any]:
    """Returns the key as the issuer wrote it: PyJWT puts an algorithm where it names none."""
    described: dict[str, Any] = key._jwk_data  # noqa: SLF001  # there is no other way to see whether `alg` was there
    return described


def _words(value: Any) -> frozenset[str]:
    """Returns the words of a claim that is a list, or a string with spaces."""
    if isinstance(value, str):
        return frozenset(value.split())
    return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()
