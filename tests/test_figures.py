"""What a real node shows of itself after some traffic: figures, their history, a trace, and a log without secrets.

Everything that dashboards and alert rules ask for has to be among the figures.
"""

import asyncio
import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import Api
from tests.support.server import ROOT, ServerProcess, free_ports
from tests.support.wire import Client, Kind, LoginRefused
from wukong.service.history import SERIES

SENDS = 40
RECEIVERS = 3
MANAGER_TOKEN = "manager-0123456789-secret"
WRONG_TOKEN = "wrong-0123456789-secret"
USER_TOKEN = "user-0123456789-secret"
JWT_SECRET = "jwt-0123456789-0123456789-secret"
WEBHOOK_SECRET = "webhook-0123456789-secret"
PASSWORD = "password-0123456789-secret"
PAYLOAD = b"payload-0123456789-secret"
SECRETS = [MANAGER_TOKEN, WRONG_TOKEN, USER_TOKEN, JWT_SECRET, WEBHOOK_SECRET, PASSWORD, PAYLOAD.decode()]

# What the outside world adds, and what only shows up where Prometheus runs.
NOT_OURS = {"up"}


class Seen(NamedTuple):
    """metrics: sample with labels -> value. families: name as in /metrics -> type. trace: of an API send."""

    metrics: dict[str, float]
    families: dict[str, str]
    history: dict[str, Any]
    trace: dict[str, Any]
    untraced: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    (port,) = free_ports(1)
    settings: dict[str, Any] = {
        "managerToken": MANAGER_TOKEN,
        "manager": {"on": True, "addr": f"127.0.0.1:{port}"},
        "tokenAuthOn": True,
        "logger": {"level": 1, "format": "json"},
        "jwt": {"secret": JWT_SECRET},
        "auth": {"users": [f"boss:{PASSWORD}:*"]},
        "wukong": {"webhookSecret": WEBHOOK_SECRET},
    }
    server = ServerProcess(tmp_path_factory.mktemp("node"), settings)
    server.start()
    try:
        yield asyncio.run(traffic(server, port))
    finally:
        server.kill()


def look(url: str, token: str = MANAGER_TOKEN) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"token": token}), timeout=5) as answer:
        found: str = answer.read().decode()
        return found


async def traffic(server: ServerProcess, manager_port: int) -> Seen:
    manager = f"http://127.0.0.1:{manager_port}"
    async with aiohttp.ClientSession(headers={"token": MANAGER_TOKEN}) as http:
        api = Api(server.http_url, http)
        uids = ["ann", *(f"r{number}" for number in range(RECEIVERS))]
        for uid in uids:
            await api.post("/user/token", {"uid": uid, "token": USER_TOKEN, "device_flag": 0, "device_level": 1})
        await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": uids})
        clients = [Client(uid, Kind.TCP, token=USER_TOKEN) for uid in uids]
        for client in clients:
            await client.open("127.0.0.1", server.tcp_port, http)
        with pytest.raises(LoginRefused):
            await Client("ann", Kind.TCP, token=WRONG_TOKEN).open("127.0.0.1", server.tcp_port, http)
        ann, *others = clients
        await asyncio.gather(*(ann.send("g", PAYLOAD) for _ in range(SENDS)))
        assert (await ann.send("strangers", PAYLOAD)).reason_code != 1
        # Answers, right and wrong ones, that a log could be tempted to quote.
        body = {"channel_id": "g", "channel_type": 2, "from_uid": "ann", "payload": base64.b64encode(PAYLOAD).decode()}
        async with http.post(f"{server.http_url}/message/send", json=body, headers={"X-Wukong-Trace": "1"}) as answer:
            trace = await answer.json()
        async with http.post(f"{server.http_url}/message/send", json=body) as answer:
            untraced = await answer.json()
        for wrong in (PAYLOAD, b'{"payload": "' + PAYLOAD + b'"}', b'{"channel_id": 1, "token": "' + PAYLOAD + b'"}'):
            await http.post(f"{server.http_url}/message/send", data=wrong)
        await http.post(f"{manager}/manager/login", json={"username": "boss", "password": PASSWORD})
        await http.post(f"{manager}/manager/login", json={"username": "boss", "password": WRONG_TOKEN})
        await http.post(f"{server.http_url}/user/token?token={WRONG_TOKEN}", json={}, headers={"token": WRONG_TOKEN})
        for client in others:
            await client.until_received(SENDS + 2)
        while read_metrics(text := look(f"{server.http_url}/metrics"))['wukong_recvacks_total{when="in_time"}'] < (
            RECEIVERS * (SENDS + 2)
        ):
            await asyncio.sleep(0.02)
        while not (history := json.loads(look(f"{manager}/history")))["series"]["sessions"]:
            await asyncio.sleep(0.1)
        while not read_metrics(text := look(f"{server.http_url}/metrics"))["wukong_audit_channels_total"]:
            await asyncio.sleep(0.1)
        for client in clients:
            await client.close()
    await asyncio.to_thread(server.stop)
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    return Seen(read_metrics(text), families, history, trace, untraced, server.log_path.read_text())


def read_metrics(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


# -- figures --


def test_sends_and_what_became_of_them_are_counted(seen: Seen) -> None:
    found = seen.metrics
    assert found["wukong_sends_total"] == SENDS + 1
    assert found["wukong_api_messages_total"] == 2
    refused = {name: value for name, value in found.items() if name.startswith("wukong_sends_refused_total")}
    assert sum(refused.values()) == 1
    assert found['wukong_logins_refused_total{reason="2"}'] == 1
    assert found["wukong_logins_total"] == RECEIVERS + 1
    # Ann has one session: she gets nothing of her own SENDs, but what the back end sends in her name.
    pushed = RECEIVERS * (SENDS + 2) + 2
    assert found["wukong_pushes_total"] == found["wukong_recvacks_expected_total"] == pushed
    assert found["wukong_recvs_written_total"] == pushed
    assert found['wukong_recvacks_total{when="late"}'] == 0


def test_the_way_of_a_send_is_timed(seen: Seen) -> None:
    found = seen.metrics
    timed = found["wukong_send_duration_seconds_count"]
    assert SENDS / 32 <= timed <= SENDS + 1
    assert 0 < found["wukong_send_duration_seconds_sum"] < 60
    # The refused one was answered and reached nobody.
    assert timed - 1 <= found["wukong_delivery_duration_seconds_count"] <= timed
    assert 0 < found["wukong_wal_sync_duration_seconds_count"] <= found["wukong_wal_syncs_total"]
    assert found["wukong_entry_commands_sum"] == found["wukong_commands_applied_total"]
    assert found["wukong_apply_duration_seconds_count"] > 0


def test_a_histogram_is_one_for_prometheus(seen: Seen) -> None:
    for name in ("wukong_send_duration_seconds", "wukong_entry_commands"):
        assert seen.families[name] == "histogram"
        steps = [value for sample, value in seen.metrics.items() if sample.startswith(f"{name}_bucket")]
        assert steps == sorted(steps)
        assert steps[-1] == seen.metrics[f"{name}_count"] == seen.metrics[f'{name}_bucket{{le="+Inf"}}']


def test_a_healthy_node_says_so(seen: Seen) -> None:
    found = seen.metrics
    assert found["wukong_serving"] == 1
    assert found["wukong_slots_leaderless"] == 0
    assert found["wukong_slots"] == found["wukong_slots_led"]
    assert found["wukong_lag_entries"] == 0
    assert found["wukong_audit_channels_total"] > 0
    assert found["wukong_audit_differences_total"] == 0


def test_names_follow_the_conventions_of_prometheus(seen: Seen) -> None:
    ours = {name: kind for name, kind in seen.families.items() if name.startswith("wukong_")}
    assert all(re.fullmatch(r"[a-z][a-z_]+", name) for name in ours)
    assert [name for name in ours if name.endswith(("_ms", "_milliseconds", "_kb", "_mb", "_percent", "_count"))] == []
    text = [name for name, kind in ours.items() if kind == "counter" and f"{name}_total" not in str(seen.metrics)]
    assert text == []


def test_every_figure_is_explained_on_the_operators_page(seen: Seen) -> None:
    page = (ROOT / "docs/operating.md").read_text()
    named = set(re.findall(r"`(wukong_[a-z_]+)", page))
    ours = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in seen.families.items()
        if name.startswith("wukong_")
    }
    assert ours - named == set()
    assert named - ours - {"wukong_links_total"} == set()


# -- dashboards and rules --


def expressions() -> dict[str, str]:
    """Where -> PromQL, of every panel and every rule."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", []):
                found[f"{path.name}: {panel['title']}: {target['refId']}"] = target["expr"]
    for path in sorted((ROOT / "deploy/prometheus").glob("*.yml")):
        for group in (yaml.safe_load(path.read_text()) or {}).get("groups", []):
            for rule in group["rules"]:
                found[f"{path.name}: {rule.get('alert') or rule['record']}"] = rule["expr"]
    return found


def panels(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in container.get("panels", []):
        yield panel
        yield from panels(panel)


def names_in(expression: str) -> set[str]:
    """Of the metrics that a PromQL expression asks for. Raises ValueError."""
    filled = re.sub(r"\$__(?:rate_)?(?:interval|range)\b", "1m", expression)
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)

    promql_parser.walk(promql_parser.parse(filled), pre_visit=visit)
    return found


def test_the_check_of_expressions_finds_what_is_wrong() -> None:
    assert names_in("sum by (node) (rate(a_total[$__rate_interval])) / on(node) b > 1") == {"a_total", "b"}
    with pytest.raises(ValueError):
        names_in("sum(rate(a_total[5m])")


def test_dashboards_and_rules_ask_for_figures_that_a_node_shows(seen: Seen) -> None:
    shown = {name.partition("{")[0] for name in seen.metrics}
    # Labels that have had no value yet, and parts of a cluster.
    shown |= {f"{name}_total" for name, kind in seen.families.items() if kind == "counter"} | set(seen.families)
    asked = expressions()
    assert len(asked) > 30
    missing = {where: names_in(expression) - shown - NOT_OURS for where, expression in asked.items()}
    recorded = {rule.partition(": ")[2] for rule in asked if ":" in rule.partition(": ")[2]}
    assert {where: names - recorded for where, names in missing.items() if names - recorded} == {}


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    alerts = [rule for group in rules for rule in group["rules"] if "alert" in rule]
    page = (ROOT / "docs/operating.md").read_text()
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning"), alert
        assert set(alert["annotations"]) == {"summary", "what"}, alert
        assert f"`{alert['alert']}`" in page, alert


def test_panels_have_units_and_no_two_the_same_place() -> None:
    for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        taken: set[tuple[int, int]] = set()
        for panel in panels(board):
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells
            assert panel["type"] == "row" or panel["fieldConfig"]["defaults"].get("unit"), panel["title"]


# -- history --


def test_the_history_has_a_sample_of_every_series(seen: Seen) -> None:
    assert seen.history["interval_s"] == 5
    assert set(seen.history["series"]) == set(SERIES)
    assert len({len(values) for values in seen.history["series"].values()}) == 1
    assert sum(seen.history["series"]["send_per_s"]) > 0
    assert sum(seen.history["series"]["recv_per_s"]) > 0
    assert any(seen.history["series"]["ack_p99_ms"])
    assert any(seen.history["series"]["recv_p50_ms"])


# -- trace --


def test_a_traced_message_tells_its_stages_in_order(seen: Seen) -> None:
    trace = seen.trace["data"]["trace"]
    stages = [trace[name] for name in ("received_ms", "proposed_ms", "applied_ms", "fanned_out_ms", "answered_ms")]
    assert stages == sorted(stages)
    assert stages[0] == 0
    assert trace["fanned_out_ms"] <= trace["written_ms"] < 60_000
    assert trace["sessions"] == RECEIVERS + 1


def test_nobody_gets_a_trace_who_did_not_ask(seen: Seen) -> None:
    assert set(seen.untraced["data"]) == {"client_msg_no", "message_id"}


# -- log --


def test_a_log_holds_no_token_and_no_payload(seen: Seen) -> None:
    coded = [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in SECRETS]
    assert [secret for secret in [*SECRETS, *coded] if secret in seen.log] == []


def test_every_line_of_the_log_is_an_object(seen: Seen) -> None:
    lines = [json.loads(line) for line in seen.log.splitlines()]
    assert len(lines) > 3
    for line in lines:
        assert {"time", "level", "logger", "message", "node"} <= set(line)
        assert line["node"] == 1001
