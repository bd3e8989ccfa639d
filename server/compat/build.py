"""Puts the other systems' APIs before the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from server.compat.aws import api as aws
from server.compat.aws import events
from server.compat.aws.filter_cache import Filters
from server.compat.aws.runtime import Runtime
from server.compat.aws.signing_keys import SigningKey, SigningKeys
from server.compat.exchange import Api, Compatibility
from server.compat.kserve import rest as kserve
from server.compat.openai import api as openai
from server.compat.segment import api as segment
from server.domain.access import Principal
from server.gateway.http import AsgiApp
from server.inference import BuiltEncoder, TextEncoder
from server.interceptors.call import Call, Dispatcher
from server.service.catalogues import Catalogues
from server.service.users import Users
from server.store.database import Database
from server.store.keys import signing_key


@asynccontextmanager
async def with_compatibility(
    gateway: AsgiApp,
    dispatcher: Dispatcher,
    *,
    principal: Callable[[Call], Awaitable[Principal]],
    database: Database,
    catalogues: Catalogues,
    users: Users,
    built: BuiltEncoder,
    encoder: TextEncoder,
    max_body_bytes: int,
    default_timeout_s: float,
) -> AsyncIterator[AsgiApp]:
    """Yields an application that answers at the paths of other systems' APIs, and at all others as the gateway does.

    Args:
        gateway: Answers the rest.
        dispatcher: Answers the calls.
        principal: Says who a call's credential is.
        database: Holds signing keys and filters.
        catalogues: The items in memory.
        users: What is known of users.
        built: The files of the text encoder.
        encoder: It, serving.
        max_body_bytes: A larger request body is refused with 413.
        default_timeout_s: Deadline of a request without `grpc-timeout`.
    """

    async def lookup(access_key_id: str, timeout_s: float) -> SigningKey | None:
        found = await signing_key(database, access_key_id, timeout_s=timeout_s)
        if found is None:
            return None
        secret, credential = found
        return SigningKey(secret, Principal(credential.tenant_id, credential.scopes, f"key:{credential.key_id}"))

    filters = Filters(database)
    runtime = Runtime(principal, filters, catalogues, users)
    apis: dict[str, Api] = {
        aws.PREFIX: aws.AwsApi(
            {
                **events.OPERATIONS,
                "/recommendations": runtime.get_recommendations,
                "/personalize-ranking": runtime.get_personalized_ranking,
            },
            SigningKeys(lookup),
        ),
        openai.PREFIX: openai.OpenAiApi(encoder, principal, created_s=int(built.onnx.stat().st_mtime)),
        segment.PREFIX: segment.SegmentApi(),
        kserve.PREFIX: kserve.KserveApi(),
    }
    async with database.listen("aisle_changes", filters.on_notice):
        yield Compatibility(gateway, dispatcher, apis, max_body_bytes=max_body_bytes, default_timeout_s=default_timeout_s)
