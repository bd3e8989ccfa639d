"""An issuer's public keys (JWKS, RFC 7517), from a file or over HTTPS."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

from server.errors import FailedPreconditionError, UnavailableError
from server.telemetry import logger

FRESH_S = 600.0
"""Keys are fetched anew after so long, so that a withdrawn one stops."""
KEPT_S = 24 * 3600.0
"""Keys are used for so long while they cannot be fetched."""
PAUSE_S = 30.0
"""At least this lies between two fetches: tokens with made-up key ids must not make us flood the issuer."""

_TIMEOUT_S = 5.0
_MOST_BYTES = 1024 * 1024
_log = logger(__name__)


class IssuerKeys:
    """The keys by id. An unknown id makes it look again, so that an issuer may begin to use a new key at any time."""

    def __init__(self, source: str, *, trust: ssl.SSLContext | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads nothing yet.

        Args:
            source: `https://HOST/PATH` or the path of a file. Redirects are not followed, and nothing in a token chooses where to look.
            trust: Whose certificates are believed. None: the system's authorities.
            clock: Seconds that only grow.

        Raises:
            FailedPreconditionError: It is neither.
        """
        if "://" in source and not source.startswith("https://"):
            raise FailedPreconditionError(f"AISLE_JWT_KEYS={source}: keys that come by plain HTTP can be anyone's; use https:// or a file")
        self._source = source
        self._trust = trust
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._read_s = -KEPT_S
        self._tried_s = -PAUSE_S
        self._reading = asyncio.Lock()

    async def find(self, key_id: str) -> PyJWK | None:
        """Returns the key; None if the issuer has none of that id.

        Raises:
            UnavailableError: The keys cannot be read, and have not been for a day.
        """
        known = key_id in self._keys
        if self._needed(key_id) and not (known and self._reading.locked()):  # whose key is known need not wait for the next set
            async with self._reading:
                if self._needed(key_id):
                    await self._read()
        if self._clock() - self._read_s >= KEPT_S:
            raise UnavailableError("issuer", "its keys cannot be read; retry, or see AISLE_JWT_KEYS")
        return self._keys.get(key_id)

    def _needed(self, key_id: str) -> bool:
        now = self._clock()
        return now - self._tried_s >= PAUSE_S and (key_id not in self._keys or now - self._read_s >= FRESH_S)

    async def _read(self) -> None:
        try:
            content = await asyncio.to_thread(self._content)
            keys = PyJWKSet.from_dict(json.loads(content)).keys
        except (OSError, http.client.HTTPException, ValueError, PyJWTError, AttributeError, TypeError) as error:
            _log.warning("issuer_keys_unreadable", source=self._source, error=repr(error), known=len(self._keys))
            return
        finally:
            self._tried_s = self._clock()
        self._keys = {key.key_id: key for key in keys if key.key_id and key.public_key_use in {None, "sig"}}
        self._read_s = self._clock()

    def _content(self) -> bytes:
        if not self._source.startswith("https://"):
            with Path(self._source).open("rb") as file:
                return _bounded(file.read(_MOST_BYTES + 1))
        parts = urlsplit(self._source)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_S, context=self._trust or ssl.create_default_context()
        )
        try:
            connection.request(
                "GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", headers={"accept": "application/json"}
            )
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise http.client.HTTPException(f"status {response.status}")
            return _bounded(response.read(_MOST_BYTES + 1))
        finally:
            connection.close()


def _bounded(content: bytes) -> bytes:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes")
    return content
