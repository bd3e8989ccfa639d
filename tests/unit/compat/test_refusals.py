"""Errors of Aisle in the forms that other systems' clients know."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from server.compat.aws.api import AwsApi
from server.compat.aws.signing_keys import SigningKey, SigningKeys
from server.compat.kserve.rest import KserveApi
from server.compat.segment.api import SegmentApi
from server.domain import TenantId
from server.domain.access import Principal
from server.errors import (
    AbortedError,
    AisleError,
    DeadlineExceededError,
    InvalidFieldError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from server.gateway.replies import HTTP_STATUS
from server.interceptors.status import status_of

FAULTS: dict[str, AisleError] = {
    "wrong": InvalidFieldError("numResults", "is wrong"),
    "none": NotFoundError("items/x"),
    "who": UnauthenticatedError("who"),
    "may not": PermissionDeniedError("no"),
    "met": AbortedError("met"),
    "busy": OverloadedError("busy", retry_after_s=2.0),
    "late": DeadlineExceededError("late"),
    "down": UnavailableError("redis", "down"),
    "ours": AisleError("ours"),
}


def said(api: Any, fault: str) -> tuple[int, Any, dict[str, str]]:
    """Returns status, body and headers of a refusal."""
    status = status_of(FAULTS[fault])
    reply = api.refusal(status, HTTP_STATUS[status.code])
    return reply.status, orjson.loads(reply.body), reply.headers


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        ("wrong", 400, "InvalidInputException"),
        ("none", 404, "ResourceNotFoundException"),
        ("who", 403, "UnrecognizedClientException"),
        ("may not", 403, "AccessDeniedException"),
        ("met", 409, "ResourceInUseException"),
        ("busy", 429, "ThrottlingException"),
        ("late", 503, "ServiceUnavailableException"),
        ("down", 503, "ServiceUnavailableException"),
        ("ours", 500, "InternalServerException"),
    ],
)
def test_aws_names_and_statuses(fault: str, status: int, name: str) -> None:
    """Each fault has the status and the name, in body and header, by which AWS's SDKs decide whether to repeat."""
    found, body, headers = said(AwsApi({}, SigningKeys(_nobody)), fault)
    assert (found, body["__type"], headers["x-amzn-errortype"]) == (status, name, name)


async def _nobody(_access_key_id: str, _timeout_s: float) -> SigningKey | None:
    return None


@pytest.mark.parametrize(("fault", "status"), [("wrong", 400), ("who", 401), ("busy", 429), ("down", 503), ("ours", 500)])
def test_segments_and_kserves_form(fault: str, status: int) -> None:
    """Segment's errors say `success: false`, KServe's are `{"error": TEXT}`, each under the status its clients repeat by."""
    found, body, _ = said(SegmentApi(), fault)
    assert (found, body["success"], body["message"]) == (status, False, FAULTS[fault].message)
    found, body, _ = said(KserveApi(), fault)
    assert (found, body) == (status, {"error": FAULTS[fault].message})


async def test_signing_keys_are_asked_for_once_and_outlive_a_short_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was seen signs on without a look-up, also past its time while the database is down; an unknown one is not asked twice."""
    asked: list[str] = []
    key = SigningKey("s", Principal(TenantId("shop"), frozenset({"aws"})))
    down = False

    async def lookup(access_key_id: str, timeout_s: float) -> SigningKey | None:
        asked.append(access_key_id)
        assert timeout_s > 0
        if down:
            raise UnavailableError("database", "down")
        return key if access_key_id == "good" else None

    now = [time.monotonic()]
    # The module's own name for it: the event loop's timers go by the real one.
    monkeypatch.setattr("server.compat.aws.signing_keys.time", SimpleNamespace(monotonic=lambda: now[0]))
    keys = SigningKeys(lookup)
    for name, found in (("good", key), ("good", key), ("bad", None), ("bad", None)):
        assert await keys.get(name, deadline=now[0] + 5) is found
    assert asked == ["good", "bad"]
    down = True
    now[0] += 60
    assert await keys.get("good", deadline=now[0] + 5) is key
    now[0] += 600
    with pytest.raises(UnavailableError):
        await keys.get("good", deadline=now[0] + 5)
