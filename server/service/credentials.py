"""Keys and tokens -> who they speak for."""

from __future__ import annotations

from server.domain.access import Principal
from server.errors import InvalidFieldError, UnauthenticatedError
from server.identity.tokens import Tokens, looks_like_token
from server.store import keys as key_store
from server.store.database import Database
from server.store.tenants import parse_tenant_id, tenant_exists


class Credentials:
    """Looks credentials up: keys in the database, tokens with their issuer's keys."""

    def __init__(self, database: Database, tokens: Tokens | None) -> None:
        """`tokens`: None where no issuer is configured; tokens are then keys that nobody issued."""
        self._database = database
        self._tokens = tokens

    async def principal(self, credential: str) -> Principal | None:
        """Returns who it speaks for; None for a key that nobody issued, or that expired or was revoked.

        Raises:
            UnauthenticatedError: A token is wrong; the message says how.
            UnavailableError: The database or the issuer cannot be reached.
        """
        if self._tokens is not None and looks_like_token(credential):
            principal = await self._tokens.principal(credential)
            await self._require_tenant(principal)
            return principal
        found = await key_store.authenticate(self._database, credential)
        return Principal(found.tenant_id, found.scopes, f"key:{found.key_id}") if found else None

    async def _require_tenant(self, principal: Principal) -> None:
        try:
            tenant_id = parse_tenant_id(principal.tenant_id)
        except InvalidFieldError as error:
            raise UnauthenticatedError(f"the token names {principal.tenant_id[:80]!r}, which is no tenant's name") from error
        async with self._database.tenant(tenant_id) as connection:
            if not await tenant_exists(connection, tenant_id):
                raise UnauthenticatedError(
                    f"the token names tenant {tenant_id}, which does not exist; run `aisle tenants create {tenant_id}`"
                )
