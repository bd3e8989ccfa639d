"""Ways to write a stream of JSON messages into one HTTP reply."""

from __future__ import annotations

from collections.abc import Callable

from server.gateway.accept import choose

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
JSON_ARRAY = "application/json"
OFFERED = (NDJSON, SSE, JSON_ARRAY)
"""Best first: what a caller gets who does not say."""
ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-json-stream": NDJSON}
RETRY_MS = 2000
"""How long an `EventSource` waits before it connects again."""


class TruncatedError(Exception):
    """A raw stream failed after its beginning: only a broken connection can say so."""


class Frames:
    """NDJSON, framed as grpc-gateway has it: a line `{"result":...}` a message, `{"error":...}` the last of a stream that failed."""

    content_type = NDJSON
    idle = b""
    """Sent while no message comes; empty for nothing."""

    def start(self) -> bytes:
        """Returns what stands before the first message."""
        return b""

    def message(self, text: bytes) -> bytes:
        """Returns the frame of a message. `text` is JSON on one line."""
        return b'{"result":' + text + b"}\n"

    def error(self, text: bytes) -> bytes:
        """Returns the last frame of a stream that failed. `text` is a `google.rpc.Status` as JSON."""
        return b'{"error":' + text + b"}\n"

    def end(self) -> bytes:
        """Returns the last frame of a stream that ended well."""
        return b""


class ServerSentEvents(Frames):
    """Events for `EventSource`: `message` with an id that counts, `error` or `end` as the last, comments as heartbeat.

    `EventSource` takes every end of a connection for a fault and connects again, so a page has to close it at `end` and `error`.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    content_type = SSE
    idle = b": idle\n\n"

    def __init__(self, last_id: str = "") -> None:
        """Counts on from the last id that the caller has seen, so that ids do not repeat when it connects again."""
        self._id = int(last_id) if last_id.isascii() and last_id.isdecimal() and len(last_id) < 16 else 0

    def start(self) -> bytes:
        """Returns the time to wait before connecting again."""
        return f"retry: {RETRY_MS}\n\n".encode()

    def message(self, text: bytes) -> bytes:
        """Returns an event with the next id."""
        self._id += 1
        return b"id: %d\ndata: %b\n\n" % (self._id, text)

    def error(self, text: bytes) -> bytes:
        """Returns the event `error`."""
        return b"event: error\ndata: " + text + b"\n\n"

    def end(self) -> bytes:
        """Returns the event `end`."""
        return b"event: end\ndata: {}\n\n"


class JsonArray(Frames):
    """One JSON array, an element a line. Of a stream that failed the last element is `{"error":...}`."""

    content_type = JSON_ARRAY
    idle = b"\n"

    def __init__(self) -> None:
        self._next = b""

    def start(self) -> bytes:
        """Returns the bracket."""
        return b"["

    def message(self, text: bytes) -> bytes:
        """Returns an element."""
        before, self._next = self._next, b",\n"
        return before + text

    def error(self, text: bytes) -> bytes:
        """Returns the last element and the bracket."""
        return self._next + b'{"error":' + text + b"}]\n"

    def end(self) -> bytes:
        """Returns the bracket."""
        return b"]\n"


def frames_for(accept: str, last_id: str) -> Frames | None:
    """Returns how to write a stream for a caller, or None if it takes none of the ways."""
    kind = choose(accept, [*OFFERED, *ALIASES])
    makers: dict[str, Callable[[], Frames]] = {NDJSON: Frames, SSE: lambda: ServerSentEvents(last_id), JSON_ARRAY: JsonArray}
    return None if kind is None else makers[ALIASES.get(kind, kind)]()


class Raw(Frames):
    """The bytes of `google.api.HttpBody` messages, one after the other. Its content type is that of the first."""

    content_type = "application/octet-stream"

    def message(self, text: bytes) -> bytes:
        """Returns the bytes."""
        return text

    def error(self, text: bytes) -> bytes:
        """Raises TruncatedError: bytes have no place for an error."""
        raise TruncatedError(text.decode())
