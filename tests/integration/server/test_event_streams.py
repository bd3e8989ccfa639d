"""StreamEvents at a whole server, by gRPC and by WebSocket: answers in order, each batch for itself, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection, connect

from aisle.v1 import event_service_pb2 as pb
from aisle.v1 import personalization_service_pb2 as personalization
from aisle_client import AisleClient, UnavailableError
from server.app import Endpoints, Serving, serving
from server.domain import TenantId
from server.embedded import Parts
from server.inference import BuiltEncoder
from server.store import Database
from server.store.tenants import create_tenant
from tests.eventually import eventually
from tests.fixtures_server import Door, new_key, server_settings
from tests.integration.gateway.test_websocket import frames_of
from tests.redis_server import OwnRedis

_METHOD = "/aisle.v1.EventService/StreamEvents"
_PATH = "/v1/events:stream"
_ROOT = Path(__file__).resolve().parents[3]
Stream = grpc.aio.StreamStreamCall[Any, pb.StreamEventsResponse]


def _event(user: str, **fields: Any) -> pb.Event:
    return pb.Event(**{"event_id": uuid.uuid4().hex, "user": user, "item": "items/a", "event_type": "click", **fields})


def _batch(user: str, request_id: str = "", count: int = 1) -> pb.StreamEventsRequest:
    return pb.StreamEventsRequest(events=[_event(user) for _ in range(count)], request_id=request_id)


def _open(channel: grpc.aio.Channel, key: str) -> Stream:
    """Opens a stream whose requests are messages, or bytes as they are."""
    method = channel.stream_stream(
        _METHOD,
        request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
        response_deserializer=pb.StreamEventsResponse.FromString,
    )
    return method(metadata=(("authorization", f"Bearer {key}"),) if key else (), timeout=120)


@asynccontextmanager
async def _streaming(door: Door, *, key: str | None = None) -> AsyncIterator[Stream]:
    stream = _open(door.channel, door.key if key is None else key)
    try:
        yield stream
    finally:
        stream.cancel()


def _socket(door: Door, key: str | None = None) -> connect:
    headers = {"authorization": f"Bearer {door.key if key is None else key}"}
    return connect(f"ws://{door.serving.http_address}{_PATH}", additional_headers=headers)


async def _result(socket: ClientConnection) -> dict[str, Any]:
    frame = json.loads(await asyncio.wait_for(socket.recv(), 60))
    result: dict[str, Any] = frame["result"]
    return result


async def _history(door: Door, user: str, token: str) -> int:
    """Returns the events in a user's history as a reader with the token sees them."""
    request = pb.GetBehaviorPatternsRequest(user=user, consistency_token=token)
    reply = await door.call("EventService/GetBehaviorPatterns", request, pb.BehaviorPatterns)
    assert reply.consistent
    return reply.event_count


def _user() -> str:
    return f"users/stream-{uuid.uuid4().hex}"


def _gauge(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def _retry_s(status: Status) -> float:
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
    return retry.retry_delay.ToTimedelta().total_seconds()


async def test_each_batch_is_answered_in_order_and_seen_with_its_token(door: Door) -> None:
    """Answers carry the ids of their batches, in order, and a read with a batch's token sees its events, by gRPC."""
    user = _user()
    async with _streaming(door) as stream:
        for number in range(20):
            await stream.write(_batch(user, f"r{number}", count=3))
        await stream.done_writing()
        answers = [answer async for answer in stream]
    assert [(answer.request_id, answer.accepted_count) for answer in answers] == [(f"r{number}", 3) for number in range(20)]
    assert not any(answer.HasField("error") or answer.rejected for answer in answers)
    assert await _history(door, user, answers[-1].consistency_token) >= 3


async def test_events_stream_over_a_websocket(door: Door) -> None:
    """The same by a WebSocket: a frame a batch, and its token makes a reader see it while the stream is open."""
    async with _socket(door) as socket:
        for number in range(3):
            user = _user()
            event = {"eventId": uuid.uuid4().hex, "user": user, "item": "items/a", "eventType": "click"}
            await socket.send(json.dumps({"requestId": f"r{number}", "events": [event]}))
            answer = await _result(socket)
            assert (answer["requestId"], answer["acceptedCount"]) == (f"r{number}", 1)
            assert await _history(door, user, answer["consistencyToken"]) == 1
        await socket.send("")
        assert await frames_of(socket) == ([], 1000)


async def test_events_stream_as_lines(door: Door) -> None:
    """The same as lines of a request's body, answered as lines."""
    lines = b"".join(
        json.dumps({"requestId": str(number), "events": [{"user": _user(), "eventType": "view"}]}).encode() + b"\n" for number in range(3)
    )
    reply = await door.rest("POST", _PATH, content=lines, headers={"content-type": "application/x-ndjson"})
    assert reply.status_code == 200
    results = [json.loads(line)["result"] for line in reply.text.splitlines()]
    assert [(one["requestId"], one["acceptedCount"]) for one in results] == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_bad_batch_in_the_middle_is_answered_and_the_stream_goes_on(door: Door) -> None:
    """No events, too many, an id that is too long, bytes that are no message: each is told alone, and the batches after it are taken in."""
    user = _user()
    too_many = pb.StreamEventsRequest(events=[pb.Event()] * 1001, request_id="many")
    mixed = pb.StreamEventsRequest(events=[_event(user), _event(user, event_type="No Type"), _event("nobody")], request_id="mixed")
    said = [
        pb.StreamEventsRequest(request_id="none"),
        too_many,
        _batch(user, "x" * 129),
        b"\xff\xff\xff",
        mixed,
        _batch(user, "last"),
    ]
    async with _streaming(door) as stream:
        for one in said:
            await stream.write(one)
        await stream.done_writing()
        answers = [answer async for answer in stream]
    assert [answer.request_id for answer in answers] == ["none", "many", "", "", "mixed", "last"]
    assert [answer.error.code for answer in answers] == [code_pb2.INVALID_ARGUMENT] * 4 + [code_pb2.OK] * 2
    for answer, words in zip(answers, ("events", "events", "request_id", "published proto"), strict=False):
        assert words in answer.error.message
    assert answers[4].accepted_count == 1
    assert [(one.index, one.reason) for one in answers[4].rejected] == [(1, "INVALID_FIELD"), (2, "INVALID_FIELD")]

    async def both() -> bool:
        return await _history(door, user, answers[5].consistency_token) == 2

    await eventually(both)


async def test_a_bad_frame_in_the_middle_is_answered_and_the_stream_goes_on(door: Door) -> None:
    """A frame that is no JSON, or names a field that is none, is told with its number; the frame after it is taken in."""
    good = json.dumps({"events": [{"user": _user(), "eventType": "view"}]})
    async with _socket(door) as socket:
        for frame, words in (("{", "malformed JSON"), ('{"evnets": []}', "did you mean 'events'? (in frame 2)"), ("{}", "events")):
            await socket.send(frame)
            error = (await _result(socket))["error"]
            assert error["code"] == code_pb2.INVALID_ARGUMENT
            assert words in error["message"]
        await socket.send(good)
        assert (await _result(socket))["acceptedCount"] == 1


async def test_an_event_that_comes_by_both_ways_counts_once(door: Door) -> None:
    """A batch sent again, by another stream or by IngestEvents, counts once by its event ids."""
    user = _user()
    batch = _batch(user, count=2)
    for _ in range(2):
        async with _streaming(door) as stream:
            await stream.write(batch)
            assert (await stream.read()).accepted_count == 2
    reply = await door.call("EventService/IngestEvents", pb.IngestEventsRequest(events=batch.events), pb.IngestEventsResponse)
    assert await _history(door, user, reply.consistency_token) == 2


async def test_two_tenants_streams_do_not_meet(door: Door, database: Database) -> None:
    """Two tenants stream events of users of one name at the same time; each sees its own, and neither's token opens at the other's."""
    user = _user()
    doors = []
    for _ in range(2):
        tenant = TenantId(f"streams-{uuid.uuid4().hex[:12]}")
        async with database.system() as connection:
            await create_tenant(connection, tenant)
        doors.append(Door(door.serving, door.channel, door.http, await new_key(database, tenant, "events", "events.read")))
    async with _streaming(doors[0]) as ann, _streaming(doors[1]) as bob:
        for count in (1, 2):
            await ann.write(_batch(user, count=count))
            await bob.write(_batch(user, count=3))
        tokens = [[(await stream.read()).consistency_token for _ in range(2)] for stream in (ann, bob)]
    for one, own, count in ((doors[0], tokens[0], 3), (doors[1], tokens[1], 6)):

        async def counted(one: Door = one, own: Sequence[str] = own, count: int = count) -> bool:
            return await _history(one, user, own[-1]) == count

        await eventually(counted)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _history(doors[0], user, tokens[1][0])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("scopes", [(), ("recommend",)])
async def test_a_stream_needs_a_key_with_the_scope(door: Door, database: Database, tenant_id: TenantId, scopes: tuple[str, ...]) -> None:
    """An unknown key, or one without `events`, opens no stream at either door; nothing of it is read."""
    key = await new_key(database, tenant_id, *scopes) if scopes else "nonsense"
    code = grpc.StatusCode.PERMISSION_DENIED if scopes else grpc.StatusCode.UNAUTHENTICATED
    async with _streaming(door, key=key) as stream:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() is code
    async with _socket(door, key) as socket:
        frames, close = await frames_of(socket)
        assert (frames[0]["error"]["code"], close) == (code.value[0], 4000 + code.value[0])
    reply = await door.rest("POST", _PATH, key=key, content=b"{}\n", headers={"content-type": "application/x-ndjson"})
    assert reply.status_code == (403 if scopes else 401)


def _batches_answered(door: str) -> float:
    labels = {"method": "/aisle.v1.EventService/IngestEvents", "door": door, "code": "OK"}
    return REGISTRY.get_sample_value("aisle_call_seconds_count", labels) or 0.0


async def test_a_client_that_reads_no_answers_is_held_back(door: Door) -> None:
    """The same by gRPC: writes wait when answers are not read, and go on when they are; each batch is answered in the end."""
    most, sent = 300, 0
    batch = pb.StreamEventsRequest(events=[pb.Event(session_id="x" * 100)] * 1000)
    before = _batches_answered("grpc")
    async with _streaming(door) as stream:
        writing = asyncio.ensure_future(stream.write(batch))
        while sent < most and (await asyncio.wait({writing}, timeout=3))[0]:
            sent += 1
            writing = asyncio.ensure_future(stream.write(batch))
        assert _batches_answered("grpc") - before <= sent < most
        for _ in range(sent):
            assert len((await stream.read()).rejected) == 1000
        await writing
        assert len((await stream.read()).rejected) == 1000
        assert _batches_answered("grpc") - before == sent + 1


async def test_a_client_that_takes_no_answers_is_held_back(door: Door) -> None:
    """Answers that nobody takes stop the reading: of many batches with long answers the server takes in few, and goes on when they are."""
    most, sent = 300, 0
    body = json.dumps({"events": [{"sessionId": "x" * 100}] * 1000})
    before = _batches_answered("http")
    async with _socket(door) as socket:
        socket.transport.pause_reading()
        with contextlib.suppress(TimeoutError):
            while sent < most:
                sent += 1
                await asyncio.wait_for(socket.send(body), 3)  # a frame whose sending is given up waits in the buffer
        assert _batches_answered("http") - before < sent < most
        socket.transport.resume_reading()
        sender = asyncio.create_task(_send_all(socket, body, most - sent))
        for _ in range(most):
            assert len((await _result(socket))["rejected"]) == 1000
        await sender
        assert _batches_answered("http") - before == most


async def _send_all(socket: ClientConnection, body: str, count: int) -> None:
    for _ in range(count):
        await socket.send(body)


async def test_a_client_that_is_killed_leaves_nothing_behind(door: Door, tmp_path: Path) -> None:
    """When a client dies in the middle of its stream, the stream is closed, and what it was told is safe."""
    user = _user()
    open_before = _gauge("aisle_event_streams_open")
    program = tmp_path / "client.py"
    program.write_text(
        "import asyncio, sys\n"
        "from aisle.v1 import event_service_pb2 as pb\n"
        "from aisle_client import AisleClient\n"
        "async def batches():\n"
        "    while True:\n"
        "        yield [pb.Event(user=sys.argv[3], item='items/a', event_type='view')]\n"
        "async def main():\n"
        "    async with AisleClient(sys.argv[1], key=sys.argv[2]) as client:\n"
        "        async for answer in client.stream_events(batches()):\n"
        "            print(answer.consistency_token, flush=True)\n"
        "asyncio.run(main())\n"
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, str(program), door.serving.grpc_address, door.key, user,
        env={"PYTHONPATH": ":".join(str(_ROOT / part) for part in ("", "proto/gen", "clients/python"))}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    tokens = [(await asyncio.wait_for(client.stdout.readline(), 60)).decode().strip() for _ in range(20)]
    assert _gauge("aisle_event_streams_open") == open_before + 1
    client.send_signal(signal.SIGKILL)
    await client.communicate()

    async def closed() -> bool:
        return _gauge("aisle_event_streams_open") == open_before

    await eventually(closed)

    async def all_there() -> bool:
        return await _history(door, user, tokens[-1]) >= 20

    await eventually(all_there)


async def test_the_client_library_streams(door: Door) -> None:
    """`stream_events` yields an answer a batch, gives events ids, and raises what its caller's batches raise."""
    user = _user()
    sent = [[pb.Event(user=user, event_type="view")], [pb.Event(event_type="view")], []]

    async def batches(fault: Exception | None = None) -> AsyncIterator[list[pb.Event]]:
        for batch in sent:
            yield batch
        if fault is not None:
            raise fault

    async with AisleClient(door.serving.grpc_address, key=door.key) as client:
        async with aclosing(client.stream_events(batches())) as stream:
            answers = [answer async for answer in stream]
        assert [answer.request_id for answer in answers] == ["1", "2", "3"]
        assert [(answer.accepted_count, len(answer.rejected), answer.HasField("error")) for answer in answers] == [
            (1, 0, False), (0, 1, False), (0, 0, True),
        ]  # fmt: skip
        assert all(event.event_id for batch in sent for event in batch)
        with pytest.raises(ZeroDivisionError):
            [answer async for answer in client.stream_events(batches(ZeroDivisionError()))]


# --- servers of a test's own -------------------------------------------------------------------------------------


@dataclass
class Own:
    """A server of a test's own, and how to stop it."""

    door: Door
    stop: asyncio.Event
    stopped: asyncio.Task[None]


Opener = Callable[..., AbstractAsyncContextManager[Own]]


@pytest.fixture
def opened(parts: Parts, database: Database, encoder: BuiltEncoder, short_dir: Path, tenant_id: TenantId) -> Opener:
    """Opens a server with the settings that a test wants, and a tenant of the test's own."""

    @asynccontextmanager
    async def open_door(*, redis_url: str = "", **values: Any) -> AsyncIterator[Own]:
        key = await new_key(database, tenant_id)
        settings = server_settings(short_dir / f"streams-{tenant_id}", runtime="local", **{"drain_s": 20.0, **values})
        ready: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()

        async def serve() -> None:
            async with serving(settings, Endpoints(parts.database_url, redis_url or parts.redis_url, ""), encoder) as doors:
                ready.set_result(doors)
                await stop.wait()

        stopped = asyncio.create_task(serve())
        await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await stopped
        doors = ready.result()
        try:
            async with (
                grpc.aio.insecure_channel(doors.grpc_address) as channel,
                httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
            ):
                yield Own(Door(doors, channel, http, key), stop, stopped)
        finally:
            stop.set()
            await stopped

    return open_door


@pytest.fixture
async def own_redis(short_dir: Path) -> AsyncIterator[OwnRedis]:
    """A Redis that a test may pause and kill."""
    folder = short_dir / f"r{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    redis = OwnRedis(folder)
    await redis.start()
    try:
        yield redis
    finally:
        redis.resume()
        await redis.kill()


async def test_a_drain_answers_what_was_read_and_then_says_unavailable(opened: Opener, own_redis: OwnRedis) -> None:
    """A server that is stopped while batches wait for the log answers them all, by both doors, and ends the streams with UNAVAILABLE."""
    async with opened(redis_url=own_redis.url) as own:
        stream = _open(own.door.channel, own.door.key)
        socket = await _socket(own.door)
        frame = json.dumps({"events": [{"user": _user(), "eventType": "view"}]})
        await stream.write(_batch(_user()))
        assert (await stream.read()).accepted_count == 1
        await socket.send(frame)
        assert (await _result(socket))["acceptedCount"] == 1
        own_redis.pause()
        before = _gauge("aisle_calls_in_flight")
        for _ in range(3):
            await stream.write(_batch(_user()))
            await socket.send(frame)

        async def all_read() -> bool:
            return _gauge("aisle_calls_in_flight") == before + 6

        await eventually(all_read)
        own.stop.set()
        await asyncio.sleep(0.1)  # the stop is under way, whatever of it
        own_redis.resume()
        assert [(await stream.read()).accepted_count for _ in range(3)] == [1, 1, 1]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "another stream" in str(caught.value.details())
        frames, close = await frames_of(socket)
        assert [frame["result"]["acceptedCount"] for frame in frames[:3]] == [1, 1, 1]
        assert (frames[3]["error"]["code"], close) == (code_pb2.UNAVAILABLE, 4000 + code_pb2.UNAVAILABLE)
        await own.stopped


async def test_a_batch_that_the_log_has_not_is_not_acknowledged(opened: Opener, own_redis: OwnRedis) -> None:
    """While Redis is down a batch is answered with UNAVAILABLE; sent again when it is back, on the same stream, it is taken in."""
    async with opened(redis_url=own_redis.url) as own, _streaming(own.door) as stream:
        await own_redis.kill()
        batch = _batch(_user(), "again")
        await stream.write(batch)
        answer = await stream.read()
        assert (answer.request_id, answer.error.code, answer.accepted_count) == ("again", code_pb2.UNAVAILABLE, 0)
        await own_redis.start()

        async def taken() -> bool:
            await stream.write(batch)
            return (await stream.read()).accepted_count == 1

        await eventually(taken)


async def test_a_rate_counts_the_opening_and_each_batch(opened: Opener) -> None:
    """A key's tokens go to openings and batches; a batch beyond them is told when to come back, another stream is refused."""
    async with opened(key_rate=0.01, rate_burst_s=300) as own:
        async with _streaming(own.door) as stream:
            answers = []
            for _ in range(3):
                await stream.write(_batch(_user()))
                answers.append(await stream.read())
        assert [answer.error.code for answer in answers] == [code_pb2.OK, code_pb2.OK, code_pb2.RESOURCE_EXHAUSTED]
        assert 50 < _retry_s(answers[2].error) <= 100
        async with _streaming(own.door) as stream:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with _socket(own.door) as socket:
            assert (await frames_of(socket))[1] == 4000 + code_pb2.RESOURCE_EXHAUSTED


async def test_a_rate_counts_the_opening_of_a_watch(opened: Opener) -> None:
    """A server's stream costs its key a token at its opening, at both doors, and is refused without one."""
    path = "/v1/users/a/personalization:watch"
    async with opened(key_rate=0.01, rate_burst_s=200) as own:
        watch = own.door.channel.unary_stream("/aisle.v1.PersonalizationService/WatchPersonalization")
        request = personalization.WatchPersonalizationRequest(user="users/a").SerializeToString()

        def opening() -> Any:
            return watch(request, metadata=(("authorization", f"Bearer {own.door.key}"),), timeout=60)

        for _ in range(2):
            call = opening()
            await call.read()
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opening().read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = await own.door.rest("GET", path)
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
        headers = {"authorization": f"Bearer {own.door.key}"}
        async with connect(f"ws://{own.door.serving.http_address}{path}", additional_headers=headers) as socket:
            assert (await frames_of(socket))[1] == 4000 + code_pb2.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("slowdown", "words"), [(0.0, "1 calls are in flight"), (1.5, "more calls come than can be answered")])
async def test_streams_and_their_batches_pass_the_limits_of_load(opened: Opener, own_redis: OwnRedis, slowdown: float, words: str) -> None:
    """With one permit, a batch that waits for the log holds it: other batches, and openings of streams, are refused, by either limit."""
    async with opened(redis_url=own_redis.url, max_in_flight=1, max_slowdown=slowdown) as own, _streaming(own.door) as stream:
        await stream.write(_batch(_user()))
        assert (await stream.read()).accepted_count == 1
        own_redis.pause()
        before = _gauge("aisle_calls_in_flight")
        await stream.write(_batch(_user(), "first"))

        async def is_in() -> bool:
            return _gauge("aisle_calls_in_flight") == before + 1

        await eventually(is_in)
        await stream.write(_batch(_user(), "second"))
        for name in (_METHOD, "/aisle.v1.PersonalizationService/WatchPersonalization"):
            call = own.door.channel.stream_stream(name)(metadata=(("authorization", f"Bearer {own.door.key}"),), timeout=60)
            if name != _METHOD:
                await call.write(personalization.WatchPersonalizationRequest(user="users/a").SerializeToString())
                await call.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert words in str(caught.value.details())
        own_redis.resume()
        answers = [await stream.read() for _ in range(2)]
        assert [(answer.request_id, answer.error.code) for answer in answers] == [
            ("first", code_pb2.OK), ("second", code_pb2.RESOURCE_EXHAUSTED),
        ]  # fmt: skip
        assert words in answers[1].error.message
        assert _retry_s(answers[1].error) > 0


async def test_a_stream_without_a_key_is_refused(opened: Opener) -> None:
    """Where keys are required, a stream that shows none is refused at both doors."""
    async with opened(require_key=True) as own:
        async with _streaming(own.door, key="") as stream:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        async with connect(f"ws://{own.door.serving.http_address}{_PATH}") as socket:
            assert (await frames_of(socket))[1] == 4000 + code_pb2.UNAUTHENTICATED


async def test_streams_are_bounded(opened: Opener) -> None:
    """One stream more than AISLE_MAX_EVENT_STREAMS is refused by name, and let in when another has ended."""
    async with opened(max_event_streams=1) as own:
        async with _streaming(own.door) as stream:
            await stream.write(_batch(_user()))
            await stream.read()
            async with _streaming(own.door) as second:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await second.read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "AISLE_MAX_EVENT_STREAMS" in str(caught.value.details())

        async def let_in() -> bool:
            async with _streaming(own.door) as third:
                await third.write(_batch(_user()))
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return (await third.read()).accepted_count == 1
            return False

        await eventually(let_in)


@pytest.mark.parametrize("busy", [False, True])
async def test_the_client_library_says_that_a_server_stops(opened: Opener, busy: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """A stop reaches who iterates over answers as UnavailableError, with every answer before it."""
    async with opened() as own, AisleClient(own.door.serving.grpc_address, key=own.door.key) as client:
        said = asyncio.Event()

        async def batches() -> AsyncIterator[list[pb.Event]]:
            yield [_event(_user())]
            while busy:
                yield [_event(_user())]
            await said.wait()

        answers = client.stream_events(batches())
        assert (await anext(answers)).accepted_count == 1
        own.stop.set()
        with pytest.raises(UnavailableError, match="another stream"):
            [answer async for answer in answers]
        await own.stopped
