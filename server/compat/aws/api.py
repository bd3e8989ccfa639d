"""The HTTP side: who signed, which operation, and errors as AWS's SDKs read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from server.compat.aws.signing_keys import SigningKeys
from server.compat.aws.sigv4 import Signed, check_signature, parse_authorization
from server.compat.exchange import Exchange, json_reply, only
from server.errors import NotFoundError, UnauthenticatedError
from server.gateway.replies import Reply

PREFIX = "/compat/aws"

Operation = Callable[[Exchange], Awaitable[Reply]]

_ERRORS: dict[int, tuple[int, str]] = {
    code_pb2.INVALID_ARGUMENT: (400, "InvalidInputException"),
    code_pb2.FAILED_PRECONDITION: (400, "InvalidInputException"),
    code_pb2.OUT_OF_RANGE: (400, "InvalidInputException"),
    code_pb2.NOT_FOUND: (404, "ResourceNotFoundException"),
    code_pb2.ALREADY_EXISTS: (409, "ResourceInUseException"),
    code_pb2.ABORTED: (409, "ResourceInUseException"),
    code_pb2.UNAUTHENTICATED: (403, "UnrecognizedClientException"),
    code_pb2.PERMISSION_DENIED: (403, "AccessDeniedException"),
    code_pb2.RESOURCE_EXHAUSTED: (429, "ThrottlingException"),
    code_pb2.UNAVAILABLE: (503, "ServiceUnavailableException"),
    code_pb2.DEADLINE_EXCEEDED: (503, "ServiceUnavailableException"),
}
"""gRPC code -> HTTP status and AWS's name. SDKs retry the last three by their status, and raise the modelled ones as classes."""


class AwsApi:
    """AWS Personalize's runtime and events services."""

    def __init__(self, operations: Mapping[str, Operation], keys: SigningKeys) -> None:
        """Stores its arguments.

        Args:
            operations: Path -> what answers POST there.
            keys: Know whose signature it is.
        """
        self._operations = operations
        self._keys = keys

    async def answer(self, exchange: Exchange) -> Reply:
        """Answers one operation.

        Raises:
            NotFoundError: No such operation.
        """
        operation = self._operations.get(exchange.path)
        if operation is None:
            raise NotFoundError(exchange.path[:100], f"no operation is at {exchange.path[:100]!r}; docs/compat.md lists those that are")
        only(exchange, "POST")
        reply = await operation(exchange)
        reply.headers["x-amzn-requestid"] = exchange.call.metadata["x-request-id"]
        return reply

    async def identify(self, exchange: Exchange) -> None:
        """Makes the signer the caller. A request without signature is left to what the gateway accepts: a key, or this machine.

        Raises:
            UnauthenticatedError: The signature does not hold, or nobody issued its access key id.
        """
        header = exchange.headers.get("authorization", "")
        if not header.startswith("AWS4"):
            return
        authorization = parse_authorization(header)
        key = await self._keys.get(authorization.access_key_id, deadline=exchange.call.deadline)
        if key is None:
            raise UnauthenticatedError(
                "the access key id is unknown, expired or revoked, or its key lacks the scope 'aws'; create one with "
                "`aisle keys create --scopes recommend,events,items,profiles,aws`, which prints it"
            )
        signed = Signed(exchange.method, exchange.full_path, exchange.query.decode("latin-1"), exchange.sent_headers, exchange.body)
        check_signature(authorization, signed, key.secret, now=datetime.now(UTC))
        exchange.call.signed_by = key.principal

    def refusal(self, status: Status, http_status: int) -> Reply:
        """Returns an error in AWS's form."""
        known = _ERRORS.get(status.code)
        if http_status in {405, 413, 415}:
            known = (http_status, "InvalidInputException")
        code, name = known or (500, "InternalServerException")
        return json_reply({"__type": name, "message": status.message}, code, x_amzn_errortype=name)
