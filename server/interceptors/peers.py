"""Whose address a call comes from, behind proxies or not."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise

from server.interceptors.call import Call

FORWARDED = "x-forwarded-for"
"""Sent by a proxy, which speaks for callers of other addresses."""

Networks = Sequence[IPv4Network | IPv6Network]


def parse_networks(text: str) -> Networks:
    """Returns networks and addresses that are separated by commas.

    Raises:
        ValueError: One is neither.
    """
    return tuple(ip_network(word.strip()) for word in text.split(",") if word.strip())


def caller_address(call: Call, trusted: Networks) -> str:
    """Returns the address of whoever called: the peer, or where that is a trusted proxy, whom it or the one before it speaks for.

    Only what trusted proxies added is believed: a caller can write what it likes before that.
    """
    chain = [call.peer, *(part.strip() for part in reversed(call.metadata.get(FORWARDED, "").split(",")))]
    if call.door == "http" and len(chain) > 1 and chain[1] == call.peer:
        del chain[1]  # the HTTP door adds the peer itself
    address = chain[0]
    for before, after in pairwise(chain):
        if not after or not _within(before, trusted):
            break
        address = after
    return address


def _within(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in one for one in networks)


def address_of(peer: str) -> str:
    """Returns the address in gRPC's name of a peer, such as `ipv4:10.0.0.1:5000`; of a unix socket, empty."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%25")[0]
