"""A closed-loop HTTP/1.1 client in a process of its own: N connections, each sends again as soon as it was answered.

Reads a job from stdin: `{"host", "port", "requests" (base64, whole requests, sent in turn), "in_flight", "seconds"}` and prints
`{"count", "wall_s", "p50_ms", "p95_ms", "errors", "sample" (base64, the last body)}`. It knows of HTTP what these servers answer: a
`Content-Length` or chunks. A client library would cost more than some of the servers do.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time
from collections import Counter
from typing import Any

import uvloop


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Returns the status and the body of one reply (RFC 9112, sections 4 and 6).

    Raises:
        ConnectionError: The peer closed the connection, or sends neither a length nor chunks.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in fields.split(b"\r\n"))}
        code = int(status.split(b" ", 2)[1])
        if b"content-length" in headers:
            return code, await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            raise ConnectionError("a reply without a length")
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError:
        raise ConnectionError("the connection was closed") from None
    else:
        return code, body


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of one measurement. A connection that the server closes is an error and not opened again."""
    requests = itertools.cycle([base64.b64decode(one) for one in job["requests"]])
    took_ms: list[float] = []
    errors: Counter[str] = Counter()
    sample = b""
    connections = [await asyncio.open_connection(job["host"], job["port"], limit=1 << 20) for _ in range(job["in_flight"])]
    started = time.perf_counter()
    until = started + job["seconds"]

    async def loop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sample
        while (begun := time.perf_counter()) < until:
            writer.write(next(requests))
            try:
                code, body = await asyncio.wait_for(read_reply(reader), 60)
            except (ConnectionError, TimeoutError) as error:
                errors[str(error) or type(error).__name__] += 1
                return
            if code != 200:
                errors[f"HTTP {code} {body[:200]!r}"] += 1
                continue
            took_ms.append((time.perf_counter() - begun) * 1000)
            sample = body

    await asyncio.gather(*(loop(*one) for one in connections))
    wall = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    took_ms.sort()
    at = [took_ms[int(share * (len(took_ms) - 1))] if took_ms else 0.0 for share in (0.5, 0.95)]
    found = {"count": len(took_ms), "wall_s": wall, "p50_ms": at[0], "p95_ms": at[1], "errors": dict(errors)}
    return {**found, "sample": base64.b64encode(sample).decode()}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
