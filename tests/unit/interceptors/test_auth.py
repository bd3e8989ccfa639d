"""Keys to tenants: how long a look-up counts, and what opens during an outage."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from server.domain import TenantId
from server.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from server.interceptors.auth import Auth, Principal
from server.interceptors.call import Call

ANN = Principal(TenantId("ann"), frozenset({"items"}))


class Keys:
    """A look-up under control, and its clock."""

    def __init__(self) -> None:
        self.issued = {"k": ANN}
        self.asked = 0
        self.down = False
        self.hangs = False
        self.now_s = 1000.0
        self.auth = Auth(self.lookup, local=None, clock=lambda: self.now_s)

    async def lookup(self, key: str) -> Principal | None:
        """Returns who a key is."""
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.down:
            raise UnavailableError("database", "is down")
        return self.issued.get(key)

    async def opens(self, key: str = "k", method: str = "/aisle.v1.ItemService/GetItem") -> TenantId:
        """Returns the tenant that a call with the key is let in as."""
        call = Call(method=method, door="grpc", metadata={"x-api-key": key}, deadline=1e9, loopback=True)

        async def answer(_call: Call, _request: Message) -> Message:
            return Empty()

        await self.auth(call, Empty(), answer)
        return call.tenant_id


async def test_a_key_is_looked_up_once_in_30_seconds() -> None:
    """Calls within 30 s of a look-up do not ask again; the first one after does."""
    keys = Keys()
    for _ in range(3):
        assert await keys.opens() == "ann"
        keys.now_s += 9.9
    assert keys.asked == 1
    keys.now_s += 1
    await keys.opens()
    assert keys.asked == 2


async def test_a_revoked_key_stops_within_30_seconds() -> None:
    """A key that was revoked opens nothing 30 s after its last look-up, and is asked for at each try from then on."""
    keys = Keys()
    await keys.opens()
    del keys.issued["k"]
    keys.now_s += 29.9
    assert await keys.opens() == "ann"
    keys.now_s += 0.1
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            await keys.opens()
    assert keys.asked == 3


@pytest.mark.parametrize("fault", ["down", "hangs"])
async def test_known_keys_open_during_an_outage(fault: str) -> None:
    """While look-ups fail or hang, a key seen in the last ten minutes opens, at the cost of one look-up in 5 s; older ones do not."""
    keys = Keys()
    await keys.opens()
    setattr(keys, fault, True)
    keys.now_s += 60
    for _ in range(4):
        assert await keys.opens() == "ann"
        keys.now_s += 1
    assert keys.asked == 2
    keys.now_s = 1000 + 601
    with pytest.raises((UnavailableError, TimeoutError)):
        await keys.opens()
    setattr(keys, fault, False)
    assert await keys.opens() == "ann"


async def test_an_unknown_key_is_unavailable_while_nobody_can_look() -> None:
    """A key that was never seen is not called wrong while the database is down."""
    keys = Keys()
    keys.down = True
    with pytest.raises(UnavailableError):
        await keys.opens()


async def test_a_scope_opens_its_service_alone() -> None:
    """A key with one scope opens that service's methods, and is told which scope another needs."""
    keys = Keys()
    assert await keys.opens() == "ann"
    with pytest.raises(PermissionDeniedError) as caught:
        await keys.opens(method="/aisle.v1.PersonalizationService/GeneratePersonalization")
    assert caught.value.metadata == {"scope": "recommend"}
