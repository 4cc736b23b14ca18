"""From sources to a checked `Config`: a YAML or TOML file, with `WK_` environment variables over it.

Strategy: both sources become lower-case key path -> text (or list of texts); the kinds read them; then come the
defaults that follow from other values; then the checks that look at several keys. Faults are gathered and raised
together, so that an operator corrects a file once.
"""

import difflib
import os
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from wukong import limits
from wukong.config.keys import (
    ENVIRONMENT_PREFIX,
    GUEST,
    SYSTEM_UID,
    WEBHOOK_EVENTS,
    WELL_KNOWN_JWT_SECRET,
    ClusterConfig,
    Config,
    LoggerConfig,
    config_keys,
    environment_name,
)
from wukong.config.values import Address, NodeAddress, Raw
from wukong.errors import ConfigError

T = TypeVar("T")

_IGNORED = """
    ginMode timingWheelTick timingWheelSize stress violent pprofOn deadlockCheck oldV1Api migrateStartStep unitTest
    external.managerAddr agent.webhook.maxPushCount datasource.channelInfoOn channel.cacheCount
    channel.createIfNoExist tmpChannel.* conversation.cacheExpire conversation.bytesPerSave conversation.savePoolSize
    conversation.workerNum conversation.workerScanInterval messageRetry.workerCount tag.* userMsgQueueMaxSize
    cluster.tickInterval cluster.pongMaxTick cluster.channelDestoryAfterIdleTick cluster.heartbeatIntervalTick
    cluster.electionIntervalTick cluster.channelReactorSubCount cluster.slotReactorSubCount db.* logger.lineNum
    logger.traceOn logger.traceMaxMsgCount logger.loki.* auth.on auth.kind auth.superToken plugin.install
    trace.serviceName trace.serviceHostName deliveryMsgPoolSize handlePoolSize goPool.* deliver.* reactor.*
    coreReactor.* streamCache.* poller.*
"""
# Keys of WuKongIM that mean nothing here, because this server lacks the part or the cost. `x.*`: all below x.
IGNORED_KEYS = tuple(_IGNORED.split())

# Known keys whose effect an operator would miss: he hears of it once, unless they are switched off anyway.
_UNSERVED = {
    "external.autogetexternalip": "external.autoGetExternalIP: this server asks nobody for its public address; "
    "set external.ip",
    "plugin.socketpath": "plugin.socketPath: plugins are not supported; the key has no effect",
    "plugin.timeout": "plugin.timeout: plugins are not supported; the key has no effect",
}

_MAX_DEPTH = 8


def load_config(
    path: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    *,
    embedded: bool,
    detect_ip: Callable[[], str] | None = None,
) -> tuple[Config, list[str]]:
    """The node's configuration, and the warnings an operator should see.

    path: a YAML file, or TOML by its suffix; None for the environment alone. embedded: take our own defaults (API and
    console on loopback, data under ./wukongdata) instead of WuKongIM's where nothing is said. detect_ip: finds
    external.ip if it is not given; `detect_lan_ip` by default. Raises ConfigError with every fault found.
    """
    faults: list[str] = []
    warnings: list[str] = []
    found = _gather(None if path is None else Path(path), environ, faults)
    values = _read_values(found, faults)
    _judge_unknown(found, faults, warnings)
    _derive(values, environ, embedded, detect_ip or detect_lan_ip, faults)
    config = _build(Config, "", values)
    if "demo.on" not in values:
        # Nobody who opens ports or makes a cluster should get it without having asked for it.
        is_for_trying = config.http_addr.is_loopback and config.cluster.is_single_node
        config = replace(config, demo=replace(config.demo, on=is_for_trying))
    _check(config, faults, warnings)
    if faults:
        raise ConfigError(faults)
    return config, warnings


# --- sources ----------------------------------------------------------------------------------------------------------


class _TextLoader(yaml.SafeLoader):
    """YAML with scalars as they were typed. By YAML 1.1 the key `on` would be a boolean, 0123 octal, 1:30 base 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # any: PyYAML's own
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_TextLoader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [entry for entry in resolvers if entry[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")])
}


@dataclass(frozen=True)
class _Setting:
    """One value as found. raw: a text or a list of texts; anything else cannot be a value. variable: the environment
    variable it came from."""

    path: str
    raw: object
    variable: str = ""

    @property
    def is_empty(self) -> bool:
        return self.raw in ("", [])

    def __str__(self) -> str:
        return f"{self.path} (from {self.variable})" if self.variable not in ("", self.path) else self.path


def _gather(path: Path | None, environ: Mapping[str, str], faults: list[str]) -> dict[str, _Setting]:
    """Lower-case key path -> setting, of both sources. An empty variable counts as absent."""
    found: dict[str, _Setting] = {}
    for setting in _flatten(_read_file(path)) if path else ():
        lowered = setting.path.lower()
        if lowered in found:
            faults.append(f"{setting.path}: the same key is there as {found[lowered].path}; keep one")
        found[lowered] = setting
    known = [path for key in config_keys() for path in (key.path, key.also) if path]
    paths = {environment_name(path): path for path in (*known, *_UNSERVED)}
    for variable, value in environ.items():
        if variable.upper().startswith(ENVIRONMENT_PREFIX) and value:
            key_path = paths.get(variable.upper(), variable)
            found[key_path.lower()] = _Setting(key_path, value, variable)
    return found


def _read_file(path: Path) -> Mapping[Any, Any]:  # any: whatever the file's author wrote
    try:
        with path.open("rb") as file:
            content = file.read(limits.MAX_CONFIG_FILE_BYTES + 1)
    except OSError as fault:
        raise ConfigError([f"{path}: {fault.strerror}; name a configuration file that can be read"]) from fault
    if len(content) > limits.MAX_CONFIG_FILE_BYTES:
        raise ConfigError([f"{path}: larger than {limits.MAX_CONFIG_FILE_BYTES} bytes; name a configuration file"])
    try:
        text = content.decode("utf-8-sig")
        tree: object = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.load(text, _TextLoader)
    except yaml.MarkedYAMLError as fault:
        where = f"line {fault.problem_mark.line + 1}: " if fault.problem_mark else ""
        raise ConfigError([f"{path}: {where}{fault.problem}; correct the YAML"]) from fault
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError) as fault:
        raise ConfigError([f"{path}: {fault}; correct the file"]) from fault
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError([f"{path}: has no keys; write lines like httpAddr: 0.0.0.0:5001"])
    return tree


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[_Setting]:
    """The leaves with their paths. A key with dots (`external.ip: x`) is the same as a nested one."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path.count(".") < _MAX_DEPTH:
            yield from _flatten(value, f"{path}.")
        elif isinstance(value, list):
            yield _Setting(path, [_to_text(item) for item in value])
        else:
            yield _Setting(path, _to_text(value))


def _to_text(value: object) -> object:
    """TOML's typed values as YAML would have them typed. Structures and dates stay, to become faults."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


# --- values -----------------------------------------------------------------------------------------------------------


def _read_values(found: Mapping[str, _Setting], faults: list[str]) -> dict[str, object]:
    """Key path -> value, for the keys set to something else than "take the default"."""
    values: dict[str, object] = {}
    for key in config_keys():
        # The last one wins, so a key's own path comes behind the other key that may stand in for it.
        for path in filter(None, (key.also, key.path)):
            setting = found.get(path.lower())
            if setting is None or setting.is_empty:
                continue
            items = setting.raw if isinstance(setting.raw, list) else [setting.raw]
            if not all(isinstance(item, str) for item in items):
                faults.append(f"{setting}: takes plain values; there is something nested, or a date")
                continue
            try:
                value = key.kind.read(cast("Raw", setting.raw))
            except ValueError as fault:
                faults.append(f"{setting}: {fault}")
                continue
            if value or isinstance(value, bool):
                values[key.path] = value
    return values


def _judge_unknown(found: Mapping[str, _Setting], faults: list[str], warnings: list[str]) -> None:
    known = {path.lower(): path for key in config_keys() for path in (key.path, key.also) if path}
    ignored = [pattern.lower() for pattern in IGNORED_KEYS]
    sections = [*known, *ignored, *_UNSERVED]
    for lowered, setting in found.items():
        if lowered in known or _is_ignored(lowered, ignored):
            continue
        is_section = any(path.startswith(f"{lowered}.") for path in sections)
        if lowered in _UNSERVED:
            if not setting.is_empty and setting.raw != "false":
                warnings.append(_UNSERVED[lowered])
        elif is_section:
            if not setting.is_empty:
                faults.append(f"{setting}: takes keys below it, not a value")
        elif (leaf := _leaf_above(lowered, known)) is not None:
            faults.append(f"{setting}: {leaf} takes one value, and no keys below it")
        else:
            meant = _meant(lowered, known)
            hint = f"did you mean {meant}?" if meant else "docs/configuration.md lists the keys"
            warnings.append(f"{setting}: unknown key, ignored; {hint}")


def _meant(lowered: str, known: Mapping[str, str]) -> str:
    """The key that an unknown one may be misspelt for: its name in another section, or nearly its name."""
    names = {**known, **{environment_name(path).lower(): environment_name(path) for path in known.values()}}
    is_variable = lowered.startswith(ENVIRONMENT_PREFIX.lower())
    candidates = [name for name in names if name.startswith(ENVIRONMENT_PREFIX.lower()) == is_variable]
    leaf = lowered.rpartition(".")[2]
    namesakes = [name for name in candidates if name.rpartition(".")[2] == leaf]
    if len(namesakes) == 1:
        return names[namesakes[0]]
    close = difflib.get_close_matches(lowered, candidates, n=1, cutoff=0.8)
    return names[close[0]] if close else ""


def _is_ignored(lowered: str, ignored: list[str]) -> bool:
    for pattern in ignored:
        for form in (pattern, environment_name(pattern).lower()):
            if lowered == form or (form.endswith("*") and lowered.startswith(form[:-1])):
                return True
    return False


def _leaf_above(lowered: str, known: Mapping[str, str]) -> str | None:
    parts = lowered.split(".")
    above = (known.get(".".join(parts[:count])) for count in range(1, len(parts)))
    return next((path for path in above if path), None)


def _derive(
    values: dict[str, object],
    environ: Mapping[str, str],
    embedded: bool,
    detect_ip: Callable[[], str],
    faults: list[str],
) -> None:
    """Defaults that follow from other values or from where we run."""
    home = environ.get("HOME", "")
    for key_path in ("rootDir", "dataDir", "logger.dir"):
        given = values.get(key_path)
        if home and given is not None and str(given).startswith("~/"):
            values[key_path] = Path(home, str(given)[2:])
    if "rootDir" not in values:
        if not embedded and not home:
            faults.append("rootDir: its default lies in the home directory, and HOME is not set; set rootDir")
        values["rootDir"] = Path("wukongdata") if embedded else Path(home, "wukongim")
    root_dir = cast("Path", values["rootDir"])
    values.setdefault("dataDir", root_dir / "data")
    values["logger.dir"] = root_dir / cast("Path", values.get("logger.dir", LoggerConfig.dir))
    if embedded:
        values.setdefault("httpAddr", Address("127.0.0.1", 5001))
    if values.get("jwt.secret") == WELL_KNOWN_JWT_SECRET:
        # As if it were not there: a random one is better than one that everybody can sign with.
        del values["jwt.secret"]
    if "external.ip" not in values:
        values["external.ip"] = "127.0.0.1" if embedded else detect_ip()
    cluster_port = cast("Address", values.get("cluster.addr", ClusterConfig.addr)).port
    nodes = cast("tuple[NodeAddress, ...]", values.get("cluster.initNodes", ()))
    values["cluster.initNodes"] = tuple(node._replace(port=node.port or cluster_port) for node in nodes)
    if isinstance(seed := values.get("cluster.seed"), NodeAddress):
        values["cluster.seed"] = seed._replace(port=seed.port or cluster_port)


def _build(section: type[T], prefix: str, values: Mapping[str, object]) -> T:
    arguments: dict[str, object] = {}
    for item in fields(cast("type[Any]", section)):  # any: T is a dataclass, which no bound can say
        if "section" in item.metadata:
            below = cast("type[object]", item.default_factory)
            arguments[item.name] = _build(below, f"{prefix}{item.metadata['section']}.", values)
        else:
            arguments[item.name] = values.get(prefix + item.metadata["name"], item.default)
    return cast("Callable[..., T]", section)(**arguments)


def detect_lan_ip() -> str:
    """This machine's address towards other machines, or 127.0.0.1. Sends nothing: connecting a UDP socket only asks
    the routing table, and 192.0.2.1 is reserved for documentation."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


# --- checks that look at several keys -------------------------------------------------------------------------------


def _check(config: Config, faults: list[str], warnings: list[str]) -> None:
    _check_tls(config, faults)
    _check_listeners(config, faults)
    _check_cluster(config.cluster, faults)
    if config.wukong.election_ms <= 3 * config.wukong.heartbeat_ms:
        faults.append(
            f"wukong.electionTimeout: must be over three times wukong.heartbeat ({config.wukong.heartbeat_ms} ms), "
            "or a lost heartbeat is an election; raise it"
        )
    if config.wukong.node_gone_after_ms < 3 * config.wukong.election_ms:
        faults.append(
            "wukong.nodeGoneAfter: must be at least three times wukong.electionTimeout "
            f"({config.wukong.election_ms} ms), or a node that is being elected counts as gone; raise it"
        )
    _check_accounts(config, faults)
    if not config.http_addr.is_loopback and not config.manager_token:
        warnings.append(
            f"managerToken: NOT SET, and the API listens on {config.http_addr}. Whoever reaches that address can read "
            "and send every message. Set managerToken, or set httpAddr to 127.0.0.1:5001"
        )
    if config.wukong.webhook_secret and len(config.wukong.webhook_secret) < limits.MIN_WEBHOOK_SECRET_CHARS:
        faults.append(
            f"wukong.webhookSecret: shorter than {limits.MIN_WEBHOOK_SECRET_CHARS} characters; choose a longer one"
        )
    if config.manager.readonly_token and not config.manager_token:
        warnings.append(
            "manager.readonlyToken: without managerToken everybody on this machine is admin at the console without any "
            "token, and nobody else gets in. Set managerToken too"
        )
    if config.manager.on and not config.manager.addr.is_loopback and not config.manager_token:
        warnings.append(
            f"managerToken: NOT SET, and the manager listens on {config.manager.addr}. Whoever knows an account of "
            "auth.users can read every message there. Set managerToken, or set manager.addr to 127.0.0.1:5300"
        )
    if config.manager.on and not config.manager.addr.is_loopback and GUEST in config.console_accounts:
        warnings.append(
            "auth.users: anybody may log in as guest, password guest, and read every message at manager.addr. Set "
            "auth.users, or mode: release"
        )
    if 0 < len(config.jwt.secret) < limits.MIN_CLUSTER_SECRET_CHARS:
        warnings.append(
            f"jwt.secret: shorter than {limits.MIN_CLUSTER_SECRET_CHARS} characters, so it can be guessed from a "
            "login; choose a longer one, or leave it out"
        )
    if not config.wukong.fsync:
        warnings.append("wukong.fsync: off, so a power loss can take acknowledged messages; for tests only")
    warnings += [
        f"webhook.focusEvents: there is no event {event!r}; there are {', '.join(WEBHOOK_EVENTS)}"
        for event in config.webhook.focus_events
        if event not in WEBHOOK_EVENTS
    ]


def _check_tls(config: Config, faults: list[str]) -> None:
    if config.wss_addr is None:
        return
    files = {"wssConfig.certFile": config.wss_config.cert_file, "wssConfig.keyFile": config.wss_config.key_file}
    for key_path, name in files.items():
        if not name:
            faults.append(f"{key_path}: wssAddr is set, and TLS needs this file; name it, or leave wssAddr out")
        elif not Path(name).is_file():
            faults.append(f"{key_path}: there is no file {name!r}; name the PEM file")


def _check_listeners(config: Config, faults: list[str]) -> None:
    listeners = {"httpAddr": config.http_addr, "addr": config.tcp_addr, "wsAddr": config.ws_addr}
    if config.wss_addr is not None:
        listeners["wssAddr"] = config.wss_addr
    if config.manager.on:
        listeners["manager.addr"] = config.manager.addr
    if config.demo.on:
        listeners["demo.addr"] = config.demo.addr
    if not config.cluster.is_single_node:
        listeners["cluster.addr"] = config.cluster.addr
    taken: dict[str, Address] = {}
    for key_path, address in listeners.items():
        faults.extend(
            f"{key_path}: port {address.port} is taken by {other_path} already; choose another"
            for other_path, other in taken.items()
            if address.collides(other)
        )
        taken[key_path] = address


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
            "cluster.secret: not set, so any machine could pose as a node; set the same secret of at least "
            f"{limits.MIN_CLUSTER_SECRET_CHARS} characters on every node, or let cluster.addr listen on 127.0.0.1"
        )


def _check_accounts(config: Config, faults: list[str]) -> None:
    if config.manager_uid == SYSTEM_UID:
        faults.append(f"managerUID: {SYSTEM_UID} is the system's own; choose another")
    if any(character in config.manager_uid for character in "@#&"):
        faults.append("managerUID: a uid has none of the characters @ # &; choose another")
    if any(account.username == config.manager_uid for account in config.auth.users):
        faults.append(f"auth.users: {config.manager_uid} is managerUID, who has all rights already; remove the entry")
