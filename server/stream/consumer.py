"""One member of the consumer group that drains a kind of stream of all tenants.

An entry leaves its stream only by `remove`. Until then it is delivered again: to this member after it restarts under the same name, or to
any member once it was left alone for `reclaim_idle_s`. So what handles entries must bear seeing one twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from server.domain import TenantId
from server.stream.connection import LOST, stream_key

PAYLOAD = b"p"
GROUP = "workers"
_DEAD_ENTRIES = 100_000
_FORGET = """
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local member = {}
  for at = 1, #fields, 2 do member[fields[at]] = fields[at + 1] end
  if member.pending == 0 and member.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], member.name)
  end
end
"""
"""In one step: a member that woke between the look and the deletion would lose what it was given."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stream entry as it was appended."""

    entry_id: str
    payload: bytes


class StreamConsumer:
    """Reads, removes and buries entries of `aisle:{TENANT}:STREAM`. For one task at a time.

    Reads all tenants' streams in one call, so it needs a Redis that is not sharded.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        stream: str,
        name: str,
        count: int = 50,
        block_s: float = 0.5,
        reclaim_idle_s: float = 5.0,
        forget_idle_s: float = 3600.0,
    ) -> None:
        """Stores the arguments.

        Args:
            client: Its timeout must exceed `block_s`.
            stream: `events` or `decisions`.
            name: This member's name; no two living processes may share one.
            count: Entries of one tenant a read returns at most.
            block_s: Seconds a read waits for entries.
            reclaim_idle_s: Seconds after which an entry that another member was given counts as abandoned.
            forget_idle_s: Seconds after which a member that was given nothing, or whose entries others took over, is struck off.
        """
        self.stream = stream
        self._redis = client
        self._name = name
        self._count = count
        self._block_s = block_s
        self._reclaim_idle_s = reclaim_idle_s
        self._forget_idle_s = forget_idle_s
        self._forget = client.register_script(_FORGET)
        self._grouped: set[TenantId] = set()
        self._own_first = True
        self._next_reclaim = 0.0
        self._next_forget = 0.0

    async def read(self, tenants: Sequence[TenantId]) -> dict[TenantId, list[Entry]]:
        """Returns entries to handle, by tenant: own ones left over, then abandoned ones, then new ones; none if none came in time.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is down. The next read starts with what this one may have been given.
        """
        try:
            await self._make_groups(tenants)
            if self._own_first:
                left = await self._read(tenants, "0", block_ms=None)
                if left:
                    return left
                self._own_first = False
            if time.monotonic() >= self._next_reclaim:
                abandoned = await self._reclaim(tenants)
                if abandoned:
                    return abandoned
                self._next_reclaim = time.monotonic() + self._reclaim_idle_s / 2
                await self._forget_idle(tenants)
            return await self._read(tenants, ">", block_ms=int(self._block_s * 1000))
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            # The stream was deleted, as when Redis lost its data. The next read makes the group anew.
            self._grouped.clear()
            return {}
        except LOST:
            self.recover()
            raise

    @property
    def recovering(self) -> bool:
        """Whether the next read returns entries that were delivered here before. Those still being handled would come twice."""
        return self._own_first

    def recover(self) -> None:
        """Makes the next read start with entries that were delivered here and not removed."""
        self._own_first = True
        self._grouped.clear()

    async def remove(self, tenant_id: TenantId, entry_ids: Sequence[str]) -> None:
        """Takes handled entries out of the group and the stream, both or neither.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is down; the entries will be delivered again.
        """
        if not entry_ids:
            return
        key = stream_key(tenant_id, self.stream)
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.xack(key, GROUP, *entry_ids)
                pipeline.xdel(key, *entry_ids)
                await pipeline.execute()
        except LOST:
            self.recover()
            raise

    async def bury(self, tenant_id: TenantId, payload: bytes, reason: str) -> None:
        """Writes a payload that cannot be handled to the dead-letter stream `aisle:{TENANT}:STREAM:dead`, beside the reason.

        To try again after mending: XADD its field `p` to the stream it came from.
        """
        fields: dict[Any, Any] = {PAYLOAD: payload, b"reason": reason[:500]}
        await self._redis.xadd(f"{stream_key(tenant_id, self.stream)}:dead", fields, maxlen=_DEAD_ENTRIES, approximate=True)

    async def lag(self, tenants: Sequence[TenantId]) -> dict[TenantId, int]:
        """Returns how many entries of each tenant are not yet handled."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for tenant_id in tenants:
                pipeline.xlen(stream_key(tenant_id, self.stream))
            return dict(zip(tenants, await pipeline.execute(), strict=True))

    async def _make_groups(self, tenants: Sequence[TenantId]) -> None:
        for tenant_id in tenants:
            if tenant_id in self._grouped:
                continue
            try:
                await self._redis.xgroup_create(stream_key(tenant_id, self.stream), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._grouped.add(tenant_id)

    async def _read(self, tenants: Sequence[TenantId], start: str, *, block_ms: int | None) -> dict[TenantId, list[Entry]]:
        streams: dict[Any, Any] = {stream_key(tenant_id, self.stream): start for tenant_id in tenants}
        answer: Any = await self._redis.xreadgroup(GROUP, self._name, streams, count=self._count, block=block_ms)
        owners = {stream_key(tenant_id, self.stream): tenant_id for tenant_id in tenants}
        return {owners[key.decode()]: _entries(rows) for key, rows in answer if rows}

    async def _reclaim(self, tenants: Sequence[TenantId]) -> dict[TenantId, list[Entry]]:
        found: dict[TenantId, list[Entry]] = {}
        idle_ms = int(self._reclaim_idle_s * 1000)
        for tenant_id in tenants:
            answer = await self._redis.xautoclaim(stream_key(tenant_id, self.stream), GROUP, self._name, idle_ms, "0-0", count=self._count)
            if answer[1]:
                found[tenant_id] = _entries(answer[1])
        return found

    async def _forget_idle(self, tenants: Sequence[TenantId]) -> None:
        """Strikes off members that are long gone: their names hold the id of a process, so the list would grow with every restart."""
        if time.monotonic() < self._next_forget:
            return
        for tenant_id in tenants:
            await self._forget(keys=[stream_key(tenant_id, self.stream)], args=[GROUP, int(self._forget_idle_s * 1000)])
        self._next_forget = time.monotonic() + self._forget_idle_s / 4


def _entries(rows: Sequence[Any]) -> list[Entry]:
    """Returns the entries of an answer. One deleted by hand while it was delivered has no fields, and so an empty payload."""
    return [Entry(row[0].decode(), (row[1] or {}).get(PAYLOAD, b"")) for row in rows if row is not None and row[0] is not None]
