from itertools import chain
from pathlib import Path

import pytest
import yaml

from wukong.cli.cluster.layout import FIRST_NODE, MAX_NODES, advice, configuration, lay_out
from wukong.config import load_config


def test_no_two_ports_of_the_largest_cluster_are_the_same() -> None:
    ports = list(chain.from_iterable(node.ports() for node in lay_out(MAX_NODES).nodes))
    assert len(ports) == len(set(ports)) == 4 * MAX_NODES


def test_the_first_node_is_where_the_other_commands_look_by_default() -> None:
    from wukong.cli.options import DEFAULT_API, DEFAULT_TCP

    first = lay_out(3).nodes[0]
    assert (first.api, first.tcp) == (DEFAULT_API, DEFAULT_TCP)


def test_a_node_has_the_same_ports_whoever_it_is_started_with() -> None:
    assert lay_out(5).nodes[3] == lay_out(1, first=FIRST_NODE + 3).nodes[0]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_its_configurations_have_neither_faults_nor_warnings(count: int, tmp_path: Path) -> None:
    plan = lay_out(count)
    for node in plan.nodes:
        path = tmp_path / f"{node.node}.yaml"
        path.write_text(yaml.safe_dump(dict(configuration(node, plan, str(tmp_path)))))
        config, warnings = load_config(path, {}, embedded=False)
        assert warnings == []
        assert config.cluster.node_id == node.node
        assert config.cluster.is_single_node == (count == 1)
        assert [each.node_id for each in config.cluster.init_nodes] == [each.node for each in plan.nodes]
        assert all(address.is_loopback for address in (config.http_addr, config.tcp_addr, config.cluster.addr))


def test_later_nodes_join_the_first_one(tmp_path: Path) -> None:
    plan = lay_out(2, first=1004, base_port=20_000)
    path = tmp_path / "wk.yaml"
    path.write_text(yaml.safe_dump(dict(configuration(plan.nodes[0], plan, str(tmp_path)))))
    config, warnings = load_config(path, {}, embedded=False)
    assert warnings == []
    assert config.cluster.seed is not None
    assert (config.cluster.seed.node_id, config.cluster.seed.port) == (1001, 20_400)
    assert config.cluster.init_nodes == ()


@pytest.mark.parametrize(
    ("count", "first", "base_port"),
    [
        (MAX_NODES + 1, 1001, 5000),
        (2, FIRST_NODE + MAX_NODES - 1, 5000),
        (1, 1, 5000),
        (3, 1001, 80),
        (3, 1001, 65_400),
    ],
)
def test_what_has_no_room_is_refused(count: int, first: int, base_port: int) -> None:
    with pytest.raises(ValueError, match=r"1001 to 1009|--base-port"):
        lay_out(count, first=first, base_port=base_port)


def test_the_advice_fits_a_terminal_and_leaves_out_what_is_the_default() -> None:
    for text in (advice(lay_out(5)), advice(lay_out(MAX_NODES, base_port=60_000)), advice(lay_out(1, first=1004))):
        assert max(map(len, text.splitlines())) <= 80
    assert "--api" not in advice(lay_out(3)).partition("demo")[0]
    assert "--api http://127.0.0.1:7001" in advice(lay_out(3, base_port=7000))


def test_the_advised_lists_are_one_word_for_the_shell() -> None:
    text = advice(lay_out(5)).partition("  wukong demo")[2].partition("One more")[0]
    words = text.replace("\\\n", "").split()
    assert [word.count(",") for word in words if word.startswith(("http", "127"))] == [4, 4]
