from pathlib import Path

import msgspec

from tests.cli.cluster.worlds import three
from wukong.cli.doctor.cluster import Told
from wukong.cli.doctor.examine import examine, own_url, peer_addresses
from wukong.config import Config, load_config


def config(tmp_path: Path, **keys: str) -> Config:
    return load_config(None, {"WK_DATADIR": str(tmp_path / "data"), **keys}, embedded=True)[0]


def test_the_api_of_a_node_that_listens_everywhere_is_asked_on_loopback(tmp_path: Path) -> None:
    assert own_url(config(tmp_path, WK_HTTPADDR="0.0.0.0:6001", WK_MANAGERTOKEN="x")) == "http://127.0.0.1:6001"
    assert own_url(config(tmp_path, WK_HTTPADDR="[::1]:6001")) == "http://[::1]:6001"


def test_peers_are_those_of_the_file_at_the_addresses_that_the_cluster_knows(tmp_path: Path) -> None:
    keys = {"WK_CLUSTER_NODEID": "1", "WK_CLUSTER_INITNODES": "1@127.0.0.1:1 2@127.0.0.1:2 3@127.0.0.1:3"}
    chosen = config(tmp_path, WK_CLUSTER_ADDR="tcp://127.0.0.1:1", **keys)
    assert peer_addresses(chosen, [], running=False) == {2: ("127.0.0.1", 2), 3: ("127.0.0.1", 3)}
    assert 1 in peer_addresses(chosen, [], running=True), "does this node run with the secret of this file?"
    status = three(4)
    nodes = [msgspec.structs.replace(status.nodes[0], id=2, addr="127.0.0.1:22", state="voter")]
    nodes.append(msgspec.structs.replace(status.nodes[0], id=9, addr="127.0.0.1:99", state="unknown"))
    told = Told("http://a", status=msgspec.structs.replace(status, nodes=nodes))
    assert peer_addresses(chosen, [told], running=False) == {2: ("127.0.0.1", 22), 3: ("127.0.0.1", 3)}


def test_a_node_alone_has_no_peers(tmp_path: Path) -> None:
    assert peer_addresses(config(tmp_path), [], running=True) == {}


async def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    seen = await examine(None, {"WK_DATADIR": str(tmp_path / "data"), "WK_MANAGER_ON": "false"}, [], "")
    assert any(each.check == "api" and "no server runs" in each.text for each in seen.findings)
    assert seen.told == []
