"""From where a request comes: what pages of other origins, names of other owners and other machines may not do."""

from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def is_same_origin(request: web.Request) -> bool:
    """No browser that names an origin, or a page that this server itself has given out."""
    origin = request.headers.get("Origin")
    return origin is None or _authority(origin).netloc == request.host


def is_by_address(request: web.Request) -> bool:
    """The server was called by an IP address or localhost: a name may have been pointed here by whoever owns it."""
    host = ""
    try:
        host = _authority(f"//{request.host}").hostname or ""
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def is_from_here(request: web.Request) -> bool:
    """Whether it comes from this machine, and no proxy on it asks for somebody else."""
    return _is_loopback(request.remote) and not any(name in request.headers for name in _FORWARDED)


def _authority(url: str) -> SplitResult:
    """The parts of an address; empty ones for what is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_loopback(text: str | None) -> bool:
    try:
        address = ip_address(text or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
