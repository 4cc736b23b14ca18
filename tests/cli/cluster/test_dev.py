import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.cluster.dev_process import DevProcess, free_base_port, is_alive
from tests.cli.conftest import Wukong, answer
from wukong.cli.cluster.dev import ClusterFailed, check_ports, folder, progress_text
from wukong.cli.cluster.layout import lay_out
from wukong.cli.cluster.probe import ask

WITHIN_S = 60.0


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[DevProcess]:
    process = DevProcess(directory, *options)
    try:
        yield process
    finally:
        process.close()


# -- what is refused before anything starts --


def test_a_port_in_use_is_named_with_what_it_is_for(wukong: Wukong) -> None:
    base_port = free_base_port(2)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", base_port + 101))
        holder.listen()
        result = wukong("cluster", "dev", "--nodes", "2", "--base-port", str(base_port), "--json")
    assert result.exit_code == 1
    assert f"in use already: port {base_port + 101} (TCP of node 1002)" in result.stderr
    assert "--base-port" in result.stderr
    assert "in use" in json.loads(result.stdout)["error"]


def test_all_ports_in_use_are_named_together() -> None:
    plan = lay_out(2, base_port=free_base_port(2))
    with contextlib.ExitStack() as held:
        for node in plan.nodes:
            holder = held.enter_context(socket.socket())
            holder.bind(("127.0.0.1", node.api_port))
            holder.listen()
        with pytest.raises(ClusterFailed) as failure:
            check_ports(plan)
    assert all(str(node.api_port) in str(failure.value) for node in plan.nodes)


def test_too_many_nodes_are_a_usage_error(wukong: Wukong) -> None:
    assert wukong("cluster", "dev", "--nodes", "2", "--first", "1009").exit_code == 2
    assert wukong("cluster", "dev", "--base-port", "65300").exit_code == 2


# -- folders --


def test_a_temporary_folder_is_deleted_unless_it_is_to_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with folder(None, lay_out(1), keep=False) as place:
        (place / "data").write_text("x")
    assert not place.exists()
    with folder(None, lay_out(1), keep=True) as place:
        (place / "data").write_text("x")
    assert (place / "data").exists()
    assert f"--dir {place}" in capsys.readouterr().err
    # What was kept can be gone on with.
    with folder(place, lay_out(1), keep=False):
        pass
    (place / "data").unlink()
    (place / "cluster.json").unlink()
    place.rmdir()


def test_a_given_folder_stays_and_takes_more_nodes(tmp_path: Path) -> None:
    for count in (1, 3, 5):
        with folder(tmp_path / "cluster", lay_out(count), keep=False) as place:
            assert place == tmp_path / "cluster"
    assert place.exists()


def test_a_folder_of_other_ports_is_refused(tmp_path: Path) -> None:
    with folder(tmp_path / "cluster", lay_out(3), keep=False):
        pass
    with (
        pytest.raises(ValueError, match="--first 1001 --base-port 5000"),
        folder(tmp_path / "cluster", lay_out(3, base_port=7000), keep=False),
    ):
        pass


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(ValueError, match="not empty"), folder(tmp_path, lay_out(3), keep=False):
        pass


# -- what is shown --


def test_the_progress_groups_those_that_wait_for_the_same() -> None:
    first, second, third = lay_out(3).nodes
    text = progress_text({first: "", second: "starting", third: "starting"})
    assert text == "1 of 3 nodes are up; 1002, 1003: starting"


# -- life --


def test_one_node_lives_until_ctrl_c(tmp_path: Path) -> None:
    base_port = free_base_port(1)
    with running(tmp_path, "--nodes", "1", "--base-port", str(base_port)) as process:
        found = process.ready()
        (node,) = found["nodes"]
        assert node["id"] == 1001
        assert node["api"] == f"http://127.0.0.1:{base_port + 1}"
        assert ask("127.0.0.1", base_port + 1) == ""
        assert process.end() == 0, process.said
    assert not is_alive(node["pid"])
    assert not Path(found["dir"]).exists()


def test_a_cluster_outlives_one_node_and_gets_it_back(tmp_path: Path, wukong: Wukong) -> None:
    base_port = free_base_port(3)
    place = tmp_path / "cluster"
    options = ("--base-port", str(base_port), "--restart", "--dir", str(place))
    with running(tmp_path, *options) as process:
        nodes = process.ready()["nodes"]
        assert [node["id"] for node in nodes] == [1001, 1002, 1003]
        api = nodes[0]["api"]
        status = answer(wukong("cluster", "status", "--json", "--api", api))
        assert [node["id"] for node in status["nodes"]] == [1001, 1002, 1003]
        os.kill(nodes[2]["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(nodes[2]["pid"]), "the killed node is still there")
        wait_until(lambda: ask("127.0.0.1", base_port + 3) == "", "the killed node did not come back")
        assert "1003 | ended by itself with SIGKILL" in process.said
        assert "it is started again" in process.said
        assert process.end() == 0, process.said
    assert not any(is_alive(node["pid"]) for node in nodes)
    assert (place / "node-1003" / "server.log").read_text().count("ready: api") == 2


def test_without_restart_the_last_death_ends_the_command(tmp_path: Path) -> None:
    with running(tmp_path, "--nodes", "1", "--base-port", str(free_base_port(1))) as process:
        os.kill(process.ready()["nodes"][0]["pid"], signal.SIGKILL)
        assert process.wait() == 1
    assert "--restart" in process.said
    assert "no node is left" in process.said


def test_the_nodes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with running(
        tmp_path, "--nodes", "1", "--base-port", str(free_base_port(1)), "--dir", str(tmp_path / "c")
    ) as process:
        (node,) = process.ready()["nodes"]
        process.signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not is_alive(node["pid"]), "the node outlived its parent")


def test_a_node_that_cannot_start_ends_the_command_with_its_own_words(tmp_path: Path) -> None:
    place = tmp_path / "cluster"
    options = ("--nodes", "1", "--base-port", str(free_base_port(1)), "--dir", str(place))
    with folder(place, lay_out(1, base_port=int(options[3])), keep=False):
        # Where its data should be there is a file.
        (place / "node-1001").mkdir()
        (place / "node-1001" / "data").write_text("")
    with running(tmp_path, *options) as process:
        assert process.wait() == 1
    assert "node 1001 does not start" in process.said
    assert "server.log" in process.said


def test_nodes_that_find_no_majority_are_told_after_the_time_limit(tmp_path: Path) -> None:
    options = ("--nodes", "1", "--first", "1002", "--base-port", str(free_base_port(2)), "--timeout", "3")
    with running(tmp_path, *options) as process:
        assert process.wait() == 1
    assert "not healthy within 3 s" in process.said
    assert "node 1002:" in process.said
