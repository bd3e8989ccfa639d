"""Keys to tenants: how long a look-up counts, what opens during an outage, and that guessing keeps nobody else out."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from server.domain import TenantId
from server.domain.access import Principal
from server.errors import OverloadedError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from server.interceptors.auth import Auth
from server.interceptors.call import Call
from server.limits.guesses import TRIES, Guesses
from server.stream.connection import connect

SCOPES = {"/aisle.v1.ItemService/GetItem": "items.read", "/aisle.v1.PersonalizationService/GeneratePersonalization": "recommend"}
ANN = Principal(TenantId("ann"), frozenset({"items"}))


class Keys:
    """A look-up under control, and its clock."""

    def __init__(self) -> None:
        self.issued = {"k": ANN}
        self.asked = 0
        self.down = False
        self.hangs = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.now_s = 1000.0
        self.auth = Auth(self.lookup, local=None, scopes=SCOPES, clock=lambda: self.now_s)

    async def lookup(self, key: str) -> Principal | None:
        """Returns who a key is."""
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
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
    """A key that was revoked opens nothing 30 s after its last look-up, and is asked for every 5 s from then on."""
    keys = Keys()
    await keys.opens()
    del keys.issued["k"]
    keys.now_s += 29.9
    assert await keys.opens() == "ann"
    keys.now_s += 0.1
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            await keys.opens()
        keys.now_s += 2
    assert keys.asked == 2
    keys.now_s += 2
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
    with pytest.raises(UnavailableError):
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


async def test_calls_with_one_new_key_share_a_look_up() -> None:
    """Two hundred first calls of one client ask once, and one that gives up takes nothing from the others."""
    keys = Keys()
    keys.gate.clear()
    calls = [asyncio.create_task(keys.opens()) for _ in range(200)]
    await asyncio.sleep(0.05)
    calls[0].cancel()
    await asyncio.sleep(0.05)
    keys.gate.set()
    assert await asyncio.gather(*calls[1:]) == ["ann"] * 199
    assert keys.asked == 1


async def test_guessing_keys_takes_few_connections_and_keeps_nobody_out() -> None:
    """Of 500 wrong keys at once four are looked up at a time, those past the queue are refused, and a known key opens meanwhile."""
    keys = Keys()
    await keys.opens()
    keys.gate.clear()
    guesses = [asyncio.create_task(keys.opens(f"guess-{number}")) for number in range(500)]
    await asyncio.sleep(0.05)
    assert keys.most_at_once == 4
    assert await keys.opens() == "ann"
    keys.gate.set()
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(one, OverloadedError) for one in outcomes) == 500 - 64
    assert sum(isinstance(one, UnauthenticatedError) for one in outcomes) == 64


async def test_expired_tokens_lock_no_address_out() -> None:
    """More tokens that only have expired than an address has tries leave it open, as after a clock was set; as many guesses lock it."""
    nowhere = connect("redis://127.0.0.1:1", timeout_s=1.0)  # this process counts for itself
    guesses = Guesses(nowhere)

    async def lookup(key: str) -> Principal | None:
        if key.startswith("expired"):
            raise UnauthenticatedError("the token has expired; get a new one", issued=True)
        return None

    auth = Auth(lookup, local=None, scopes=SCOPES, guesses=guesses)

    async def send(key: str) -> None:
        metadata = {"x-api-key": key}
        call = Call(method="/aisle.v1.ItemService/GetItem", door="grpc", metadata=metadata, deadline=1e9, loopback=False, peer="192.0.2.1")
        with pytest.raises(UnauthenticatedError):
            await auth.principal(call)

    for number in range(2 * TRIES):
        await send(f"expired-{number}")
    guesses.check("192.0.2.1")
    for number in range(TRIES):
        await send(f"guess-{number}")
    with pytest.raises(OverloadedError):
        guesses.check("192.0.2.1")
    await nowhere.aclose()
