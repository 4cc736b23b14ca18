"""How values are written: one `Kind` per sort of value, from text and back.

Every source gives text (or a list of texts); reading is pure and raises ValueError with what is wrong and what would
be right. The rules are those of the server we replace (http-api.md section 18): Go durations, lists split at white
space, zero standing for the default.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from wukong import limits
from wukong.limits import DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS

MASK = "***"

T = TypeVar("T")
Raw = str | list[str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """Where a listener binds. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def collides(self, other: "Address") -> bool:
        """Whether both cannot be bound at once on one machine."""
        same_host = self.host == other.host or not {"0.0.0.0", "::"}.isdisjoint({self.host, other.host})
        return self.port != 0 and self.port == other.port and same_host


class NodeAddress(NamedTuple):
    """`id@host:port`, how other nodes reach that node. As read, port 0 stands for the port of `cluster.addr`."""

    node_id: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.node_id}@{Address(self.host, self.port)}"


class Account(NamedTuple):
    """A console account. permissions: (resource, "r", "w" or "rw"), the resource `*` being all of them."""

    username: str
    password: str
    permissions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind(Generic[T]):
    """read: text to value, or ValueError. show: value to what a file would say, or to a mask. sensitive: the value may
    hold a password, so a repr must leave it out."""

    read: Callable[[Raw], T]
    show: Callable[[T], object]
    sensitive: bool = False


def _one(read: Callable[[str], T], show: Callable[[T], object], *, sensitive: bool = False) -> Kind[T]:
    def read_one(raw: Raw) -> T:
        if isinstance(raw, list):
            raise ValueError("takes one value, not a list")
        return read(raw.strip())

    return Kind(read_one, show, sensitive)


def _many(read: Callable[[str], T], show: Callable[[T], object], *, sensitive: bool = False) -> Kind[tuple[T, ...]]:
    def read_many(raw: Raw) -> tuple[T, ...]:
        return tuple(read(item.strip()) for item in (raw.split() if isinstance(raw, str) else raw))

    return Kind(read_many, lambda items: [show(item) for item in items], sensitive)


# --- flags, numbers, sizes, durations -------------------------------------------------------------------------------


def _read_flag(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "on", "yes", "1"):
        return True
    if lowered in ("false", "off", "no", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _in_range(value: int, low: int, high: int, show: Callable[[int], object]) -> int:
    # Zero passes: it stands for the default, which the caller puts in.
    if value and not low <= value <= high:
        raise ValueError(f"{show(value)} is out of range; give {show(low)} to {show(high)}")
    return value


def number(low: int = 1, high: int = 2**31 - 1) -> Kind[int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
            raise ValueError(f"{text!r} is not a whole number")
        return _in_range(int(text), low, high, str)

    return _one(read, lambda value: value)


_SIZE_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB}


def size(low_bytes: int, high_bytes: int) -> Kind[int]:
    """Bytes, plain or with KiB, MiB, GiB."""

    def read(text: str) -> int:
        match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text.lower(), re.ASCII)
        if match is None or match[2] not in _SIZE_UNITS:
            raise ValueError(f"{text!r} is not a size; write bytes, or a number with KiB, MiB or GiB")
        return _in_range(int(match[1]) * _SIZE_UNITS[match[2]], low_bytes, high_bytes, format_size)

    return _one(read, format_size)


OFF = 1
"""What `off` is read as: zero stands for the default everywhere."""


def size_or_off(low_bytes: int, high_bytes: int) -> Kind[int]:
    """A size, or OFF."""
    sized = size(low_bytes, high_bytes)

    def read(text: str) -> int:
        return OFF if text.lower() in ("off", "false", "no") else sized.read(text)

    return _one(read, lambda value: "off" if value == OFF else format_size(value))


def format_size(size_bytes: int) -> str:
    """The shortest exact form: 65536 -> "64KiB"."""
    for unit, unit_bytes in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return str(size_bytes)


_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # the micro sign, and below it the Greek letter: Go takes both
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_DURATION_PART = re.compile(r"([0-9]{1,15}\.?[0-9]{0,9}|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """A duration in Go's syntax, and `d` for days; a bare number is nanoseconds. Milliseconds, rounded up, so that
    only 0 is 0. Raises ValueError."""
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        text += "ns"
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write one like 500ms, 10s, 3m, 1h or 7d")
    total_ns = sum((Decimal(amount) * _UNITS_NS[unit] for amount, unit in parts), Decimal(0))
    return ceil(total_ns / 1_000_000)


def format_duration(duration_ms: int) -> str:
    """The shortest exact form: 180000 -> "3m"."""
    for unit, unit_ms in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)):
        if duration_ms and duration_ms % unit_ms == 0:
            return f"{duration_ms // unit_ms}{unit}"
    return f"{duration_ms}ms"


def duration(low_ms: int, high_ms: int = 3650 * DAY_MS) -> Kind[int]:
    """Milliseconds."""

    def read(text: str) -> int:
        try:
            return _in_range(parse_duration_ms(text), low_ms, high_ms, format_duration)
        except ValueError as fault:
            if text.isdigit():
                # The trap of Go's form: `connIdleTime: 180` is 180 nanoseconds.
                raise ValueError(f"{text} means nanoseconds; write a unit, like {text}s") from fault
            raise

    return _one(read, format_duration)


def choice(*options: str) -> Kind[str]:
    """One of the (lower-case) options, in any case."""

    def read(text: str) -> str:
        if text.lower() not in options:
            raise ValueError(f"{text!r} is unknown; give one of: {', '.join(options)}")
        return text.lower()

    return _one(read, str)


# --- addresses ------------------------------------------------------------------------------------------------------


def parse_address(text: str, scheme: str = "") -> Address:
    """`host:port`, `[v6]:port`, `:port` (all addresses) or `scheme://host:port`. Raises ValueError."""
    rest = text.removeprefix(f"{scheme}://").removesuffix("/") if scheme else text
    host, colon, port = rest.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or "/" in rest or (":" in host and not is_bracketed):
        raise ValueError(f"{text!r} is not an address; write {f'{scheme}://' if scheme else ''}HOST:PORT")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65_535:
        raise ValueError(f"the port of {text!r} is not a number up to 65535")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def address(scheme: str = "") -> Kind[Address]:
    prefix = f"{scheme}://" if scheme else ""
    return _one(lambda text: parse_address(text, scheme), lambda value: f"{prefix}{value}")


def _read_node(text: str) -> NodeAddress:
    node_id, at, host = text.partition("@")
    if not at or not host or not re.fullmatch(r"\d{1,9}", node_id, re.ASCII):
        raise ValueError(f"{text!r} is not a node; write ID@HOST:PORT")
    if not 1 <= int(node_id) <= limits.MAX_NODE_ID:
        raise ValueError(f"the id of {text!r} is out of range; give 1 to {limits.MAX_NODE_ID}")
    parsed = parse_address(host if ":" in host else f"{host}:0")
    return NodeAddress(int(node_id), parsed.host, parsed.port)


def _read_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # Not repeated: a URL may hold a password.
        raise ValueError("is not a URL; write http://HOST:PORT/PATH or https://HOST/PATH")
    return text


def _show_url(text: str) -> str:
    """Without what may be a password: user information and the query."""
    parts = urlsplit(text)
    netloc = f"{MASK}@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, query=MASK if parts.query else ""))


def _read_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address or network; write 10.0.0.1 or 10.0.0.0/8") from None


# --- accounts -------------------------------------------------------------------------------------------------------


def _read_account(text: str) -> Account:
    """`user:password:*` or `user:password:[resource:actions,...]`. Faults never repeat the password."""
    match = re.fullmatch(r"([^:\[\]]+):([^:\[\]]+):(?:\*|\[([^\[\]]*)\])", text)
    if match is None:
        raise ValueError("an entry is not an account; write NAME:PASSWORD:* or NAME:PASSWORD:[RESOURCE:rw,...]")
    username, password, permissions = match.groups()
    if permissions is None:
        return Account(username, password, (("*", "rw"),))
    pairs = [item.strip().partition(":") for item in permissions.split(",") if item.strip()]
    if any(not resource or actions not in _ACTIONS for resource, _, actions in pairs):
        raise ValueError(f"a permission of account {username!r} is unknown; write RESOURCE:r, :w, :rw or :*")
    return Account(username, password, tuple((resource, _ACTIONS[actions]) for resource, _, actions in pairs))


_ACTIONS = {"r": "r", "w": "w", "rw": "rw", "wr": "rw", "*": "rw"}


def _show_account(account: Account) -> str:
    rights = ",".join(f"{resource}:{actions}" for resource, actions in account.permissions)
    return f"{account.username}:{MASK}:[{rights}]"


text = _one(str, str)
secret = _one(str, lambda value: MASK if value else "", sensitive=True)
flag = _one(_read_flag, lambda value: value)
url = _one(_read_url, lambda value: _show_url(value) if value else "", sensitive=True)
path = _one(Path, str)
node = _one(_read_node, str)
words = _many(str, str)
nodes = _many(_read_node, str)
networks = _many(_read_network, str)
accounts = _many(_read_account, _show_account, sensitive=True)
