"""By which names a listener may be addressed, and whose word counts for where a request came from."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from gateway.core.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.settings.types import Network

_WITH_PORT: Final = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\]):\d{1,5}")
_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")


class Hosts:
    """The `Host` headers that are answered: a shield against DNS rebinding and forged links.

    A name without a port stands for itself on every port, a name with one for exactly that.
    """

    def __init__(self, names: Iterable[str], bound: str) -> None:
        """`names` are the listener's `hosts`; without any, `bound` (an IP or `localhost`) and localhost count."""
        self._names = frozenset(name.lower() for name in names) or frozenset(
            (*_LOCAL, f"[{bound}]" if ":" in bound else bound)
        )

    def __contains__(self, host: str) -> bool:
        host = host.lower()
        if host in self._names:
            return True
        found = _WITH_PORT.fullmatch(host)
        return found is not None and found[1] in self._names

    def check(self, host: str, origin: str | None, setting: str) -> None:
        """Raise `Refusal` for a foreign `Host`, and for an `Origin` that is not the host that was asked.

        Browsers send `Origin`; pages of other sites, and of other ports of this machine, have no
        business here. `setting` is the configuration key that names the hosts.
        """
        if host not in self:
            raise Refusal(
                "origin_refused",
                "this listener does not answer for the host that was asked; use one of its own names, "
                f"or have the operator add the name to {setting}",
                detail=f"Host: {host!r}",
            )
        if origin is not None and origin.lower().removeprefix("https://").removeprefix("http://") != host.lower():
            raise Refusal(
                "origin_refused",
                "requests from web pages of another origin are refused; call from a program, not from a page",
                detail=f"Origin: {origin!r}",
            )


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address nearest to us that is no trusted proxy: the connection's own, or one of `X-Forwarded-For`.

    Proxies append, so the list is read from its end, and what an untrusted hop wrote does not count.
    """
    address = peer
    for entry in reversed(",".join(forwarded).split(",")):
        if not _is_trusted(address, trusted):
            return address
        text = entry.strip(" \t")
        try:
            address = str(ipaddress.ip_address(text))
        except ValueError:
            return address
    return address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in trusted)
