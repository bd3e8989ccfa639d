"""Tokens, certificates, rotation and guessing at a whole server, by both doors."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import code_pb2
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from aisle.v1 import item_service_pb2 as items
from aisle.v1 import personalization_service_pb2 as personalization
from server.app import Endpoints, serving
from server.domain import TenantId
from server.embedded import Parts
from server.errors import FailedPreconditionError, NotFoundError
from server.identity.keys import IssuerKeys
from server.inference import BuiltEncoder
from server.limits.guesses import TRIES
from server.store import Database
from server.store import keys as key_store
from tests.certificates import Authority
from tests.fixtures_server import Door, new_key, server_settings
from tests.unit.identity.issuer import AUDIENCE, ISSUER, private_key, public_jwk, token

Opener = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the server's certificate and its clients'."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def opened(parts: Parts, database: Database, encoder: BuiltEncoder, short_dir: Path, tenant_id: TenantId) -> Opener:
    """Opens a server with the settings that a test wants, and a tenant of the test's own."""

    @asynccontextmanager
    async def open_door(
        *, trust: ssl.SSLContext | None = None, credentials: grpc.ChannelCredentials | None = None, **values: Any
    ) -> AsyncIterator[Door]:
        key = await new_key(database, tenant_id)
        settings = server_settings(short_dir / f"identity-{tenant_id}", runtime="local", drain_s=1.0, require_key=True, **values)
        async with serving(settings, Endpoints(parts.database_url, parts.redis_url, ""), encoder) as doors:
            channel = (
                grpc.aio.secure_channel(doors.grpc_address, credentials) if credentials else grpc.aio.insecure_channel(doors.grpc_address)
            )
            async with channel, httpx.AsyncClient(base_url=doors.http_url, timeout=30, verify=trust or True) as http:
                yield Door(doors, channel, http, key)

    return open_door


async def _codes(door: Door, **options: Any) -> tuple[str, int]:
    """Returns what both doors say to a call that reads items."""
    try:
        await door.call("ItemService/ListItems", items.ListItemsRequest(), items.ListItemsResponse, **options)
        code = "OK"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    return code, (await door.rest("GET", "/v1/items", **options)).status_code


async def _watched(door: Door, trust: ssl.SSLContext, *, key: str = "") -> tuple[str, int]:
    """Returns what both doors say to a stream of a page, by gRPC and as the last frame of a WebSocket."""
    headers = {"x-api-key": key} if key else {}
    stream = door.channel.unary_stream("/aisle.v1.PersonalizationService/WatchPersonalization")
    request = personalization.WatchPersonalizationRequest(user="users/a").SerializeToString()
    try:
        await stream(request, timeout=60, metadata=tuple(headers.items())).read()
        code = "OK"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    address = door.serving.http_url.replace("https:", "wss:")
    async with connect(f"{address}/v1/users/a/personalization:watch", ssl=trust, additional_headers=headers) as socket:
        frame = json.loads(await asyncio.wait_for(socket.recv(), 60))
    return code, frame.get("error", {"code": 0})["code"]


async def test_tokens_of_the_issuer_open_their_tenant(opened: Opener, tenant_id: TenantId, tmp_path: Path) -> None:
    """A token opens what its scopes and roles say, for its tenant, by both doors; a wrong one is refused with the reason."""
    key = private_key("ES256")
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public_jwk(key, "k1", "ES256")]}))
    async with opened(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_keys=str(path)) as door:

        def made(**claims: Any) -> str:
            return token(key, "ES256", **{"tenant": tenant_id, **claims})

        assert await _codes(door, key=made(scope="items.read")) == ("OK", 200)
        assert await _codes(door, key=made(scope=None, roles=["viewer"])) == ("OK", 200)
        assert await _codes(door, key=made(scope="recommend")) == ("PERMISSION_DENIED", 403)
        assert await _codes(door, key=made(aud="other")) == ("UNAUTHENTICATED", 401)
        assert await _codes(door, key=made(tenant="nobody")) == ("UNAUTHENTICATED", 401)
        assert await _codes(door, key=made(tenant="no/tenant")) == ("UNAUTHENTICATED", 401)
        assert await _codes(door) == ("OK", 200)  # keys go on
        reply = await door.rest("GET", "/v1/items", key=made(aud="other"))
        assert "not for 'aisle'" in reply.json()["message"]
        created = await door.rest("POST", "/v1/items?itemId=a", key=made(scope=None, roles=["viewer"]), json={"title": "A"})
        assert created.status_code == 403
        created = await door.rest("POST", "/v1/items?itemId=a", key=made(scope=None, roles=["editor"]), json={"title": "A"})
        assert created.status_code == 200


async def test_a_token_is_a_wrong_key_where_no_issuer_is_set(opened: Opener) -> None:
    """Without an issuer no token opens."""
    async with opened() as door:
        assert await _codes(door, key=token(private_key("ES256"), "ES256")) == ("UNAUTHENTICATED", 401)


@dataclass
class _Published:
    """A key set on an HTTPS server, and how often it was asked for."""

    content: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    url: str = ""


@pytest.fixture
def published(authority: Authority) -> Iterator[_Published]:
    """An identity provider's JWKS over HTTPS."""
    state = _Published()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class's name
            state.asked += 1
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            """Says nothing."""

    files = authority.issue("localhost", dns=["localhost"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"https://localhost:{server.server_address[1]}/keys?all=1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


async def test_keys_over_https_are_cached_and_asked_for_sparingly(published: _Published, authority: Authority) -> None:
    """Known keys cost no request, made-up ids one in 30 s however many come, and an outage leaves known keys in use."""
    now_s = 1000.0
    key = private_key("ES256")
    published.content = json.dumps({"keys": [public_jwk(key, "k1", "ES256")]}).encode()
    keys = IssuerKeys(published.url, trust=authority.trust(), clock=lambda: now_s)
    assert all(await asyncio.gather(*(keys.find("k1") for _ in range(50))))
    assert published.asked == 1
    assert not any(await asyncio.gather(*(keys.find(f"made-up-{n}") for n in range(50))))
    assert published.asked == 1
    now_s += 31
    assert not any([await keys.find(f"made-up-{n}") for n in range(50)])
    assert published.asked == 2
    published.status = 503
    now_s += 700
    assert await keys.find("k1") is not None
    assert published.asked == 3


@pytest.mark.parametrize("fault", ["redirect", "huge", "no JSON", "unknown authority"])
async def test_keys_from_elsewhere_are_not_taken(published: _Published, authority: Authority, fault: str) -> None:
    """A redirect, an endless answer, something else than keys, or a server that nobody vouches for gives no keys, and no fault."""
    good = json.dumps({"keys": [public_jwk(private_key("ES256"), "k1", "ES256")]}).encode()
    published.content = {"huge": good + b" " * 2_000_000, "no JSON": b"<html>"}.get(fault, good)
    if fault == "redirect":
        published.status, published.headers = 302, {"location": "http://169.254.169.254/latest/meta-data"}
    trust = None if fault == "unknown authority" else authority.trust()
    keys = IssuerKeys(published.url, trust=trust, clock=lambda: 1e6)
    with pytest.raises(Exception, match="its keys cannot be read"):
        await keys.find("k1")


@pytest.mark.parametrize("source", ["http://id.example.org/keys", "ftp://x/y", "file:///etc/passwd"])
def test_keys_come_by_https_or_from_a_file(source: str) -> None:
    """Any other scheme is refused at the start."""
    with pytest.raises(FailedPreconditionError, match="use https:// or a file"):
        IssuerKeys(source)


async def test_certificates_open_what_the_file_says(opened: Opener, tenant_id: TenantId, authority: Authority, tmp_path: Path) -> None:
    """A listed certificate opens its tenant by both doors, an unlisted one needs a key, a stranger gets no connection."""
    server = authority.issue("localhost", dns=["localhost"], addresses=["127.0.0.1"])
    listed = authority.issue("backend", uris=["spiffe://example.org/backend"])
    named = authority.issue("reports")
    unlisted = authority.issue("someone")
    stranger = Authority(tmp_path).issue("backend", uris=["spiffe://example.org/backend"])
    clients = tmp_path / "clients.json"
    entries = {
        "URI:spiffe://example.org/backend": {"tenant": tenant_id, "scopes": ["items"]},
        "CN:reports": {"tenant": tenant_id, "roles": ["viewer"]},
    }
    clients.write_text(json.dumps(entries))
    values = {
        "tls_certificate": str(server.certificate),
        "tls_key": str(server.key),
        "tls_client_ca": str(authority.certificate),
        "tls_clients": str(clients),
    }
    async with opened(trust=authority.trust(listed), credentials=authority.channel(listed), **values) as door:
        assert door.serving.http_url.startswith("https://")
        assert await _codes(door, key="") == ("OK", 200)
        assert (await door.rest("POST", "/v1/items?itemId=a", key="", json={"title": "A"})).status_code == 200
        assert (await door.rest("GET", "/v1/users/a/profile", key="")).status_code == 403
        reply = await door.rest("GET", "/v1/items", key="")
        assert reply.headers["strict-transport-security"].startswith("max-age=")
        assert await _watched(door, authority.trust(listed)) == ("PERMISSION_DENIED", code_pb2.PERMISSION_DENIED)
        assert await _watched(door, authority.trust(listed), key=door.key) == ("OK", code_pb2.OK)
        for path in ("/v1/items", "/v1/users/a/personalization:watch"):
            foreign = await door.rest("GET", path, key="", headers={"origin": "https://elsewhere.example"})
            assert (foreign.status_code, "web page of another origin" in foreign.text) == (403, True)
        for files, code in ((named, ("OK", 200)), (unlisted, ("UNAUTHENTICATED", 401))):
            async with (
                grpc.aio.secure_channel(door.serving.grpc_address, authority.channel(files)) as channel,
                httpx.AsyncClient(base_url=door.serving.http_url, verify=authority.trust(files)) as http,
            ):
                assert await _codes(Door(door.serving, channel, http, ""), key="") == code
                assert await _codes(Door(door.serving, channel, http, door.key)) == ("OK", 200)
        for files in (stranger, None):
            async with grpc.aio.secure_channel(door.serving.grpc_address, authority.channel(files)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await Door(door.serving, channel, door.http, door.key).call(
                        "ItemService/ListItems", items.ListItemsRequest(), items.ListItemsResponse, timeout_s=5
                    )
                assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            async with httpx.AsyncClient(base_url=door.serving.http_url, verify=authority.trust(files)) as http:
                with pytest.raises(httpx.TransportError):
                    await http.get("/v1/items", headers={"x-api-key": door.key})


async def test_tls_below_1_2_is_refused_at_both_doors(opened: Opener, authority: Authority) -> None:
    """A client that speaks TLS 1.1 at most gets no connection; one that speaks 1.2 or 1.3 does."""
    server = authority.issue("localhost", dns=["localhost"], addresses=["127.0.0.1"])
    values = {"tls_certificate": str(server.certificate), "tls_key": str(server.key)}
    async with opened(trust=authority.trust(), credentials=authority.channel(None), **values) as door:
        assert await _codes(door) == ("OK", 200)
        for address in (door.serving.grpc_address, door.serving.http_address):
            host, _, port = address.rpartition(":")
            for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = authority.trust()
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.set_alpn_protocols(["h2"] if address == door.serving.grpc_address else ["http/1.1"])
                with pytest.warns(DeprecationWarning, match="TLSv1_1") if version is ssl.TLSVersion.TLSv1_1 else nullcontext():
                    context.minimum_version = context.maximum_version = version
                if version is ssl.TLSVersion.TLSv1_1:
                    with pytest.raises((ssl.SSLError, ConnectionError)):
                        await asyncio.open_connection(host, port, ssl=context)
                else:
                    _, writer = await asyncio.open_connection(host, port, ssl=context)
                    writer.close()


@pytest.mark.parametrize("wrong", ["missing", "other key", "key alone"])
async def test_unfit_tls_files_stop_the_start(opened: Opener, authority: Authority, tmp_path: Path, wrong: str) -> None:
    """A missing file, a key of another certificate, or one file without the other is refused with the settings' names."""
    files, other = authority.issue("localhost"), authority.issue("other")
    values = {
        "missing": {"tls_certificate": str(tmp_path / "none.pem"), "tls_key": str(files.key)},
        "other key": {"tls_certificate": str(files.certificate), "tls_key": str(other.key)},
        "key alone": {"tls_key": str(files.key)},
    }[wrong]
    with pytest.raises(FailedPreconditionError, match="AISLE_TLS_CERTIFICATE"):
        async with opened(**values):
            pass


async def test_guessing_locks_an_address_out_but_not_its_known_keys(
    opened: Opener, parts: Parts, database: Database, tenant_id: TenantId
) -> None:
    """After 20 wrong keys an address cannot have another looked up at either door; known keys and others go on."""
    redis = Redis.from_url(parts.redis_url) if not parts.redis_url.startswith("unix:") else Redis(unix_socket_path=parts.redis_url[7:])
    try:
        await redis.delete(*(f"aisle:{{guesses:203.0.113.7}}:{part}" for part in ("tries", "locked", "strikes")))
    finally:
        await redis.aclose()
    guesser, other = {"x-forwarded-for": "198.51.100.1, 203.0.113.7"}, {"x-forwarded-for": "203.0.113.8"}
    async with opened(trusted_proxies="127.0.0.0/8") as door:

        async def ask(key: str, headers: dict[str, str]) -> int:
            return (await door.rest("GET", "/v1/items", key=key, headers=headers)).status_code

        assert await ask(door.key, guesser) == 200
        codes = [await ask(f"aisle_{tenant_id}_{n:040d}", guesser) for n in range(TRIES + 5)]
        assert codes == [401] * TRIES + [429] * 5
        fresh = await new_key(database, tenant_id)
        assert await ask(fresh, guesser) == 429
        assert await ask(door.key, guesser) == 200
        assert await ask(fresh, other) == 200
        assert await ask(fresh, guesser) == 200  # known by now
        refused = await door.rest("GET", "/v1/items", key="x", headers=guesser)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        call = door.channel.unary_unary("/aisle.v1.ItemService/ListItems")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=(("x-api-key", f"aisle_{tenant_id}_{99:040d}"), ("x-forwarded-for", "203.0.113.7")))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_rotation_overlaps_and_use_is_noted(database: Database, tenant_id: TenantId) -> None:
    """The new key opens what the old one did; the old one opens until the overlap ends; a use is noted once in ten minutes."""
    async with database.tenant(tenant_id) as connection:
        old, record = await key_store.create_key(connection, ["items", "recommend"], display_name="shop")
    assert await key_store.authenticate(database, old)
    async with database.tenant(tenant_id) as connection:
        used = next(one for one in await key_store.list_keys(connection) if one.key_id == record.key_id)
        assert used.last_use_time is not None
        new, replacing = await key_store.rotate_key(connection, record.key_id, overlap=timedelta(days=1))
        assert (replacing.scopes, replacing.display_name, replacing.expire_time) == (record.scopes, "shop", None)
    for key in (old, new):
        found = await key_store.authenticate(database, key)
        assert found is not None
        assert found.scopes == {"items", "recommend"}
    async with database.tenant(tenant_id) as connection:
        listed = {one.key_id: one for one in await key_store.list_keys(connection)}
        assert listed[record.key_id].replaced_by == replacing.key_id
        assert listed[record.key_id].last_use_time == used.last_use_time
        assert listed[record.key_id].expire_time is not None
        with pytest.raises(FailedPreconditionError, match=replacing.key_id):
            await key_store.rotate_key(connection, record.key_id, overlap=timedelta(0))
        with pytest.raises(NotFoundError):
            await key_store.rotate_key(connection, "none", overlap=timedelta(0))
    async with database.tenant(tenant_id) as connection:
        await key_store.rotate_key(connection, replacing.key_id, overlap=timedelta(0))
    assert await key_store.authenticate(database, new) is None
