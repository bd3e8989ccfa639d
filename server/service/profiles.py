"""Profiles as callers read and write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.cache import Cache
from server.domain import Profile, TenantId, UserId
from server.errors import NotFoundError, UnavailableError
from server.service.users import PROFILES, Users
from server.store import profiles as store
from server.store.database import Database


class Profiles:
    """The use cases around profiles."""

    def __init__(self, database: Database, cache: Cache, users: Users) -> None:
        self._database = database
        self._cache = cache
        self._users = users

    async def get(self, tenant_id: TenantId, user_id: UserId, *, token: str, deadline: float) -> Profile:
        """Returns a profile, with the events of the token.

        Raises:
            NotFoundError: Nothing is known of the user.
            UnavailableError: The database is down, or the token's events could not be read: here an old answer would be a wrong one.
        """
        if token:
            known = await self._users.known(tenant_id, user_id, token=token, deadline=deadline)
            if not known.consistent:
                raise UnavailableError("redis", "the events of consistency_token could not be read; retry, or leave the token out")
            profile = known.profile if known.profile.version or known.profile.history else None
        else:
            async with self._database.tenant(tenant_id) as connection:
                profile = await store.get_profile(connection, tenant_id, user_id)
        if profile is None:
            raise NotFoundError(f"users/{user_id}/profile")
        return profile

    async def update(self, tenant_id: TenantId, user_id: UserId, changes: Mapping[str, Any], *, version: int | None) -> Profile:
        """Sets fields of a profile, creating it if need be, and returns it.

        Raises:
            AbortedError: `version` is out of date.
        """
        async with self._database.tenant(tenant_id) as connection:
            profile = await store.update_profile(connection, tenant_id, user_id, changes, version=version)
        await self._cache.invalidate(tenant_id, PROFILES, [user_id])
        return profile

    async def delete(self, tenant_id: TenantId, user_id: UserId) -> None:
        """Deletes a profile and the user's events.

        Raises:
            NotFoundError: Nothing is known of the user.
        """
        async with self._database.tenant(tenant_id) as connection:
            existed = await store.delete_profile(connection, tenant_id, user_id)
        await self._users.forget(tenant_id, user_id)
        if not existed:
            raise NotFoundError(f"users/{user_id}/profile")
