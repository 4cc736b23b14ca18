"""The table of keys and the views of a configuration."""

import json
from collections import Counter

from wukong.config import Config, cluster_settings, config_keys, describe, load_config
from wukong.config.keys import environment_name


def load(**environ: str) -> Config:
    config, _ = load_config(None, environ, embedded=True)
    return config


def test_no_two_keys_share_a_path_or_an_environment_name() -> None:
    paths = [path for key in config_keys() for path in (key.path, key.also) if path]
    assert [path for path, count in Counter(path.lower() for path in paths).items() if count > 1] == []
    assert [name for name, count in Counter(map(environment_name, paths)).items() if count > 1] == []


def test_every_default_reads_back_as_itself_when_it_is_written_into_a_file() -> None:
    for key in config_keys():
        shown = "" if key.default is None else key.kind.show(key.default)
        if shown in ("", [], 0, False) or key.kind.sensitive:
            continue
        raw = str(shown).lower() if isinstance(shown, bool) else shown if isinstance(shown, list) else str(shown)
        assert key.kind.read(raw) == key.default, key.path


def test_the_environment_name_of_a_key_is_the_one_that_existing_deployments_use() -> None:
    assert environment_name("external.ip") == "WK_EXTERNAL_IP"
    assert environment_name("cluster.nodeId") == "WK_CLUSTER_NODEID"
    assert environment_name("webhook.grpcAddr") == "WK_WEBHOOK_GRPCADDR"


def test_a_description_masks_secrets_and_goes_into_json() -> None:
    config = load(
        WK_MANAGERTOKEN="hunter2-manager",
        WK_JWT_SECRET="hunter2-jwt",
        WK_CLUSTER_SECRET="hunter2-cluster-secret",
        WK_AUTH_USERS="boss:hunter2:*",
        WK_WEBHOOK_HTTPADDR="http://u:hunter2@127.0.0.1:1/x?k=hunter2",
    )
    shown = describe(config)
    assert "hunter2" not in json.dumps(shown)
    assert shown["managerToken"] == shown["jwt.secret"] == shown["cluster.secret"] == "***"
    assert shown["auth.users"] == ["boss:***:[*:rw]"]
    assert describe(load())["managerToken"] == ""


def test_a_repr_tells_no_secret() -> None:
    config = load(WK_MANAGERTOKEN="hunter2", WK_AUTH_USERS="boss:hunter2:*", WK_DATASOURCE_ADDR="http://u:hunter2@h/")
    assert "hunter2" not in repr(config)


def test_a_description_shows_values_as_a_file_would_have_them() -> None:
    shown = describe(load(WK_WUKONG_WALSEGMENTBYTES="2097152"))
    assert shown["connIdleTime"] == "3m"
    assert shown["wukong.walSegmentBytes"] == "2MiB"
    assert shown["addr"] == "tcp://0.0.0.0:5100"
    assert shown["wssAddr"] == ""
    assert shown["external.tcpAddr"] == "127.0.0.1:5100"
    assert set(shown) == {key.path for key in config_keys()}


def test_cluster_settings_are_what_apply_depends_on() -> None:
    assert cluster_settings(load()) == {
        "token_auth_on": False,
        "whitelist_off_of_person": True,
        "system_uid": "____system",
        "manager_uid": "____manager",
        "cmd_suffix": "____cmd",
        "visitors_suffix": "___vstr",
        "visitors_on": False,
        "online_cmd_channel_id": "systemcmdonline",
        "idempotency_retention_ms": 604_800_000,
        "no_persist_idempotency_retention_ms": 600_000,
        "members_per_command": 1_000,
        "conversation_on": True,
        "webhook_on": False,
        "webhook_events": [],
        "webhook_backlog_bytes": 67_108_864,
    }


def test_cluster_settings_follow_the_configuration() -> None:
    settings = cluster_settings(
        load(
            WK_TOKENAUTHON="true",
            WK_WHITELISTOFFOFPERSON="false",
            WK_MANAGERUID="boss",
            WK_CUSTOMERSERVICE_VISITORSSUFFIX="-visitor",
            WK_CUSTOMERSERVICE_VISITORSON="true",
            WK_CHANNEL_ONLINECMDCHANNELID="online",
            WK_CONVERSATION_ON="false",
            WK_WEBHOOK_GRPCADDR="127.0.0.1:6979",
            WK_WEBHOOK_FOCUSEVENTS="msg.offline user.onlinestatus",
            WK_WUKONG_IDEMPOTENCYRETENTION="1d",
            WK_WUKONG_NOPERSISTIDEMPOTENCYRETENTION="1m",
            WK_WUKONG_MEMBERSPERCOMMAND="10",
            WK_WUKONG_SLOTCOUNT="4",
            WK_WUKONG_WEBHOOKBACKLOGBYTES="1MiB",
        )
    )
    assert settings == {
        "token_auth_on": True,
        "whitelist_off_of_person": False,
        "system_uid": "____system",
        "manager_uid": "boss",
        "cmd_suffix": "____cmd",
        "visitors_suffix": "-visitor",
        "visitors_on": True,
        "online_cmd_channel_id": "online",
        "idempotency_retention_ms": 86_400_000,
        "no_persist_idempotency_retention_ms": 60_000,
        "members_per_command": 10,
        "conversation_on": False,
        "webhook_on": True,
        "webhook_events": ["msg.offline", "user.onlinestatus"],
        "webhook_backlog_bytes": 262_144,
    }


def test_external_addresses_follow_the_listeners_and_the_ports_that_were_bound() -> None:
    config = load(WK_EXTERNAL_IP="203.0.113.7", WK_ADDR="tcp://0.0.0.0:0", WK_EXTERNAL_WSADDR="wss://im.example/ws")
    addresses = config.external_addresses(tcp_port=41_000, ws_port=41_001, http_port=41_002)
    assert addresses == ("203.0.113.7:41000", "wss://im.example/ws", "", "http://203.0.113.7:41002")


def test_the_log_level_follows_the_mode_unless_it_is_given() -> None:
    assert load().log_level == "DEBUG"
    assert load(WK_MODE="release").log_level == "INFO"
    assert load(WK_MODE="release", WK_LOGGER_LEVEL="4").log_level == "ERROR"
