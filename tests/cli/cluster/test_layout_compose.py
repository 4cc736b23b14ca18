"""docker-compose.yml and deploy/ lay out a cluster too: its nodes can start, and the figures asked for are there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wukong.config import Config, load_config

ROOT = Path(__file__).parents[3]
# Ours have the prefix; the process's come from the library that writes them.


def services() -> dict[str, Any]:  # any: YAML
    # What is not set in the environment has its default, as compose does it.
    text = re.sub(r"\$\{\w+(?::-([^}]*))?\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


NODES = [name for name in services() if name.startswith("node")]


def config_of(name: str) -> tuple[Config, list[str]]:
    """As the node reads it, with what the image sets and the secret that its entry point reads from the file."""
    environment = dict(services()[name]["environment"])
    assert environment.pop("WK_CLUSTER_SECRET_FILE") == "/secrets/cluster"
    image = re.findall(r"\b(WK_\w+)=(\S+)", (ROOT / "Dockerfile").read_text())
    return load_config(None, {**dict(image), **environment, "WK_CLUSTER_SECRET": "s" * 16}, embedded=True)


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_configuration_has_no_fault_and_warns_of_the_open_api_alone(name: str) -> None:
    config, warnings = config_of(name)
    assert [warning.partition(":")[0] for warning in warnings] == ["managerToken"]
    assert config.root_dir == Path("/data")
    assert str(config.cluster.server_addr) == f"{name}:{config.cluster.addr.port}"
    assert config.cluster.api_url == f"http://{name}:{config.http_addr.port}"


def test_three_nodes_form_the_cluster_and_two_join_it() -> None:
    clusters = [config_of(name)[0].cluster for name in NODES]
    assert [cluster.node_id for cluster in clusters] == [1001, 1002, 1003, 1004, 1005]
    assert [len(cluster.init_nodes) for cluster in clusters] == [3, 3, 3, 0, 0]
    members = {str(cluster.server_addr): cluster.node_id for cluster in clusters[:3]}
    for cluster in clusters[:3]:
        assert {f"{node.host}:{node.port}": node.node_id for node in cluster.init_nodes} == members
    for cluster in clusters[3:]:
        assert cluster.seed is not None
        assert members[f"{cluster.seed.host}:{cluster.seed.port}"] == cluster.seed.node_id


@pytest.mark.parametrize("name", NODES)
def test_clients_are_told_the_ports_that_are_published_on_loopback(name: str) -> None:
    config, _ = config_of(name)
    published = {}
    for entry in services()[name]["ports"]:
        host, outside, inside = entry.split(":")
        assert host == "127.0.0.1"
        published[int(inside)] = outside
    shown = config.external_addresses()
    assert shown.tcp_addr == f"127.0.0.1:{published[config.tcp_addr.port]}"
    assert shown.ws_addr == f"ws://127.0.0.1:{published[config.ws_addr.port]}"
    assert shown.api_url == f"http://127.0.0.1:{published[config.http_addr.port]}"


def test_no_port_is_published_twice() -> None:
    ports = [entry.rpartition(":")[0] for service in services().values() for entry in service.get("ports", [])]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("name", [*NODES, "secret"])
def test_our_containers_have_no_rights_they_do_not_need(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
