"""Addresses of nodes as text, and where a link without a secret may go: nowhere but this machine."""

import asyncio
import socket
from ipaddress import IPv6Address, ip_address

MAX_ADDRESS_CHARS = 255


def split_address(text: str) -> tuple[str, int] | None:
    """host:port or [host]:port of a node, at most MAX_ADDRESS_CHARS; None for anything else."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    # Digits of other scripts count as digits too, and int() takes not all of them.
    if len(text) > MAX_ADDRESS_CHARS or not host or not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    return (host, int(port)) if 0 < int(port) <= 65_535 else None


def is_loopback(host: str) -> bool:
    """Whether a numeric address is of this machine alone; False for names."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


async def resolve(host: str, port: int) -> list[str]:
    """Numeric addresses of a host, without doubles. An empty host is every address. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
