"""What operators see of this node and do to its connections. http-api.md section 7."""

import asyncio
import resource
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from wukong import __version__
from wukong.clock import Clock
from wukong.service.replica import Pace
from wukong.session.registry import LocalSession, Registry

KICK_REASON = 12
KICK_TEXT = "server kick"
KICK_CLOSE_MS = 2_000

DEFAULT_LIMIT = 20
MAX_LIMIT = 10_000

_LEVEL_MASTER = 1
_DEVICES = {0: "App", 1: "Web", 2: "PC"}
_UNKNOWN_DEVICE = "未知"
_LOCAL = "本地连接"
_STATM = Path("/proc/self/statm")


class ConnectionFacts(Protocol):
    """One session's socket as the gateway describes it: times in unix ms, counters since its login."""

    @property
    def ip(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def last_activity_ms(self) -> int: ...
    @property
    def uptime_ms(self) -> int: ...
    @property
    def idle_ms(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def in_messages(self) -> int: ...
    @property
    def out_messages(self) -> int: ...
    @property
    def in_message_bytes(self) -> int: ...
    @property
    def out_message_bytes(self) -> int: ...
    @property
    def in_packets(self) -> int: ...
    @property
    def out_packets(self) -> int: ...
    @property
    def in_packet_bytes(self) -> int: ...
    @property
    def out_packet_bytes(self) -> int: ...


class Totals(Protocol):
    """All connections since the start of the process."""

    @property
    def in_messages(self) -> int: ...
    @property
    def out_messages(self) -> int: ...
    @property
    def in_bytes(self) -> int: ...
    @property
    def out_bytes(self) -> int: ...
    @property
    def slow_closed(self) -> int: ...


class Connections(Protocol):
    """The gateway, as far as operators need it."""

    @property
    def counters(self) -> Totals: ...
    @property
    def connections(self) -> int: ...
    def info(self, session: int) -> ConnectionFacts | None: ...
    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None: ...
    def drop(self, session: int) -> None: ...


class ConnectionShape(msgspec.Struct, frozen=True, gc=False):
    """An element of /connz."""

    id: int
    uid: str
    ip: str
    port: int
    last_activity: str
    uptime: str
    idle: str
    pending_bytes: int
    in_msgs: int
    out_msgs: int
    in_msg_bytes: int
    out_msg_bytes: int
    in_packets: int
    out_packets: int
    in_packet_bytes: int
    out_packet_bytes: int
    device: str
    device_id: str
    version: int
    proxy_type_format: str
    leader_id: int
    node_id: int


class ConnectionPage(NamedTuple):
    """total: sockets of this node, logged in or not, whatever the filter."""

    connections: list[ConnectionShape]
    now: str
    total: int
    offset: int
    limit: int


class Process(NamedTuple):
    """Figures of this process; memory in bytes, cpu in percent of one core since the last look."""

    version: str
    uptime: str
    connections: int
    users: int
    sessions: int
    tasks: int
    memory_bytes: int
    cpu: float
    in_messages: int
    out_messages: int
    in_bytes: int
    out_bytes: int
    slow_clients: int
    retry_queue: int


_Found = tuple[LocalSession, ConnectionFacts]
_SORTS: dict[str, Callable[[_Found], int]] = {
    "id": lambda found: found[0].number,
    "inMsg": lambda found: found[1].in_messages,
    "outMsg": lambda found: found[1].out_messages,
    "inMsgBytes": lambda found: found[1].in_message_bytes,
    "outMsgBytes": lambda found: found[1].out_message_bytes,
    "inPacket": lambda found: found[1].in_packets,
    "outPacket": lambda found: found[1].out_packets,
    "inPacketBytes": lambda found: found[1].in_packet_bytes,
    "outPacketBytes": lambda found: found[1].out_packet_bytes,
    "uptime": lambda found: found[1].uptime_ms,
    "idle": lambda found: found[1].idle_ms,
    "protoVersion": lambda found: found[1].version,
}


class Overview:
    def __init__(self, *, node_id: int, registry: Registry, connections: Connections, clock: Clock) -> None:
        self.node_id = node_id
        self._registry = registry
        self._connections = connections
        self._clock = clock
        self._started = clock.monotonic()
        self._cpu_seen = (self._started, time.process_time())

    async def connections(
        self, *, uid: str = "", offset: int = 0, limit: int = DEFAULT_LIMIT, sort: str = "id"
    ) -> ConnectionPage:
        """Sessions of this node whose uid contains `uid`. limit below 1: DEFAULT_LIMIT; at most MAX_LIMIT. sort: a name
        of http-api.md 7.1, with `Desc` behind it the other way round; an unknown one sorts by id."""
        limit = min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT
        offset = max(offset, 0)
        found = [session for session in self._registry.by_number.values() if uid in session.uid]
        descending = sort.endswith("Desc")
        key = sort.removesuffix("Desc")
        if key not in _SORTS or key == "id":
            # Only what is shown needs to be described.
            found.sort(key=lambda session: session.number, reverse=descending and key == "id")
            page = await self._described(found[offset : offset + limit])
        else:
            page = sorted(await self._described(found), key=_SORTS[key], reverse=descending)[offset : offset + limit]
        shapes = [self._shape(session, facts) for session, facts in page]
        now = format_time(self._clock.now_ms())
        return ConnectionPage(shapes, now, self._connections.connections, offset, limit)

    async def _described(self, sessions: Iterable[LocalSession]) -> list[_Found]:
        pace = Pace()
        found: list[_Found] = []
        for session in sessions:
            facts = self._connections.info(session.number)
            if facts is not None:
                found.append((session, facts))
            await pace.step()
        return found

    def _shape(self, session: LocalSession, facts: ConnectionFacts) -> ConnectionShape:
        level = "(主)" if session.level == _LEVEL_MASTER else "(从)"
        return ConnectionShape(
            session.number,
            session.uid,
            facts.ip,
            facts.port,
            format_time(facts.last_activity_ms),
            format_age(facts.uptime_ms),
            format_age(facts.idle_ms),
            facts.pending_bytes,
            facts.in_messages,
            facts.out_messages,
            facts.in_message_bytes,
            facts.out_message_bytes,
            facts.in_packets,
            facts.out_packets,
            facts.in_packet_bytes,
            facts.out_packet_bytes,
            _DEVICES.get(session.device_flag, _UNKNOWN_DEVICE) + level,
            session.device_id,
            session.version,
            _LOCAL,
            self.node_id,
            self.node_id,
        )

    def kick(self, uid: str, session: int) -> None:
        """Tell a client to go, and close its socket two seconds later. Nothing happens for an unknown one."""
        if self._is_of(uid, session):
            self._connections.end(session, reason=KICK_REASON, text=KICK_TEXT, close_after_ms=KICK_CLOSE_MS)

    def remove(self, uid: str, session: int) -> None:
        """Close a client's socket at once, without a frame; its SDK comes again."""
        if self._is_of(uid, session):
            self._connections.drop(session)

    def _is_of(self, uid: str, session: int) -> bool:
        found = self._registry.by_number.get(session)
        return found is not None and found.uid == uid

    def process(self) -> Process:
        sessions = self._registry.by_number.values()
        counters = self._connections.counters
        now = self._clock.monotonic()
        return Process(
            version=__version__,
            uptime=format_age(int((now - self._started) * 1000)),
            connections=self._connections.connections,
            users=len({session.uid for session in sessions}),
            sessions=len(sessions),
            tasks=len(asyncio.all_tasks()),
            memory_bytes=_memory_bytes(),
            cpu=self._cpu(now),
            in_messages=counters.in_messages,
            out_messages=counters.out_messages,
            in_bytes=counters.in_bytes,
            out_bytes=counters.out_bytes,
            slow_clients=counters.slow_closed,
            retry_queue=sum(len(session.unacked) for session in sessions if session.unacked),
        )

    def _cpu(self, now: float) -> float:
        used = time.process_time()
        since, used_then = self._cpu_seen
        self._cpu_seen = now, used
        return round(100 * (used - used_then) / (now - since), 1) if now > since else 0.0


def format_time(time_ms: int) -> str:
    """RFC 3339 with milliseconds, in the time zone of the server."""
    moment = datetime.fromtimestamp(time_ms // 1000).astimezone() + timedelta(milliseconds=time_ms % 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_age(age_ms: int) -> str:
    """1d2h3m4s, without leading parts that are 0."""
    seconds = max(age_ms, 0) // 1000
    parts = [(seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "m")]
    text = ""
    for value, unit in parts:
        if value or text:
            text += f"{value}{unit}"
    return f"{text}{seconds % 60}s"


def _memory_bytes() -> int:
    """Resident memory; where the system does not tell, the most there ever was."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
