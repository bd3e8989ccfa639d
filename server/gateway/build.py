"""Puts the HTTP door together."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor_pool import DescriptorPool

from server.gateway.asgi import IDLE_S, Gateway
from server.gateway.http import AsgiApp
from server.gateway.openapi import openapi_document
from server.gateway.operations import Ready, operation_pages
from server.gateway.policy import Policy
from server.gateway.reference import reference_pages
from server.gateway.rules import build_table
from server.interceptors.call import Dispatcher

ABOUT = """A personalization inference server: it ranks a tenant's items for each of its users, and learns from what they do.

A key comes as `authorization: Bearer KEY` or as `x-api-key: KEY`; on the server's own machine calls may come without. A call that must see
an earlier write carries the write's token in `x-aisle-consistency-token`."""


def build_gateway(
    dispatcher: Dispatcher,
    *,
    pool: DescriptorPool,
    comments: Mapping[str, str],
    ready: Ready,
    degraded: Ready | None = None,
    title: str,
    version: str,
    about: str = ABOUT,
    max_body_bytes: int,
    default_timeout_s: float,
    mounts: Mapping[str, AsgiApp],
    policy: Policy | None = None,
    idle_s: float = IDLE_S,
) -> Gateway:
    """Returns the ASGI application: transcoded routes, `/healthz/*`, `/metrics`, `/openapi.json`, `/docs`, and `mounts`.

    Args:
        dispatcher: Answers the calls.
        pool: Holds the types of its methods.
        comments: Full name -> comment, from `descriptors.load_set(...).comments`; they become the reference's text.
        ready: What keeps this process from serving.
        degraded: What is down while it serves on.
        title: Of the API, in the reference.
        version: Of the API, in the reference.
        about: First paragraph of the reference.
        max_body_bytes: A larger request body is refused with 413, a larger reply with 400.
        default_timeout_s: Deadline of a request without `grpc-timeout`; a stream without it has no end.
        mounts: Path -> application that answers before all others.
        policy: Headers, origins and caches; by default none beyond what every door has.
        idle_s: Seconds between the heartbeats of an idle stream.

    Raises:
        TemplateError: A method's HTTP rule is wrong.
    """
    table = build_table(dispatcher.methods)
    document = openapi_document(table, comments, title=title, version=version, about=about)
    return Gateway(
        dispatcher,
        table=table,
        pool=pool,
        max_body_bytes=max_body_bytes,
        default_timeout_s=default_timeout_s,
        pages={**operation_pages(ready, degraded), **reference_pages(document)},
        mounts=mounts,
        policy=policy or Policy(),
        idle_s=idle_s,
    )
