"""Whose word counts about a client's address: proxies that the operator has listed, nobody else's. Pure."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Peer = tuple[str, int]
"""(IP address, port); port 0 = not known."""


class TrustedProxies:
    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, host: str) -> bool:
        if not self._networks:
            return False
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, peer: Peer, headers: Mapping[str, str]) -> Peer:
        """Who is behind a WebSocket request that came from `peer`. headers: names in lower case.

        `X-Forwarded-For` is read from its end, where trusted proxies have written, up to the first address that is not
        a trusted proxy itself; what a client wrote before it is not believed. Else `X-Real-IP`. `X-Real-Port` gives the
        port (wkproto.md, section 9).
        """
        if not self.trusts(peer[0]):
            return peer
        client = ""
        for word in reversed(headers.get("x-forwarded-for", "").split(",")):
            address = _address(word.strip())
            if address is None:
                break
            client = str(address)
            if not self.trusts(client):
                break
        if not client:
            real = _address(headers.get("x-real-ip", "").strip())
            if real is None:
                return peer
            client = str(real)
        port = headers.get("x-real-port", "").strip()
        return client, int(port) if port.isascii() and port.isdigit() and 0 < len(port) <= 5 and int(
            port
        ) <= 0xFFFF else 0


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A listener for both families shows IPv4 peers as ::ffff:a.b.c.d.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
