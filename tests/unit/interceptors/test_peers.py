"""Whose address counts."""

from __future__ import annotations

from typing import Literal

import pytest

from server.interceptors.call import Call
from server.interceptors.peers import address_of, caller_address, parse_networks
from server.limits.guesses import network

_PROXIES = parse_networks("10.0.0.0/8, 2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # a caller may write what it likes
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.0.0.1", "10.3.3.3,10.2.2.2", "10.3.3.3"),
        ("2001:db8:1::5", "2001:db8:2::9", "2001:db8:2::9"),
        ("10.0.0.1", "nonsense", "nonsense"),
        ("", "198.51.100.1", ""),
    ],
)
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_only_trusted_proxies_are_believed(door: Literal["grpc", "http"], peer: str, forwarded: str, address: str) -> None:
    """The address is the peer's, or the last one that a trusted proxy speaks for; what stands before that is hearsay."""
    said = ", ".join(part for part in (forwarded, peer if door == "http" else "") if part)
    call = Call(method="/a/b", door=door, metadata={"x-forwarded-for": said} if said else {}, deadline=0, loopback=False, peer=peer)
    assert caller_address(call, _PROXIES) == address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5", "127.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::1"),
        ("ipv6:[::1]:5", "::1"),
        ("unix:", ""),
        ("unix:/x", ""),
    ],
)
def test_grpc_names_of_peers_are_read(peer: str, address: str) -> None:
    """Port, brackets and escapes are not part of an address; a unix socket has none."""
    assert address_of(peer) == address


def test_addresses_of_one_subscriber_count_as_one() -> None:
    """An IPv6 subscriber has a /64; an IPv4 address is one, mapped or not; what is no address is itself, cut."""
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network("fe80::1%eth0") == network("fe80::2")
    assert network("x" * 1000) == "x" * 64
