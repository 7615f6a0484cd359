"""Where a connection may go: decided on the address that is about to be connected, not on a name.

A name is resolved long after the configuration was read and may lead anywhere by then (DNS
rebinding), and a custom resolver never sees IP literals. The socket factory sees every address of
every attempt, so the check is made there, on what the kernel is given.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any, Final

AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""An entry of `socket.getaddrinfo`."""

_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_][a-z0-9_-]{0,62}(?:\.[a-z0-9_][a-z0-9_-]{0,62})*\.?", re.IGNORECASE)
# A last label that looks like a number makes inet_aton read the whole name as an address (127.1, 0x7f.1).
_NUMERIC_END: Final = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?", re.IGNORECASE)

# What `ipaddress` calls global although it leads, or may lead, to the inside. An IPv6 address that
# carries an IPv4 one is refused as a whole: no public upstream needs to be reached through it.
_ALSO_INTERNAL: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "::/96",  # IPv4-compatible, RFC 4291 §2.5.5.1
        "::ffff:0:0/96",  # IPv4-mapped, RFC 4291 §2.5.5.2
        "::ffff:0:0:0/96",  # IPv4-translated (SIIT), RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # local NAT64, RFC 8215
        "2001::/32",  # Teredo, RFC 4380
        "2002::/16",  # 6to4, RFC 3056
        "5f00::/16",  # segment routing, RFC 9602
        "fec0::/10",  # site-local, RFC 3879
        "168.63.129.16/32",  # a cloud's wire server: public by number, internal in fact
    )
)


def is_internal(address: str) -> bool:
    """Whether a literal address is anything but a plain public unicast one; unreadable ones are."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return True
    return any(ip in network for network in _ALSO_INTERNAL if network.version == ip.version)


def is_loopback(address: str) -> bool:
    """Whether a literal address is 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def literal(host: str) -> str | None:
    """The host as a canonical IP literal, `None` for a name; raises `ValueError` for neither.

    Octal, hexadecimal, short and full-width forms of addresses are neither.
    """
    if host.isascii():
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            if _NAME.fullmatch(host) and not _NUMERIC_END.fullmatch(host):
                return None
        else:
            if "%" not in host:
                return str(ip)
    raise ValueError(f"{host!r} is neither a host name nor an IP address in its usual form")


class AddressForbidden(OSError):
    """The socket factory refused an address; an `OSError`, so that the next address of the name is tried."""


def socket_factory(host: str, *, allow_internal: bool) -> Callable[[AddrInfo], socket.socket]:
    """A factory for aiohttp's connector that refuses internal addresses of `host`.

    A host that is itself an IP literal was named by the configuration and is allowed; `localhost`
    is allowed to be loopback; anything internal else needs `allow_internal`.
    """
    unchecked = allow_internal or literal(host) is not None
    local = is_localhost(host)

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not unchecked and is_internal(str(address[0])) and not (local and is_loopback(str(address[0]))):
            raise AddressForbidden(f"{host} leads to the internal address {address[0]}")
        return socket.socket(family, kind, protocol)

    return make


def is_localhost(host: str) -> bool:
    """Whether a name is `localhost` or below it (RFC 6761 §6.3)."""
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
