"""Configuration from files and environment: defaults, precedence, old files unchanged, all faults at once."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from wukong.config import Address, Config, NodeAddress, detect_lan_ip, load_config
from wukong.config.load import IGNORED_KEYS
from wukong.errors import ConfigError
from wukong.limits import MINUTE_MS, SECOND_MS

HOME = {"HOME": "/home/op"}
Write = Callable[..., Path]
LOOPBACK = "httpAddr: 127.0.0.1:5001\n"


def lan_ip() -> str:
    return "10.9.8.7"


def load(path: Path | None, environ: Mapping[str, str] = HOME, *, embedded: bool = False) -> tuple[Config, list[str]]:
    return load_config(path, environ, embedded=embedded, detect_ip=lan_ip)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "wk.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def faults_of(path: Path | None, environ: Mapping[str, str] = HOME) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return caught.value.faults


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_without_a_file_the_node_is_embedded_and_its_api_is_on_loopback() -> None:
    config, warnings = load(None, {}, embedded=True)
    assert warnings == []
    assert (config.root_dir, config.data_dir) == (Path("wukongdata"), Path("wukongdata/data"))
    assert config.logger.dir == Path("wukongdata/logs")
    assert config.http_addr == Address("127.0.0.1", 5001)
    assert config.manager.addr == Address("127.0.0.1", 5300)
    assert (config.tcp_addr, config.ws_addr) == (Address("0.0.0.0", 5100), Address("0.0.0.0", 5200))
    assert config.external_addresses() == ("127.0.0.1:5100", "ws://127.0.0.1:5200", "", "http://127.0.0.1:5001")
    assert config.wukong.slot_count == 16
    assert config.cluster.is_single_node


def test_an_empty_file_gives_the_old_servers_defaults_and_a_loud_warning(write: Write) -> None:
    config, warnings = load(write(""))
    assert (config.root_dir, config.data_dir) == (Path("/home/op/wukongim"), Path("/home/op/wukongim/data"))
    assert config.logger.dir == Path("/home/op/wukongim/logs")
    assert config.http_addr == Address("0.0.0.0", 5001)
    assert config.external_addresses().tcp_addr == "10.9.8.7:5100"
    assert config.conn_idle_time_ms == 3 * MINUTE_MS
    assert config.whitelist_off_of_person and not config.token_auth_on
    (warning,) = warnings
    assert warning.startswith("managerToken: NOT SET, and the API listens on 0.0.0.0:5001")


def test_a_token_that_only_looks_protects_nothing_without_the_other(write: Write) -> None:
    (warning,) = load(write(f"{LOOPBACK}\nmanager: {{readonlyToken: a-token}}"))[1]
    assert warning.startswith("manager.readonlyToken: without managerToken")
    assert load(write("managerToken: b-token\nmanager: {readonlyToken: a-token}"))[1] == []


@pytest.mark.parametrize("text", [LOOPBACK, "httpAddr: '[::1]:5001'", "managerToken: a-token"])
def test_an_api_on_loopback_or_with_a_token_needs_no_warning(write: Write, text: str) -> None:
    assert load(write(text))[1] == []


def test_data_and_logs_follow_the_root_unless_they_are_given(write: Write) -> None:
    config, _ = load(write("rootDir: /srv/im"))
    assert (config.data_dir, config.logger.dir) == (Path("/srv/im/data"), Path("/srv/im/logs"))
    config, _ = load(write("rootDir: ~/im\ndataDir: /srv/data\nlogger: {dir: ./log}"))
    assert (config.root_dir, config.data_dir) == (Path("/home/op/im"), Path("/srv/data"))
    assert config.logger.dir == Path("/home/op/im/log")
    assert load(write("logger: {dir: /var/log/im}"))[0].logger.dir == Path("/var/log/im")


def test_without_a_home_directory_the_root_has_to_be_given(write: Write) -> None:
    assert any(fault.startswith("rootDir:") for fault in faults_of(write(""), {}))
    assert load(write("rootDir: /srv/im"), {})[0].data_dir == Path("/srv/im/data")


def test_the_detected_address_is_an_ip_of_this_machine() -> None:
    assert len(detect_lan_ip().split(".")) == 4


def test_the_address_is_detected_only_if_it_is_not_given(write: Write) -> None:
    def must_not_run() -> str:
        raise AssertionError("asked for the address")

    config, _ = load_config(write("external: {ip: 203.0.113.7}"), HOME, embedded=False, detect_ip=must_not_run)
    assert config.external_addresses().ws_addr == "ws://203.0.113.7:5200"


# --- reading rules ----------------------------------------------------------------------------------------------------

YAML = """
mode: release
httpAddr: 127.0.0.1:6001
addr: tcp://127.0.0.1:6100
tokenAuthOn: true
connIdleTime: 90s
webhook:
  httpAddr: http://127.0.0.1:6400/hook
  focusEvents: [msg.notify, msg.offline]
  msgNotifyEventCountPerPush: 7
cluster:
  nodeId: 7
wukong:
  fsync: true
  walSegmentBytes: 2MiB
"""
TOML = """
mode = "release"
httpAddr = "127.0.0.1:6001"
addr = "tcp://127.0.0.1:6100"
tokenAuthOn = true
connIdleTime = "90s"
[webhook]
httpAddr = "http://127.0.0.1:6400/hook"
focusEvents = ["msg.notify", "msg.offline"]
msgNotifyEventCountPerPush = 7
[cluster]
nodeId = 7
[wukong]
fsync = true
walSegmentBytes = 2097152
"""
ENVIRON = {
    "WK_MODE": "release",
    "WK_HTTPADDR": "127.0.0.1:6001",
    "WK_ADDR": "tcp://127.0.0.1:6100",
    "WK_TOKENAUTHON": "true",
    "WK_CONNIDLETIME": "90s",
    "WK_WEBHOOK_HTTPADDR": "http://127.0.0.1:6400/hook",
    "WK_WEBHOOK_FOCUSEVENTS": "msg.notify msg.offline",
    "WK_WEBHOOK_MSGNOTIFYEVENTCOUNTPERPUSH": "7",
    "WK_CLUSTER_NODEID": "7",
    "WK_WUKONG_FSYNC": "on",
    "WK_WUKONG_WALSEGMENTBYTES": "2MiB",
}


def test_yaml_toml_and_the_environment_say_the_same_in_their_own_ways(write: Write) -> None:
    from_yaml = load(write(YAML))
    from_toml = load(write(TOML, "wk.toml"))
    from_environment = load(None, HOME | ENVIRON)
    assert from_yaml == from_toml == from_environment
    config, warnings = from_yaml
    assert warnings == []
    assert config.http_addr == Address("127.0.0.1", 6001)
    assert config.conn_idle_time_ms == 90 * SECOND_MS
    assert config.webhook.focus_events == ("msg.notify", "msg.offline")
    assert config.cluster.node_id == 7
    assert config.wukong.wal_segment_bytes == 2 << 20


def test_the_environment_wins_over_the_file_and_an_empty_variable_is_absent(write: Write) -> None:
    path = write(LOOPBACK + "managerUID: file\ntokenAuthOn: true\nconnIdleTime: 10s")
    config, _ = load(path, HOME | {"WK_MANAGERUID": "env", "WK_TOKENAUTHON": "false", "WK_CONNIDLETIME": ""})
    assert (config.manager_uid, config.token_auth_on, config.conn_idle_time_ms) == ("env", False, 10 * SECOND_MS)


def test_a_value_that_the_environment_replaces_is_not_judged(write: Write) -> None:
    path = write(LOOPBACK + "connIdleTime: soon")
    assert load(path, HOME | {"WK_CONNIDLETIME": "5s"})[0].conn_idle_time_ms == 5 * SECOND_MS


def test_keys_are_not_case_sensitive_and_dots_may_stand_for_nesting(write: Write) -> None:
    config, warnings = load(write("HTTPADDR: 127.0.0.1:1\nExternal.IP: 1.2.3.4\nwebhook.focusevents: msg.notify"))
    assert warnings == []
    assert config.http_addr == Address("127.0.0.1", 1)
    assert config.external.ip == "1.2.3.4"
    assert config.webhook.focus_events == ("msg.notify",)


def test_zero_and_empty_mean_the_default_but_false_is_false(write: Write) -> None:
    config, _ = load(
        write(
            LOOPBACK
            + """
            external: {ip: ""}
            managerUID: ''
            connIdleTime: 0
            whitelistOffOfPerson: false
            webhook:
            messageRetry: {maxCount: 0, interval: 0s}
            conversation: {on: false, userMaxCount: ~}
            cluster: {nodeId: 0, initNodes: []}
            wukong: {slotCount: 0, fsync: ""}
            """.replace("\n            ", "\n")
        )
    )
    assert config.external.ip == "10.9.8.7"
    assert config.manager_uid == "____manager"
    assert config.conn_idle_time_ms == 3 * MINUTE_MS
    assert config.whitelist_off_of_person is False
    assert (config.message_retry.max_count, config.message_retry.interval_ms) == (5, MINUTE_MS)
    assert (config.conversation.on, config.conversation.user_max_count) == (False, 1000)
    assert (config.cluster.node_id, config.wukong.slot_count, config.wukong.fsync) == (1001, 16, True)


def test_scalars_are_taken_as_typed_and_not_as_yaml_1_1_would_have_them(write: Write) -> None:
    config, warnings = load(write(LOOPBACK + "managerToken: 0123\nmanagerUID: no\nconversation:\n  on: false"))
    assert warnings == []
    assert (config.manager_token, config.manager_uid, config.conversation.on) == ("0123", "no", False)


def test_yaml_anchors_and_merges_work(write: Write) -> None:
    text = LOOPBACK + "x: &x {interval: 5s, maxCount: 2}\nmessageRetry: {<<: *x, maxCount: 3}"
    config, warnings = load(write(text))
    assert (config.message_retry.interval_ms, config.message_retry.max_count) == (5 * SECOND_MS, 3)
    assert len(warnings) == 2, "x and its keys are unknown"


@pytest.mark.parametrize(
    ("text", "slot_count"),
    [
        ("", 16),
        ("cluster: {slotCount: 64}", 64),
        ("wukong: {slotCount: 8}", 8),
        ("cluster: {slotCount: 64}\nwukong: {slotCount: 8}", 8),
    ],
)
def test_the_old_servers_slot_count_counts_unless_ours_is_given(write: Write, text: str, slot_count: int) -> None:
    assert load(write(LOOPBACK + text))[0].wukong.slot_count == slot_count


def test_nodes_without_a_port_have_the_clusters_own(write: Write) -> None:
    config, _ = load(
        write(
            LOOPBACK + "cluster: {nodeId: 1, addr: 'tcp://127.0.0.1:7000', initNodes: [1@127.0.0.1, 2@127.0.0.1:7001],"
            " seed: 2@127.0.0.1}"
        )
    )
    assert config.cluster.init_nodes == (NodeAddress(1, "127.0.0.1", 7000), NodeAddress(2, "127.0.0.1", 7001))
    assert config.cluster.seed == NodeAddress(2, "127.0.0.1", 7000)
    assert not config.cluster.is_single_node


# --- files of the server we replace -----------------------------------------------------------------------------------

STOCK = """
mode: "release"
external:
  ip: "203.0.113.7"
  monitorAddr: "203.0.113.7:5300"
monitor: {on: true, addr: "0.0.0.0:5300"}
demo: {on: true, addr: "0.0.0.0:5172"}
channel: {cacheCount: 1000, createIfNoExist: true, subscriberCompressOfCount: 0}
tmpChannel: {suffix: "@tmp", cacheCount: 500}
webhook:
  msgNotifyEventPushInterval: 500ms
  msgNotifyEventRetryMaxCount: 5
  msgNotifyEventCountPerPush: 100
datasource: {addr: "", channelInfoOn: false}
conversation: {on: true, cacheExpire: 1d, syncInterval: 5m, syncOnce: 100, userMaxCount: 1000}
messageRetry: {interval: 60s, scanInterval: 5s, maxCount: 5}
userMsgQueueMaxSize: 0
managerToken: "from-the-old-file"
logger: {level: 2, dir: "./logs", lineNum: true}
cluster: {nodeId: 1001, slotCount: 64, slotReplicaCount: 3, channelReplicaCount: 3, tickInterval: 150ms}
jwt: {secret: "a secret of their own", expire: 30d, issuer: "wukongim"}
reactor: {channel: {subCount: 64}, user: {subCount: 64}}
"""


def test_a_stock_file_starts_unchanged_and_what_is_unknown_is_said_once_each(write: Write) -> None:
    config, warnings = load(write(STOCK))
    assert config.external_addresses().tcp_addr == "203.0.113.7:5100"
    assert config.message_retry.scan_interval_ms == 5 * SECOND_MS
    assert config.wukong.slot_count == 64
    assert [warning.partition(":")[0] for warning in warnings] == ["external.monitorAddr", "monitor.on", "monitor.addr"]


def test_keys_without_meaning_here_are_taken_in_silence_from_both_sources(write: Write) -> None:
    paths = [pattern.replace("*", "anything") for pattern in IGNORED_KEYS]
    text = LOOPBACK + "".join(f"{path}: '1'\n" for path in paths)
    assert load(write(text))[1] == []
    environ = {f"WK_{path.replace('.', '_').upper()}": "1" for path in paths}
    assert load(write(LOOPBACK), HOME | environ)[1] == []


def test_an_unknown_key_is_named_with_its_path_and_an_unknown_variable_too(write: Write) -> None:
    _, warnings = load(write(LOOPBACK + "webhook: {htpAddr: x}\ntokenAuth: true"), HOME | {"WK_TOKNAUTHON": "1"})
    assert [warning.partition(" unknown")[0] for warning in warnings] == [
        "webhook.htpAddr:",
        "tokenAuth:",
        "WK_TOKNAUTHON:",
    ]


def test_what_this_server_does_not_do_is_said(write: Write) -> None:
    _, warnings = load(write(LOOPBACK + "external: {autoGetExternalIP: true}\nplugin: {timeout: 1s}"))
    assert [warning.partition(":")[0] for warning in warnings] == ["external.autoGetExternalIP", "plugin.timeout"]
    assert load(write(LOOPBACK + "external: {autoGetExternalIP: false}\nplugin:"))[1] == []


# The modes in which the recorded cases of the old server are played (tests/compat).
NEEDS: dict[str, tuple[str, Callable[[Config], bool]]] = {
    "none": ("", lambda config: config == config),
    "webhook": ("webhook: {httpAddr: 'http://127.0.0.1:6400/hook'}", lambda config: config.webhook.on),
    "ws": ("wsAddr: 'ws://127.0.0.1:5210'", lambda config: config.ws_addr == Address("127.0.0.1", 5210)),
    "token_auth": ("tokenAuthOn: true", lambda config: config.token_auth_on),
    "no_encryption": ("disableEncryption: true", lambda config: config.disable_encryption),
    "person_allowlist": ("whitelistOffOfPerson: false", lambda config: not config.whitelist_off_of_person),
    "manager_token": (
        "managerToken: secret-manager-token",
        lambda config: config.manager_token == "secret-manager-token",
    ),
    "no_cmd_sync": ("disableCMDMessageSync: true", lambda config: config.disable_cmd_message_sync),
    "no_jsonrpc": ("disableJSONRPC: true", lambda config: config.disable_jsonrpc),
    "short_times": (
        "connIdleTime: 4s\nmessageRetry: {interval: 2s, scanInterval: 1s, maxCount: 3}\n"
        "conversation: {syncInterval: 1s}",
        lambda config: (
            (
                config.conn_idle_time_ms,
                config.message_retry.interval_ms,
                config.message_retry.scan_interval_ms,
                config.message_retry.max_count,
                config.conversation.sync_interval_ms,
            )
            == (4_000, 2_000, 1_000, 3, 1_000)
        ),
    ),
}


@pytest.mark.parametrize("need", NEEDS)
def test_the_file_of_each_compatibility_mode_is_understood(write: Write, need: str) -> None:
    text, holds = NEEDS[need]
    common = LOOPBACK + "mode: release\ndemo: {on: false}\nexternal: {tcpAddr: '127.0.0.1:5100'}\n"
    config, warnings = load(write(common + text))
    assert warnings == []
    assert config.external_addresses().tcp_addr == "127.0.0.1:5100"
    assert holds(config)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once_each_with_its_key(write: Write) -> None:
    path = write(
        """
        addr: 5100
        wsAddr: ws://0.0.0.0:5001
        wssAddr: wss://0.0.0.0:5210
        tokenAuthOn: perhaps
        connIdleTime: 180
        managerUID: ____system
        webhook: {httpAddr: 127.0.0.1/hook, focusEvents: {a: b}}
        external: 1.2.3.4
        mode: {debug: true}
        cluster: {nodeId: 5000, role: proxy, initNodes: [1@a, 1@b, nonsense]}
        wukong: {frameBodyBytes: 5MiB}
        """.replace("\n        ", "\n")
    )
    faults = faults_of(path, HOME | {"WK_LOGGER_LEVEL": "9"})
    assert sorted(fault.partition(":")[0] for fault in faults) == sorted(
        [
            "addr",
            "wsAddr",
            "wssConfig.certFile",
            "wssConfig.keyFile",
            "tokenAuthOn",
            "connIdleTime",
            "managerUID",
            "webhook.httpAddr",
            "webhook.focusEvents.a",
            "external",
            "mode.debug",
            "cluster.nodeId",
            "cluster.role",
            "cluster.initNodes",
            "wukong.frameBodyBytes",
            "logger.level (from WK_LOGGER_LEVEL)",
        ]
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("httpAddr: 0.0.0.0:5100", "addr: port 5100 is taken by httpAddr already"),
        ("manager: {addr: '0.0.0.0:5200'}", "manager.addr: port 5200 is taken by wsAddr already"),
        ("managerUID: a@b", "managerUID: a uid has none of the characters"),
        ("auth: {users: ['____manager:x:*']}", "auth.users: ____manager is managerUID"),
        ("httpAddr: [127.0.0.1:1]", "httpAddr: takes one value, not a list"),
        ("webhook: {focusEvents: [{a: b}]}", "webhook.focusEvents: takes plain values"),
        ("managerToken: a\nmanagertoken: b", "managertoken: the same key is there as managerToken"),
        ("cluster: {initNodes: [1@a:1, 2@b:1], secret: 0123456789abcdef}", "cluster.initNodes: this node"),
        ("cluster: {nodeId: 1, initNodes: [1@a:1, 1@b:1, 2@c:1]}", "cluster.initNodes: node 1 is there more than once"),
        ("cluster: {secret: short}", "cluster.secret: shorter than 16 characters"),
        ("wukong: {webhookSecret: short}", "wukong.webhookSecret: shorter than 16 characters"),
        ("cluster: {nodeId: 1, initNodes: [1@a:1, 2@b:1]}", "cluster.secret: not set, so any machine could pose"),
        ("cluster: {seed: 1@a:1}", "cluster.secret: not set, so any machine could pose"),
    ],
)
def test_a_fault_names_the_key_and_what_is_wrong(write: Write, text: str, fault: str) -> None:
    assert [each for each in faults_of(write(text)) if each.startswith(fault)]


def test_a_cluster_on_loopback_needs_no_secret_and_one_with_a_secret_may_listen_anywhere(write: Write) -> None:
    nodes = "nodeId: 1, initNodes: [1@127.0.0.1:7001, 2@127.0.0.1:7002]"
    load(write(LOOPBACK + f"cluster: {{{nodes}, addr: 'tcp://127.0.0.1:7001'}}"))
    load(write(LOOPBACK + f"cluster: {{{nodes}, secret: 0123456789abcdef}}"))


def test_a_single_node_that_names_itself_needs_no_secret(write: Write) -> None:
    config, _ = load(write(LOOPBACK + "cluster: {nodeId: 1, initNodes: [1@10.0.0.1:11110]}"))
    assert config.cluster.is_single_node


def test_tls_files_have_to_be_there(write: Write, tmp_path: Path) -> None:
    pem = tmp_path / "im.pem"
    text = f"wssAddr: wss://0.0.0.0:5210\nwssConfig: {{certFile: {pem}, keyFile: {pem}}}"
    assert faults_of(write(text)) == [
        f"wssConfig.certFile: there is no file '{pem}'; name the PEM file",
        f"wssConfig.keyFile: there is no file '{pem}'; name the PEM file",
    ]
    pem.write_text("pem")
    config, _ = load(write(text))
    assert config.wss_addr == Address("0.0.0.0", 5210)
    assert config.external_addresses().wss_addr == "wss://10.9.8.7:5210"


def test_an_unsynced_log_and_an_unknown_event_are_warned_of(write: Write) -> None:
    _, warnings = load(write(LOOPBACK + "wukong: {fsync: off}\nwebhook: {focusEvents: msg.unknown}"))
    assert [warning.partition(":")[0] for warning in warnings] == ["wukong.fsync", "webhook.focusEvents"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("wk.yaml", b"addr: [", "line 1: "),
        ("wk.yaml", b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice"),
        ("wk.yaml", b"just words", "has no keys"),
        ("wk.yaml", b"- a\n- b\n", "has no keys"),
        ("wk.yaml", b"a: \xff\xfe", "correct the file"),
        ("wk.yaml", b"a: !!python/name:os.system x", "line 1: "),
        ("wk.toml", b"a = ", "correct the file"),
        ("wk.yaml", b"#" * (1 << 20) + b"\n", "larger than 1048576 bytes"),
    ],
)
def test_a_broken_file_is_a_fault_that_says_where(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    (found,) = faults_of(path)
    assert found.startswith(f"{path}: ")
    assert fault in found


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path / "nowhere.yaml")
    assert "No such file" in fault


def test_a_file_that_nests_without_end_is_read_and_its_keys_are_unknown(write: Write) -> None:
    _, warnings = load(write(LOOPBACK + "a: &a\n  b: *a\n"))
    assert len(warnings) == 1
