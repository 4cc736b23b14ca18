"""The keys: frozen dataclasses whose fields carry their key, how its text is read, and its default.

What each key does, and what happens at each limit: docs/configuration.md. Names and defaults of all sections but
`wukong` are those of the server we replace (http-api.md section 18).
"""

# ruff: noqa: RUF009 -- `_key` and `_section` are thin names for dataclasses.field, called once per class on purpose.

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from wukong import limits
from wukong.config import values
from wukong.config.values import Account, Address, Kind, Network, NodeAddress
from wukong.limits import DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS

SYSTEM_UID = "____system"
SYSTEM_DEVICE_ID = "____device"
CMD_SUFFIX = "____cmd"
WEBHOOK_EVENTS = ("msg.notify", "msg.offline", "user.onlinestatus")
ENVIRONMENT_PREFIX = "WK_"

# WuKongIM's console account, and the secret that signs logins there: both are public.
GUEST = Account("guest", "guest", (("*", "r"),))
WELL_KNOWN_JWT_SECRET = "secret_wukongim"

T = TypeVar("T")
D = TypeVar("D")


def _key(name: str, kind: Kind[T], default: D, *, also: str = "") -> T | D:
    """A field with its key, relative to its section. also: whole path of a key that counts if this one is absent."""
    return field(default=default, repr=not kind.sensitive, metadata={"name": name, "kind": kind, "also": also})


def _section(name: str, section: type[T]) -> T:
    return field(default_factory=section, metadata={"section": name})


@dataclass(frozen=True)
class WssConfig:
    cert_file: str = _key("certFile", values.text, "")
    key_file: str = _key("keyFile", values.text, "")


@dataclass(frozen=True)
class ExternalConfig:
    """What clients are told. Empty addresses are derived: see `Config.external_addresses`."""

    ip: str = _key("ip", values.text, "")
    tcp_addr: str = _key("tcpAddr", values.text, "")
    ws_addr: str = _key("wsAddr", values.text, "")
    wss_addr: str = _key("wssAddr", values.text, "")
    api_url: str = _key("apiUrl", values.text, "")


@dataclass(frozen=True)
class IntranetConfig:
    tcp_addr: str = _key("tcpAddr", values.text, "")


@dataclass(frozen=True)
class ManagerConfig:
    """readonly_token: logs in at the console to look only."""

    on: bool = _key("on", values.flag, True)
    addr: Address = _key("addr", values.address(), Address("127.0.0.1", 5300))
    readonly_token: str = _key("readonlyToken", values.secret, "")


@dataclass(frozen=True)
class DemoConfig:
    """on: where nothing is said, on a single node whose API is on loopback."""

    on: bool = _key("on", values.flag, False)
    addr: Address = _key("addr", values.address(), Address("127.0.0.1", 5172))


@dataclass(frozen=True)
class WebhookConfig:
    """grpc_addr wins over http_addr. focus_events: the events wanted; empty means all. retry_max_count: tries, 0 for
    no end."""

    http_addr: str = _key("httpAddr", values.url, "")
    grpc_addr: str = _key("grpcAddr", values.text, "")
    push_interval_ms: int = _key("msgNotifyEventPushInterval", values.duration(10, HOUR_MS), 500)
    count_per_push: int = _key("msgNotifyEventCountPerPush", values.number(1, 10_000), 100)
    retry_max_count: int = _key("msgNotifyEventRetryMaxCount", values.number(0), 0)
    focus_events: tuple[str, ...] = _key("focusEvents", values.words, ())

    @property
    def on(self) -> bool:
        return bool(self.http_addr or self.grpc_addr)


@dataclass(frozen=True)
class AgentConfig:
    webhook_http_addr: str = _key("webhook.httpAddr", values.url, "")


@dataclass(frozen=True)
class DatasourceConfig:
    addr: str = _key("addr", values.url, "")


@dataclass(frozen=True)
class ChannelConfig:
    online_cmd_channel_id: str = _key("onlineCmdChannelId", values.text, "systemcmdonline")
    subscriber_compress_of_count: int = _key("subscriberCompressOfCount", values.number(), 0)


@dataclass(frozen=True)
class ConversationConfig:
    on: bool = _key("on", values.flag, True)
    sync_interval_ms: int = _key("syncInterval", values.duration(10), MINUTE_MS)
    sync_once: int = _key("syncOnce", values.number(), 100)
    user_max_count: int = _key("userMaxCount", values.number(1, 100_000), 1_000)


@dataclass(frozen=True)
class MessageRetryConfig:
    interval_ms: int = _key("interval", values.duration(10, DAY_MS), MINUTE_MS)
    scan_interval_ms: int = _key("scanInterval", values.duration(10, DAY_MS), 30 * SECOND_MS)
    max_count: int = _key("maxCount", values.number(1, 1_000), 5)


@dataclass(frozen=True)
class CustomerServiceConfig:
    visitors_suffix: str = _key("visitorsSuffix", values.text, "___vstr")
    visitors_on: bool = _key("visitorsOn", values.flag, False)


@dataclass(frozen=True)
class ClusterConfig:
    node_id: int = _key("nodeId", values.number(1, limits.MAX_NODE_ID), 1_001)
    addr: Address = _key("addr", values.address("tcp"), Address("0.0.0.0", 11_110))
    server_addr: Address | None = _key("serverAddr", values.address(), None)
    api_url: str = _key("apiUrl", values.url, "")
    init_nodes: tuple[NodeAddress, ...] = _key("initNodes", values.nodes, ())
    seed: NodeAddress | None = _key("seed", values.node, None)
    role: str = _key("role", values.choice("replica"), "replica")
    slot_replica_count: int = _key("slotReplicaCount", values.number(1, 9), 3)
    channel_replica_count: int = _key("channelReplicaCount", values.number(1, 9), 3)
    request_timeout_ms: int = _key("reqTimeout", values.duration(100, HOUR_MS), 10 * SECOND_MS)
    secret: str = _key("secret", values.secret, "")

    @property
    def is_single_node(self) -> bool:
        return self.seed is None and all(node.node_id == self.node_id for node in self.init_nodes)


@dataclass(frozen=True)
class LoggerConfig:
    """level: 0 = by mode, 1 debug, 2 info, 3 warn, 4 error. format: lines for people, or one JSON object per line."""

    level: int = _key("level", values.number(0, 4), 0)
    format: str = _key("format", values.choice("console", "json"), "console")
    dir: Path = _key("dir", values.path, Path("logs"))


@dataclass(frozen=True)
class AuthConfig:
    users: tuple[Account, ...] = _key("users", values.accounts, ())


@dataclass(frozen=True)
class JwtConfig:
    secret: str = _key("secret", values.secret, "")
    expire_ms: int = _key("expire", values.duration(MINUTE_MS), 30 * DAY_MS)
    issuer: str = _key("issuer", values.text, "wukongim")


@dataclass(frozen=True)
class TraceConfig:
    prometheus_api_url: str = _key("prometheusApiUrl", values.url, "")


@dataclass(frozen=True)
class WukongConfig:
    """Keys that only this server has. What happens at each limit: docs/configuration.md."""

    slot_count: int = _key(
        "slotCount", values.number(1, limits.MAX_SLOT_COUNT), limits.DEFAULT_SLOT_COUNT, also="cluster.slotCount"
    )
    fsync: bool = _key("fsync", values.flag, True)
    wal_segment_bytes: int = _key("walSegmentBytes", values.size(MIB, 4 * GIB), limits.DEFAULT_WAL_SEGMENT_BYTES)
    store_cache_bytes: int = _key("storeCacheBytes", values.size(MIB, 1024 * GIB), limits.DEFAULT_STORE_CACHE_BYTES)
    http_body_bytes: int = _key("httpBodyBytes", values.size(64 * KIB, GIB), limits.DEFAULT_HTTP_BODY_BYTES)
    members_per_command: int = _key("membersPerCommand", values.number(1, 10_000), limits.DEFAULT_MEMBERS_PER_COMMAND)
    frame_body_bytes: int = _key("frameBodyBytes", values.size(64 * KIB, MIB), limits.MAX_FRAME_BODY_BYTES)
    session_outbound_bytes: int = _key(
        "sessionOutboundBytes", values.size(64 * KIB, GIB), limits.DEFAULT_SESSION_OUTBOUND_BYTES
    )
    sends_in_flight_per_session: int = _key(
        "sendsInFlightPerSession", values.number(), limits.DEFAULT_SENDS_IN_FLIGHT_PER_SESSION
    )
    recvack_window_per_session: int = _key(
        "recvackWindowPerSession", values.number(), limits.DEFAULT_RECVACK_WINDOW_PER_SESSION
    )
    delivery_record_bytes: int = _key(
        "deliveryRecordBytes", values.size_or_off(64 * KIB, 64 * GIB), limits.DEFAULT_DELIVERY_RECORD_BYTES
    )
    proposals_in_flight: int = _key("proposalsInFlight", values.number(), limits.DEFAULT_PROPOSALS_IN_FLIGHT)
    connects_in_flight: int = _key("connectsInFlight", values.number(), limits.DEFAULT_CONNECTS_IN_FLIGHT)
    node_gone_after_ms: int = _key(
        "nodeGoneAfter", values.duration(SECOND_MS, HOUR_MS), limits.DEFAULT_NODE_GONE_AFTER_MS
    )
    datasource_refresh_ms: int = _key("datasourceRefresh", values.duration(SECOND_MS, DAY_MS), 10 * MINUTE_MS)
    retention_interval_ms: int = _key("retentionInterval", values.duration(SECOND_MS, DAY_MS), 10 * MINUTE_MS)
    snapshot_bytes_per_second: int = _key(
        "snapshotBytesPerSecond", values.size(64 * KIB, GIB), limits.DEFAULT_SNAPSHOT_BYTES_PER_SECOND
    )
    log_retained_bytes: int = _key("logRetainedBytes", values.size(64 * KIB, GIB), limits.DEFAULT_LOG_RETAINED_BYTES)
    log_trim_bytes: int = _key("logTrimBytes", values.size(MIB, 4 * GIB), limits.DEFAULT_LOG_TRIM_BYTES)
    heartbeat_ms: int = _key("heartbeat", values.duration(10, SECOND_MS), limits.DEFAULT_HEARTBEAT_MS)
    election_ms: int = _key("electionTimeout", values.duration(100, 10 * SECOND_MS), limits.DEFAULT_ELECTION_MS)
    trusted_proxies: tuple[Network, ...] = _key("trustedProxies", values.networks, ())
    allow_plaintext_setting: bool = _key("allowPlaintextSetting", values.flag, False)
    idempotency_retention_ms: int = _key(
        "idempotencyRetention", values.duration(SECOND_MS), limits.DEFAULT_IDEMPOTENCY_RETENTION_MS
    )
    no_persist_idempotency_retention_ms: int = _key(
        "noPersistIdempotencyRetention", values.duration(SECOND_MS), limits.DEFAULT_NO_PERSIST_IDEMPOTENCY_RETENTION_MS
    )
    webhook_secret: str = _key("webhookSecret", values.secret, "")
    webhook_backlog_bytes: int = _key(
        "webhookBacklogBytes", values.size(MIB, 1024 * GIB), limits.DEFAULT_WEBHOOK_BACKLOG_BYTES
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

    mode: str = _key("mode", values.choice("debug", "release", "bench", "test"), "debug")
    root_dir: Path = _key("rootDir", values.path, Path("wukongdata"))
    data_dir: Path = _key("dataDir", values.path, Path("wukongdata/data"))
    http_addr: Address = _key("httpAddr", values.address(), Address("0.0.0.0", 5001))
    tcp_addr: Address = _key("addr", values.address("tcp"), Address("0.0.0.0", 5100))
    ws_addr: Address = _key("wsAddr", values.address("ws"), Address("0.0.0.0", 5200))
    wss_addr: Address | None = _key("wssAddr", values.address("wss"), None)
    manager_token: str = _key("managerToken", values.secret, "")
    manager_uid: str = _key("managerUID", values.text, "____manager")
    token_auth_on: bool = _key("tokenAuthOn", values.flag, False)
    whitelist_off_of_person: bool = _key("whitelistOffOfPerson", values.flag, True)
    disable_encryption: bool = _key("disableEncryption", values.flag, False)
    conn_idle_time_ms: int = _key("connIdleTime", values.duration(SECOND_MS), 3 * MINUTE_MS)
    disable_jsonrpc: bool = _key("disableJSONRPC", values.flag, False)
    disable_cmd_message_sync: bool = _key("disableCMDMessageSync", values.flag, False)
    event_pool_size: int = _key("eventPoolSize", values.number(), 1_024)

    wss_config: WssConfig = _section("wssConfig", WssConfig)
    external: ExternalConfig = _section("external", ExternalConfig)
    intranet: IntranetConfig = _section("intranet", IntranetConfig)
    manager: ManagerConfig = _section("manager", ManagerConfig)
    demo: DemoConfig = _section("demo", DemoConfig)
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
    def console_accounts(self) -> tuple[Account, ...]:
        """Who may log in at the console: the accounts of auth.users. Without any there is WuKongIM's guest, who may
        read; in release mode only where nobody but this machine can ask (http-api.md 21, no 45)."""
        is_local = self.http_addr.is_loopback and (self.manager.addr.is_loopback or not self.manager.on)
        if self.auth.users or (self.mode == "release" and (self.manager_token or not is_local)):
            return self.auth.users
        return (GUEST,)

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


@dataclass(frozen=True)
class Key:
    """One configuration key. attributes: the way to its value from a Config."""

    path: str
    also: str
    kind: Kind[Any]  # any: the table holds kinds of every value type
    default: object
    attributes: tuple[str, ...]

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


def environment_name(path: str) -> str:
    return ENVIRONMENT_PREFIX + path.replace(".", "_").upper()


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
        # Every node holds every slot, and the key is of a node.
        "webhook_backlog_bytes": config.wukong.webhook_backlog_bytes // config.wukong.slot_count,
    }


def describe(config: Config) -> dict[str, object]:
    """Key path -> value as a file would say it, passwords and tokens masked, external addresses derived. Absent
    optional values are empty."""
    shown: dict[str, object] = {}
    for key in config_keys():
        value = key.value_of(config)
        shown[key.path] = "" if value is None else key.kind.show(value)
    external = config.external_addresses()
    shown |= {
        "external.tcpAddr": external.tcp_addr,
        "external.wsAddr": external.ws_addr,
        "external.wssAddr": external.wss_addr,
        "external.apiUrl": external.api_url,
    }
    return shown
