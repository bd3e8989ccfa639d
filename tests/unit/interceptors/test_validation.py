from __future__ import annotations

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from aisle.v1 import recommendation_service_pb2 as pb
from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.interceptors.validation import validate

CALL = Call(method="/aisle.v1.RecommendationService/RecommendItems", door="grpc", metadata={}, deadline=0.0, loopback=True)


async def _answered(call: Call, request: Message) -> Message:
    del call, request
    return Empty()


@pytest.mark.parametrize("attributes", [1, 8])
async def test_a_request_is_refused_and_let_in_however_often_it_comes(attributes: int) -> None:
    """What breaks a rule is refused the second time as the first, what breaks none is let in, be it short or long."""
    context = pb.Context(attributes={f"a{number}": "h" * 100 for number in range(attributes)})
    good = pb.RecommendItemsRequest(user="users/ann", max_results=5, context=context)
    bad = pb.RecommendItemsRequest(user="users/ann", max_results=-1, context=context)
    for _ in range(3):
        with pytest.raises(InvalidFieldError, match="max_results"):
            await validate(CALL, bad, _answered)
        assert await validate(CALL, good, _answered) == Empty()


async def test_equal_bytes_of_another_message_are_checked_by_its_own_rules() -> None:
    """A request that is right does not vouch for one of another type with the same bytes."""
    good = pb.GetDecisionRequest(name="decisions/" + "0" * 32)
    same = pb.ListSimilarItemsRequest.FromString(good.SerializeToString())
    await validate(CALL, good, _answered)
    with pytest.raises(InvalidFieldError, match="item"):
        await validate(CALL, same, _answered)
