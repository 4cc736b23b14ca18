"""The configuration: WuKongIM's `wk.yaml` unchanged, or TOML, with `WK_` environment variables over either.

Strategy: every source is first brought to one form, lower-case key path -> text (or list of texts); each field of the
dataclasses below carries its key, how its text is read and its default; then come the values that follow from others;
then the checks that look at several keys. Faults are gathered, not raised one by one. What the keys do:
docs/configuration.md; the reading rules are those of the server we replace (http-api.md section 18).
"""

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import yaml

from wukong import limits
from wukong.errors import ConfigError
from wukong.limits import DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS

SYSTEM_UID = "____system"
SYSTEM_DEVICE_ID = "____device"
CMD_SUFFIX = "____cmd"
WEBHOOK_EVENTS = ("msg.notify", "msg.offline", "user.onlinestatus")
MASK = "***"

ENVIRONMENT_PREFIX = "WK_"

T = TypeVar("T")
D = TypeVar("D")
Raw = str | list[str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# --- how values are written -------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where a listener binds. An empty host in the file means all addresses; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or _is_loopback_ip(self.host)

    def collides(self, other: "Address") -> bool:
        """Whether both cannot be bound at once on one machine."""
        everywhere = {"0.0.0.0", "::"}
        same_host = self.host == other.host or not everywhere.isdisjoint({self.host, other.host})
        return self.port != 0 and self.port == other.port and same_host


class NodeAddress(NamedTuple):
    """`id@host:port`, how other nodes reach that node. port 0 as read means the port of `cluster.addr`."""

    node_id: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.node_id}@{Address(self.host, self.port)}"


class Account(NamedTuple):
    """A console account. permissions: (resource, actions), `*` being every resource and `rw` reading and writing."""

    username: str
    password: str
    permissions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one sort of value is read from text and shown again. read raises ValueError with what is wrong and what
    would be right; show gives what a file would say, or a mask."""

    read: Callable[[Raw], T]
    show: Callable[[T], object]


def _one(read: Callable[[str], T], show: Callable[[T], object]) -> Kind[T]:
    def read_one(raw: Raw) -> T:
        if isinstance(raw, list):
            raise ValueError("takes one value, not a list")
        return read(raw.strip())

    return Kind(read_one, show)


def _many(read: Callable[[str], T], show: Callable[[T], object]) -> Kind[tuple[T, ...]]:
    """A list; a text is split at white space."""

    def read_many(raw: Raw) -> tuple[T, ...]:
        return tuple(read(item.strip()) for item in (raw.split() if isinstance(raw, str) else raw))

    return Kind(read_many, lambda items: [show(item) for item in items])


def _read_flag(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "on", "yes", "1"):
        return True
    if lowered in ("false", "off", "no", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _in_range(value: int, low: int, high: int, show: Callable[[int], object]) -> int:
    # Zero stands for the default, as in the server we replace: its checked-in files say 0 where they mean "not set".
    if value and not low <= value <= high:
        raise ValueError(f"{show(value)} is out of range; give {show(low)} to {show(high)}")
    return value


def _number(low: int = 1, high: int = 2**31 - 1) -> Kind[int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text):
            raise ValueError(f"{text!r} is not a whole number")
        return _in_range(int(text), low, high, str)

    return _one(read, lambda value: value)


_SIZE_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB}


def _size(low: int, high: int) -> Kind[int]:
    """Bytes, plain or with KiB, MiB, GiB."""

    def read(text: str) -> int:
        match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text.lower())
        if match is None or match[2] not in _SIZE_UNITS:
            raise ValueError(f"{text!r} is not a size; write bytes, or a number with KiB, MiB or GiB")
        return _in_range(int(match[1]) * _SIZE_UNITS[match[2]], low, high, _show_size)

    return _one(read, _show_size)


def _show_size(size_bytes: int) -> str:
    for unit, unit_bytes in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return str(size_bytes)


_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_DURATION_PART = re.compile(r"(\d{1,15}\.?\d{0,9}|\.\d{1,9})(ns|us|µs|μs|ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """A duration in Go's syntax, and `d` for days; a bare number is nanoseconds. Milliseconds, rounded up, so that only
    0 is 0. Raises ValueError."""
    if re.fullmatch(r"\d{1,18}", text):
        text += "ns"
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write one like 500ms, 10s, 3m, 1h or 7d")
    total_ns = sum((Decimal(number) * _UNITS_NS[unit] for number, unit in parts), Decimal(0))
    return int(-(-total_ns // 1_000_000))


def format_duration(duration_ms: int) -> str:
    """The shortest exact form: 180000 -> "3m"."""
    for unit, unit_ms in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)):
        if duration_ms and duration_ms % unit_ms == 0:
            return f"{duration_ms // unit_ms}{unit}"
    return f"{duration_ms}ms"


def _duration(low_ms: int, high_ms: int = 3650 * DAY_MS) -> Kind[int]:
    def read(text: str) -> int:
        try:
            return _in_range(parse_duration_ms(text), low_ms, high_ms, format_duration)
        except ValueError as fault:
            if text.isdigit():
                # The one trap of Go's form: `connIdleTime: 180` is 180 nanoseconds.
                raise ValueError(f"{text} means nanoseconds; write a unit, like {text}s") from fault
            raise

    return _one(read, format_duration)


def _choice(*options: str) -> Kind[str]:
    def read(text: str) -> str:
        if text.lower() not in options:
            raise ValueError(f"{text!r} is unknown; give one of {', '.join(options)}")
        return text.lower()

    return _one(read, str)


def parse_address(text: str, scheme: str = "") -> Address:
    """`host:port`, `:port` or `scheme://host:port`. Raises ValueError."""
    example = f"{scheme}://0.0.0.0:5100" if scheme else "0.0.0.0:5001"
    rest = text.removeprefix(f"{scheme}://").removesuffix("/") if scheme else text
    host, colon, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or "/" in rest or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not an address; write one like {example}")
    if not re.fullmatch(r"\d{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"the port of {text!r} is not a number up to 65535")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def _address(scheme: str = "") -> Kind[Address]:
    return _one(
        lambda text: parse_address(text, scheme), lambda address: f"{scheme}://{address}" if scheme else str(address)
    )


def _read_node(text: str) -> NodeAddress:
    node_id, at, address = text.partition("@")
    if not at or not address or not re.fullmatch(r"\d{1,9}", node_id):
        raise ValueError(f"{text!r} is not a node; write one like 1001@10.0.0.1:11110")
    if not 1 <= int(node_id) <= limits.MAX_NODE_ID:
        raise ValueError(f"the id of {text!r} is out of range; give 1 to {limits.MAX_NODE_ID}")
    parsed = parse_address(address if ":" in address else f"{address}:0")
    return NodeAddress(int(node_id), parsed.host, parsed.port)


def _read_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{_show_url(text)!r} is not a URL; write one like http://10.0.0.1:8080/path")
    return text


def _show_url(text: str) -> str:
    """Without what may be a password: user information and the query."""
    parts = urlsplit(text)
    netloc = f"{MASK}@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, query=MASK if parts.query else ""))


def _read_account(text: str) -> Account:
    """`user:password:*` or `user:password:[resource:actions,...]`. The text is never repeated: it holds a password."""
    match = re.fullmatch(r"([^:\[\]]+):([^:\[\]]+):(?:\*|\[([^\[\]]*)\])", text)
    if match is None:
        raise ValueError("an entry is not an account; write each like name:password:[*:r] or name:password:*")
    username, password, permissions = match.groups()
    if permissions is None:
        return Account(username, password, (("*", "rw"),))
    pairs = [item.strip().partition(":") for item in permissions.split(",") if item.strip()]
    if any(not resource or actions not in ("*", "r", "w", "rw", "wr") for resource, _, actions in pairs):
        raise ValueError(f"a permission of account {username!r} is unknown; write each like resource:rw")
    rights = tuple((resource, "rw" if actions in ("*", "wr") else actions) for resource, _, actions in pairs)
    return Account(username, password, rights)


def _show_account(account: Account) -> str:
    rights = ",".join(f"{resource}:{actions}" for resource, actions in account.permissions)
    return f"{account.username}:{MASK}:[{rights}]"


def _read_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address or network; write one like 10.0.0.0/8") from None


def _is_loopback_ip(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_text = _one(str, str)
_secret = _one(str, lambda text: MASK if text else "")
_flag = _one(_read_flag, lambda flag: flag)
_url = _one(_read_url, lambda url: _show_url(url) if url else "")
_path = _one(Path, str)


# --- the keys ---------------------------------------------------------------------------------------------------------


def _key(name: str, kind: Kind[T], default: D, *, also: str = "") -> T | D:
    """A field with its key, relative to its section. also: the whole path of another key, used if this one is absent."""
    metadata = {"name": name, "kind": kind, "also": also}
    return cast("T | D", field(default=default, metadata=metadata))


def _section(name: str, section: type[T]) -> T:
    return cast("T", field(default_factory=section, metadata={"section": name}))


@dataclass(frozen=True)
class WssConfig:
    cert_file: str = _key("certFile", _text, "")
    key_file: str = _key("keyFile", _text, "")


@dataclass(frozen=True)
class ExternalConfig:
    """What clients are told. Empty addresses are derived: see `Config.external_addresses`."""

    ip: str = _key("ip", _text, "")
    tcp_addr: str = _key("tcpAddr", _text, "")
    ws_addr: str = _key("wsAddr", _text, "")
    wss_addr: str = _key("wssAddr", _text, "")
    api_url: str = _key("apiUrl", _text, "")


@dataclass(frozen=True)
class IntranetConfig:
    tcp_addr: str = _key("tcpAddr", _text, "")


@dataclass(frozen=True)
class ManagerConfig:
    on: bool = _key("on", _flag, True)
    addr: Address = _key("addr", _address(), Address("0.0.0.0", 5300))


@dataclass(frozen=True)
class WebhookConfig:
    """grpc_addr wins over http_addr. focus_events: the events wanted; empty means all."""

    http_addr: str = _key("httpAddr", _url, "")
    grpc_addr: str = _key("grpcAddr", _text, "")
    push_interval_ms: int = _key("msgNotifyEventPushInterval", _duration(10, HOUR_MS), 500)
    count_per_push: int = _key("msgNotifyEventCountPerPush", _number(1, 10_000), 100)
    retry_max_count: int = _key("msgNotifyEventRetryMaxCount", _number(), 5)
    focus_events: tuple[str, ...] = _key("focusEvents", _many(str, str), ())

    @property
    def on(self) -> bool:
        return bool(self.http_addr or self.grpc_addr)


@dataclass(frozen=True)
class AgentConfig:
    webhook_http_addr: str = _key("webhook.httpAddr", _url, "")


@dataclass(frozen=True)
class DatasourceConfig:
    addr: str = _key("addr", _url, "")


@dataclass(frozen=True)
class ChannelConfig:
    online_cmd_channel_id: str = _key("onlineCmdChannelId", _text, "systemcmdonline")
    subscriber_compress_of_count: int = _key("subscriberCompressOfCount", _number(), 0)


@dataclass(frozen=True)
class ConversationConfig:
    on: bool = _key("on", _flag, True)
    sync_interval_ms: int = _key("syncInterval", _duration(10), MINUTE_MS)
    sync_once: int = _key("syncOnce", _number(), 100)
    user_max_count: int = _key("userMaxCount", _number(1, 100_000), 1_000)


@dataclass(frozen=True)
class MessageRetryConfig:
    interval_ms: int = _key("interval", _duration(10, DAY_MS), MINUTE_MS)
    scan_interval_ms: int = _key("scanInterval", _duration(10, DAY_MS), 30 * SECOND_MS)
    max_count: int = _key("maxCount", _number(1, 1_000), 5)


@dataclass(frozen=True)
class CustomerServiceConfig:
    visitors_suffix: str = _key("visitorsSuffix", _text, "___vstr")
    visitors_on: bool = _key("visitorsOn", _flag, False)


@dataclass(frozen=True)
class ClusterConfig:
    node_id: int = _key("nodeId", _number(1, limits.MAX_NODE_ID), 1_001)
    addr: Address = _key("addr", _address("tcp"), Address("0.0.0.0", 11_110))
    server_addr: str = _key("serverAddr", _text, "")
    api_url: str = _key("apiUrl", _url, "")
    init_nodes: tuple[NodeAddress, ...] = _key("initNodes", _many(_read_node, str), ())
    seed: NodeAddress | None = _key("seed", _one(_read_node, str), None)
    role: str = _key("role", _choice("replica"), "replica")
    slot_replica_count: int = _key("slotReplicaCount", _number(1, 9), 3)
    channel_replica_count: int = _key("channelReplicaCount", _number(1, 9), 3)
    request_timeout_ms: int = _key("reqTimeout", _duration(100, HOUR_MS), 10 * SECOND_MS)
    secret: str = _key("secret", _secret, "")

    @property
    def is_single_node(self) -> bool:
        return self.seed is None and all(node.node_id == self.node_id for node in self.init_nodes)


@dataclass(frozen=True)
class LoggerConfig:
    """level: 0 = by mode, 1 debug, 2 info, 3 warn, 4 error."""

    level: int = _key("level", _number(0, 4), 0)
    dir: Path = _key("dir", _path, Path("logs"))


@dataclass(frozen=True)
class AuthConfig:
    users: tuple[Account, ...] = _key(
        "users", _many(_read_account, _show_account), (Account("guest", "guest", (("*", "r"),)),)
    )


@dataclass(frozen=True)
class JwtConfig:
    secret: str = _key("secret", _secret, "secret_wukongim")
    expire_ms: int = _key("expire", _duration(MINUTE_MS), 30 * DAY_MS)
    issuer: str = _key("issuer", _text, "wukongim")

    @property
    def is_well_known(self) -> bool:
        """Whether anybody who has read WuKongIM's sources can sign with the secret."""
        return self.secret == "secret_wukongim"


@dataclass(frozen=True)
class TraceConfig:
    prometheus_api_url: str = _key("prometheusApiUrl", _url, "")


@dataclass(frozen=True)
class WukongConfig:
    """Keys that only this server has. What happens at each limit: docs/configuration.md."""

    slot_count: int = _key(
        "slotCount", _number(1, limits.MAX_SLOT_COUNT), limits.DEFAULT_SLOT_COUNT, also="cluster.slotCount"
    )
    fsync: bool = _key("fsync", _flag, True)
    wal_segment_bytes: int = _key("walSegmentBytes", _size(MIB, 4 * GIB), limits.DEFAULT_WAL_SEGMENT_BYTES)
    store_cache_bytes: int = _key("storeCacheBytes", _size(MIB, 1024 * GIB), limits.DEFAULT_STORE_CACHE_BYTES)
    http_body_bytes: int = _key("httpBodyBytes", _size(64 * KIB, GIB), limits.DEFAULT_HTTP_BODY_BYTES)
    members_per_command: int = _key("membersPerCommand", _number(1, 10_000), limits.DEFAULT_MEMBERS_PER_COMMAND)
    frame_body_bytes: int = _key("frameBodyBytes", _size(64 * KIB, MIB), limits.MAX_FRAME_BODY_BYTES)
    session_outbound_bytes: int = _key(
        "sessionOutboundBytes", _size(64 * KIB, GIB), limits.DEFAULT_SESSION_OUTBOUND_BYTES
    )
    sends_in_flight_per_session: int = _key(
        "sendsInFlightPerSession", _number(), limits.DEFAULT_SENDS_IN_FLIGHT_PER_SESSION
    )
    recvack_window_per_session: int = _key(
        "recvackWindowPerSession", _number(), limits.DEFAULT_RECVACK_WINDOW_PER_SESSION
    )
    proposals_in_flight: int = _key("proposalsInFlight", _number(), limits.DEFAULT_PROPOSALS_IN_FLIGHT)
    connects_in_flight: int = _key("connectsInFlight", _number(), limits.DEFAULT_CONNECTS_IN_FLIGHT)
    trusted_proxies: tuple[Network, ...] = _key("trustedProxies", _many(_read_network, str), ())
    allow_plaintext_setting: bool = _key("allowPlaintextSetting", _flag, False)
    idempotency_retention_ms: int = _key(
        "idempotencyRetention", _duration(SECOND_MS), limits.DEFAULT_IDEMPOTENCY_RETENTION_MS
    )
    no_persist_idempotency_retention_ms: int = _key(
        "noPersistIdempotencyRetention", _duration(SECOND_MS), limits.DEFAULT_NO_PERSIST_IDEMPOTENCY_RETENTION_MS
    )


class ExternalAddresses(NamedTuple):
    """What GET /route tells clients; ws and wss with their scheme, wss_addr empty when there is no such listener."""

    tcp_addr: str
    ws_addr: str
    wss_addr: str
    api_url: str


@dataclass(frozen=True)
class Config:
    """One node's configuration; made by `load_config`, which fills in what follows from other values."""

    mode: str = _key("mode", _choice("debug", "release", "bench", "test"), "debug")
    root_dir: Path = _key("rootDir", _path, Path("wukongdata"))
    data_dir: Path = _key("dataDir", _path, Path("wukongdata/data"))
    http_addr: Address = _key("httpAddr", _address(), Address("0.0.0.0", 5001))
    tcp_addr: Address = _key("addr", _address("tcp"), Address("0.0.0.0", 5100))
    ws_addr: Address = _key("wsAddr", _address("ws"), Address("0.0.0.0", 5200))
    wss_addr: Address | None = _key("wssAddr", _address("wss"), None)
    manager_token: str = _key("managerToken", _secret, "")
    manager_uid: str = _key("managerUID", _text, "____manager")
    token_auth_on: bool = _key("tokenAuthOn", _flag, False)
    whitelist_off_of_person: bool = _key("whitelistOffOfPerson", _flag, True)
    disable_encryption: bool = _key("disableEncryption", _flag, False)
    conn_idle_time_ms: int = _key("connIdleTime", _duration(SECOND_MS), 3 * MINUTE_MS)
    disable_jsonrpc: bool = _key("disableJSONRPC", _flag, False)
    disable_cmd_message_sync: bool = _key("disableCMDMessageSync", _flag, False)
    event_pool_size: int = _key("eventPoolSize", _number(), 1_024)

    wss_config: WssConfig = _section("wssConfig", WssConfig)
    external: ExternalConfig = _section("external", ExternalConfig)
    intranet: IntranetConfig = _section("intranet", IntranetConfig)
    manager: ManagerConfig = _section("manager", ManagerConfig)
    webhook: WebhookConfig = _section("webhook", WebhookConfig)
    agent: AgentConfig = _section("agent", AgentConfig)
    datasource: DatasourceConfig = _section("datasource", DatasourceConfig)
    channel: ChannelConfig = _section("channel", ChannelConfig)
    conversation: ConversationConfig = _section("conversation", ConversationConfig)
    message_retry: MessageRetryConfig = _section("messageRetry", MessageRetryConfig)
    customer_service: CustomerServiceConfig = _section("customerService", CustomerServiceConfig)
    cluster: ClusterConfig = _section("cluster", ClusterConfig)
    logger: LoggerConfig = _section("logger", LoggerConfig)
    auth: AuthConfig = _section("auth", AuthConfig)
    jwt: JwtConfig = _section("jwt", JwtConfig)
    trace: TraceConfig = _section("trace", TraceConfig)
    wukong: WukongConfig = _section("wukong", WukongConfig)

    @property
    def log_level(self) -> str:
        """The name the logging module knows."""
        by_mode = 1 if self.mode == "debug" else 2
        return {1: "DEBUG", 2: "INFO", 3: "WARNING", 4: "ERROR"}[self.logger.level or by_mode]

    def external_addresses(
        self,
        *,
        tcp_port: int | None = None,
        ws_port: int | None = None,
        wss_port: int | None = None,
        http_port: int | None = None,
    ) -> ExternalAddresses:
        """Configured addresses as they are, the others from external.ip and the listeners' ports. Give the ports that
        were bound where the configuration says port 0."""
        given = self.external

        def at(bound_port: int | None, listener: Address) -> Address:
            return Address(given.ip, listener.port if bound_port is None else bound_port)

        wss_addr = f"wss://{at(wss_port, self.wss_addr)}" if self.wss_addr else ""
        return ExternalAddresses(
            tcp_addr=given.tcp_addr or str(at(tcp_port, self.tcp_addr)),
            ws_addr=given.ws_addr or f"ws://{at(ws_port, self.ws_addr)}",
            wss_addr=given.wss_addr or wss_addr,
            api_url=given.api_url or f"http://{at(http_port, self.http_addr)}",
        )


# Keys of WuKongIM that say nothing to this server, because it has no such part or no such cost. `.*`: all below.
IGNORED_KEYS = tuple(
    """
    ginMode timingWheelTick timingWheelSize stress violent pprofOn deadlockCheck oldV1Api migrateStartStep unitTest
    external.managerAddr demo.* agent.webhook.maxPushCount datasource.channelInfoOn channel.cacheCount
    channel.createIfNoExist tmpChannel.* conversation.cacheExpire conversation.bytesPerSave conversation.savePoolSize
    conversation.workerNum conversation.workerScanInterval messageRetry.workerCount tag.* userMsgQueueMaxSize
    cluster.tickInterval cluster.pongMaxTick cluster.channelDestoryAfterIdleTick cluster.heartbeatIntervalTick
    cluster.electionIntervalTick cluster.channelReactorSubCount cluster.slotReactorSubCount db.* logger.lineNum
    logger.traceOn logger.traceMaxMsgCount logger.loki.* auth.on auth.kind auth.superToken plugin.install
    trace.serviceName trace.serviceHostName deliveryMsgPoolSize handlePoolSize goPool.* deliver.* reactor.*
    coreReactor.* streamCache.* poller.*
    """.split()
)

# Known, but this server does something else than the operator asked for: he should hear of it.
_UNSERVED = {
    "external.autogetexternalip": "external.autoGetExternalIP: this server asks nobody for its public address; "
    "set external.ip",
    "plugin.socketpath": "plugin.socketPath: plugins are not supported; the key has no effect",
    "plugin.timeout": "plugin.timeout: plugins are not supported; the key has no effect",
}


@dataclass(frozen=True)
class Key:
    """One configuration key. attributes: the way to its value from a Config."""

    path: str
    also: str
    kind: Kind[Any]  # any: the table holds kinds of every value type
    default: object
    attributes: tuple[str, ...]

    @property
    def environment_name(self) -> str:
        return _environment_name(self.path)

    def value_of(self, config: Config) -> object:
        value: object = config
        for attribute in self.attributes:
            value = getattr(value, attribute)
        return value


def config_keys() -> list[Key]:
    """Every key that has an effect, in the order of `Config`."""
    return list(_walk(Config, "", ()))


def _walk(section: type[Any], prefix: str, attributes: tuple[str, ...]) -> Iterator[Key]:
    for item in fields(section):
        way = (*attributes, item.name)
        if "section" in item.metadata:
            yield from _walk(cast("type[Any]", item.default_factory), f"{prefix}{item.metadata['section']}.", way)
        else:
            path = prefix + item.metadata["name"]
            yield Key(path, item.metadata["also"], item.metadata["kind"], item.default, way)


def _environment_name(path: str) -> str:
    return ENVIRONMENT_PREFIX + path.replace(".", "_").upper()


# --- sources ----------------------------------------------------------------------------------------------------------


class _TextLoader(yaml.SafeLoader):
    """YAML with every scalar as it was typed: in YAML 1.1 the key `on` would be a boolean, `0123` octal, `1:30` base 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_TextLoader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [entry for entry in resolvers if entry[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")])
}


@dataclass(frozen=True)
class _Setting:
    """One value as found. origin: where, for a fault's text."""

    path: str
    raw: object
    origin: str = ""


def _read_file(path: Path) -> Mapping[Any, Any]:
    """The file's tree. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.MAX_CONFIG_FILE_BYTES + 1)
    except OSError as fault:
        raise ConfigError([f"{path}: cannot be read ({fault.strerror}); name a file that is there"]) from fault
    if len(content) > limits.MAX_CONFIG_FILE_BYTES:
        raise ConfigError([f"{path}: larger than {limits.MAX_CONFIG_FILE_BYTES} bytes; this is not a configuration"])
    try:
        text = content.decode()
        tree: object = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.load(text, _TextLoader)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as fault:
        raise ConfigError([f"{path}: {fault}"]) from fault
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError([f"{path}: holds no keys; write lines like httpAddr: 0.0.0.0:5001"])
    return tree


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[_Setting]:
    """Leaves with their paths; empty values are left out. `external.ip: x` is the same as a nested `ip`."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}.")
        elif isinstance(value, list):
            yield _Setting(path, [_to_text(item) for item in value])
        else:
            yield _Setting(path, _to_text(value))


def _to_text(value: object) -> object:
    """TOML's typed values as YAML would have them; what cannot be a value stays and becomes a fault."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _gather(path: Path | None, environ: Mapping[str, str], faults: list[str]) -> dict[str, _Setting]:
    """Lower-case key path -> setting, of both sources; the environment wins over the file."""
    found: dict[str, _Setting] = {}
    for setting in _flatten(_read_file(path)) if path else ():
        lowered = setting.path.lower()
        if lowered in found:
            faults.append(f"{setting.path}: the same key is there as {found[lowered].path}; keep one")
        found[lowered] = setting
    paths = {_environment_name(each): each for key in config_keys() for each in (key.path, key.also) if each}
    paths |= {_environment_name(each): each for each in (*IGNORED_KEYS, *_UNSERVED) if not each.endswith("*")}
    for name, value in environ.items():
        if not name.upper().startswith(ENVIRONMENT_PREFIX) or not value:
            continue
        key_path = paths.get(name.upper(), name)
        found[key_path.lower()] = _Setting(key_path, value, f" (from {name})")
    return found


def _is_ignored(lowered: str, is_environment: bool) -> bool:
    for pattern in IGNORED_KEYS:
        known = _environment_name(pattern).lower() if is_environment else pattern.lower()
        if lowered == known or (known.endswith("*") and lowered.startswith(known[:-1])):
            return True
    return False


def _read_values(found: dict[str, _Setting], faults: list[str], warnings: list[str]) -> dict[str, object]:
    """Key path -> value, for the keys that are set to something else than "use the default"."""
    values: dict[str, object] = {}
    known: dict[str, str] = {}
    for key in config_keys():
        candidates = [path for path in (key.path, key.also) if path]
        known |= {path.lower(): path for path in candidates}
        for setting in [found[path.lower()] for path in candidates if path.lower() in found]:
            if setting.raw in ("", []):
                continue
            items = setting.raw if isinstance(setting.raw, list) else [setting.raw]
            if not all(isinstance(item, str) for item in items):
                faults.append(f"{setting.path}{setting.origin}: takes plain values, without structure below")
                continue
            try:
                value = key.kind.read(cast("Raw", setting.raw))
            except ValueError as fault:
                faults.append(f"{setting.path}{setting.origin}: {fault}")
                continue
            if (value or isinstance(value, bool)) and key.path not in values:
                values[key.path] = value
    for lowered, setting in found.items():
        if lowered in known or _is_ignored(lowered, bool(setting.origin)):
            continue
        if lowered in _UNSERVED:
            if setting.raw not in ("", "false"):
                warnings.append(_UNSERVED[lowered])
        elif inside := next((path for low, path in known.items() if lowered.startswith(f"{low}.")), None):
            faults.append(f"{setting.path}: {inside} takes one value and no keys below it")
        elif any(low.startswith(f"{lowered}.") for low in known):
            if setting.raw not in ("", []):
                faults.append(f"{setting.path}: takes keys below it, not a value")
        else:
            warnings.append(f"{setting.path}: unknown key, ignored; see docs/configuration.md for the spelling")
    return values


# --- putting it together ------------------------------------------------------------------------------------------------


def load_config(
    path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    *,
    embedded: bool,
    detect_ip: Callable[[], str] | None = None,
) -> tuple[Config, list[str]]:
    """The node's configuration and the warnings an operator should see.

    path: a YAML file, or TOML by its suffix; None for the environment alone. embedded: take our own defaults (API on
    loopback, data under ./wukongdata) instead of WuKongIM's where nothing is said. detect_ip: how external.ip is found
    if it is not given; `detect_lan_ip` by default. Raises ConfigError with every fault found.
    """
    faults: list[str] = []
    warnings: list[str] = []
    found = _gather(None if path is None else Path(path), environ, faults)
    values = _read_values(found, faults, warnings)
    _derive(values, environ, embedded, detect_ip or detect_lan_ip, faults)
    config: Config = _build(Config, "", values)
    _check(config, faults, warnings)
    if faults:
        raise ConfigError(faults)
    return config, warnings


def _derive(
    values: dict[str, object],
    environ: Mapping[str, str],
    embedded: bool,
    detect_ip: Callable[[], str],
    faults: list[str],
) -> None:
    """Defaults that follow from other values or from where we run."""
    home = environ.get("HOME", "")
    for key_path in ("rootDir", "dataDir", "logger.dir", "wssConfig.certFile", "wssConfig.keyFile"):
        given = values.get(key_path)
        if given is not None and str(given).startswith("~/") and home:
            values[key_path] = type(given)(home + str(given)[1:])
    if "rootDir" not in values:
        if not embedded and not home:
            faults.append("rootDir: its default lies in the home directory, and HOME is not set; set rootDir")
        values["rootDir"] = Path("wukongdata") if embedded else Path(home, "wukongim")
    root_dir = cast("Path", values["rootDir"])
    values.setdefault("dataDir", root_dir / "data")
    values["logger.dir"] = root_dir / cast("Path", values.get("logger.dir", LoggerConfig.dir))
    if embedded:
        values.setdefault("httpAddr", Address("127.0.0.1", 5001))
    if "external.ip" not in values:
        values["external.ip"] = "127.0.0.1" if embedded else detect_ip()
    cluster_port = cast("Address", values.get("cluster.addr", ClusterConfig.addr)).port
    nodes = cast("tuple[NodeAddress, ...]", values.get("cluster.initNodes", ()))
    values["cluster.initNodes"] = tuple(node._replace(port=node.port or cluster_port) for node in nodes)
    if isinstance(seed := values.get("cluster.seed"), NodeAddress):
        values["cluster.seed"] = seed._replace(port=seed.port or cluster_port)


def _build(section: type[T], prefix: str, values: Mapping[str, object]) -> T:
    arguments: dict[str, object] = {}
    for item in fields(cast("type[Any]", section)):
        if "section" in item.metadata:
            below = cast("type[Any]", item.default_factory)
            arguments[item.name] = _build(below, f"{prefix}{item.metadata['section']}.", values)
        else:
            arguments[item.name] = values.get(prefix + item.metadata["name"], item.default)
    return section(**arguments)


def _check(config: Config, faults: list[str], warnings: list[str]) -> None:
    """What no key shows alone."""
    _check_listeners(config, faults)
    _check_cluster(config.cluster, faults)
    if config.manager_uid == SYSTEM_UID:
        faults.append(f"managerUID: {SYSTEM_UID} is the system's own; choose another")
    if any(character in config.manager_uid for character in "@#&"):
        faults.append("managerUID: a uid has none of the characters @ # &; choose another")
    if not config.http_addr.is_loopback and not config.manager_token:
        warnings.append(
            f"managerToken: NOT SET, and the API listens on {config.http_addr}: whoever reaches that address can read and "
            "send every message. Set managerToken, or httpAddr to 127.0.0.1:5001"
        )
    if not config.wukong.fsync:
        warnings.append("wukong.fsync: off, so a power loss can take acknowledged messages; for tests only")
    unknown = [event for event in config.webhook.focus_events if event not in WEBHOOK_EVENTS]
    warnings += [
        f"webhook.focusEvents: there is no event {event!r}; there are {', '.join(WEBHOOK_EVENTS)}" for event in unknown
    ]


def _check_listeners(config: Config, faults: list[str]) -> None:
    if config.wss_addr:
        for key_path, name in (
            ("wssConfig.certFile", config.wss_config.cert_file),
            ("wssConfig.keyFile", config.wss_config.key_file),
        ):
            if not name:
                faults.append(f"{key_path}: wssAddr is set, and TLS needs this file; name it or leave wssAddr out")
            elif not Path(name).is_file():
                faults.append(f"{key_path}: there is no file {name!r}")
    listeners = {"httpAddr": config.http_addr, "addr": config.tcp_addr, "wsAddr": config.ws_addr}
    if config.wss_addr:
        listeners["wssAddr"] = config.wss_addr
    if config.manager.on:
        listeners["manager.addr"] = config.manager.addr
    if not config.cluster.is_single_node:
        listeners["cluster.addr"] = config.cluster.addr
    pairs = list(listeners.items())
    for index, (key_path, address) in enumerate(pairs):
        for earlier_path, earlier in pairs[:index]:
            if address.collides(earlier):
                faults.append(f"{key_path}: port {address.port} is already taken by {earlier_path}; choose another")


def _check_cluster(cluster: ClusterConfig, faults: list[str]) -> None:
    node_ids = [node.node_id for node in cluster.init_nodes]
    faults.extend(
        f"cluster.initNodes: node {node_id} is there more than once; give every node its own id"
        for node_id in sorted({each for each in node_ids if node_ids.count(each) > 1})
    )
    if node_ids and cluster.node_id not in node_ids and cluster.seed is None:
        faults.append(f"cluster.initNodes: this node, cluster.nodeId {cluster.node_id}, is not in it; add it")
    if cluster.secret and len(cluster.secret) < limits.MIN_CLUSTER_SECRET_CHARS:
        faults.append(f"cluster.secret: shorter than {limits.MIN_CLUSTER_SECRET_CHARS} characters; choose a longer one")
    if not cluster.is_single_node and not cluster.secret and not cluster.addr.is_loopback:
        faults.append(
            "cluster.secret: not set, so any machine could join as a node; set the same secret of at least "
            f"{limits.MIN_CLUSTER_SECRET_CHARS} characters on every node, or let cluster.addr listen on 127.0.0.1"
        )


def detect_lan_ip() -> str:
    """This machine's address towards other machines, or 127.0.0.1. Sends nothing: connecting a UDP socket only asks
    the routing table, and 192.0.2.1 is reserved for documentation."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def cluster_settings(config: Config) -> dict[str, object]:
    """What apply depends on, in plain values (architecture.md section 4). It enters the log when the cluster is made;
    from then on the log's values hold, whatever a node's file says."""
    return {
        "token_auth_on": config.token_auth_on,
        "whitelist_off_of_person": config.whitelist_off_of_person,
        "system_uid": SYSTEM_UID,
        "manager_uid": config.manager_uid,
        "cmd_suffix": CMD_SUFFIX,
        "visitors_suffix": config.customer_service.visitors_suffix,
        "visitors_on": config.customer_service.visitors_on,
        "online_cmd_channel_id": config.channel.online_cmd_channel_id,
        "idempotency_retention_ms": config.wukong.idempotency_retention_ms,
        "no_persist_idempotency_retention_ms": config.wukong.no_persist_idempotency_retention_ms,
        "members_per_command": config.wukong.members_per_command,
        "conversation_on": config.conversation.on,
        "webhook_on": config.webhook.on,
        "webhook_events": list(config.webhook.focus_events),
    }


def describe(config: Config) -> dict[str, object]:
    """Key path -> value as a file would say it, passwords and tokens masked. Absent optional values are empty."""
    shown: dict[str, object] = {}
    for key in config_keys():
        value = key.value_of(config)
        shown[key.path] = "" if value is None else key.kind.show(value)
    return shown
