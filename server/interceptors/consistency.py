"""Takes a consistency token from the metadata, for callers that pass headers on and never touch the request."""

from __future__ import annotations

from google.protobuf.message import Message

from server.interceptors.call import Call
from server.interceptors.chain import Handler

HEADER = "x-aisle-consistency-token"
_FIELD = "consistency_token"


async def take_token(call: Call, request: Message, handler: Handler) -> Message:
    """Puts the header's token into a request that has the field for one and none in it."""
    token = call.metadata.get(HEADER, "")
    if token and _FIELD in request.DESCRIPTOR.fields_by_name and not getattr(request, _FIELD):
        setattr(request, _FIELD, token)
    return await handler(call, request)
