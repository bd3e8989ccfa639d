"""The async client for Aisle.

    async with AisleClient("127.0.0.1:50051", key=key) as client:
        reply = await client.recommend_items("u1", max_results=10, explain=True)

Errors are a tree under `AisleError`; retries follow AIP-194 and never pass the deadline.
"""

from aisle_client.client import AisleClient, Embedding, TextEmbeddings, UserEmbedding
from aisle_client.errors import (
    AbortedError,
    AisleError,
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from aisle_client.retries import Backoff
from aisle_client.tls import tls_credentials

__all__ = [
    "AbortedError",
    "AisleClient",
    "AisleError",
    "AlreadyExistsError",
    "Backoff",
    "DeadlineExceededError",
    "Embedding",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "TextEmbeddings",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UserEmbedding",
    "tls_credentials",
]
