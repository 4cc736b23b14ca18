import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Wukong, answer
from tests.cli.small_node import small_node
from tests.support.server import ServerProcess
from wukong.cli.demo import Count, Listener

ROOT = Path(__file__).parents[2]


def test_nobody_misses_anything_on_this_server(on_node: Wukong) -> None:
    found = answer(on_node("demo", "--count", "30", "--json"))
    assert [variant["variant"] for variant in found["variants"]] == ["scene", "fresh", "stream", "commands"]
    for variant in found["variants"]:
        assert variant["expected"] > 0
        assert [variant[name] for name in ("missed", "doubles", "out_of_order", "refused")] == [0, 0, 0, 0]
    assert found["scene"]["456"] == ["hello 456", "hello 789", "hello all"]
    assert found["scene"]["789"] == ["hello 789", "hello all"]


def test_a_forgetful_server_is_found_out(wukong: Wukong) -> None:
    with small_node(forgetful=True) as node:
        result = wukong("demo", "--count", "4", "--wait", "0.3", "--api", node.url, "--tcp", node.server.tcp, "--json")
    assert result.exit_code == 1
    variants = {variant["variant"]: variant for variant in json.loads(result.stdout)["variants"]}
    assert variants["scene"]["missed"] == 2
    assert variants["fresh"]["missed"] == variants["fresh"]["expected"] == 4
    assert variants["commands"]["missed"] == 4


def test_a_server_that_pushes_twice_is_found_out(wukong: Wukong) -> None:
    with small_node(doubling=True) as node:
        result = wukong("demo", "--count", "2", "--wait", "1", "--api", node.url, "--tcp", node.server.tcp)
    assert result.exit_code == 1
    assert "Members missed or got wrongly" in result.stdout


def test_nobody_listening_is_told_before_anything_is_done(wukong: Wukong, unused_address: str) -> None:
    result = wukong("demo", "--api", unused_address)
    assert result.exit_code == 3
    assert unused_address in result.stderr


def test_the_module_runs_by_itself(node: ServerProcess) -> None:
    environment = {**os.environ, "WUKONG_API": node.http_url, "WUKONG_TCP": f"127.0.0.1:{node.tcp_port}"}
    command = [sys.executable, "-m", "wukong.cli.demo", "--count", "2"]
    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Everybody got everything" in finished.stdout


def test_the_judge_counts_misses_doubles_and_disorder() -> None:
    listener, count = Listener(), Count("judged")
    listener.arrived = [("a", 1), ("c", 3), ("b", 2), ("c", 3), ("not stored", 0), ("d", 4)]
    listener.judge(["a", "b", "c", "d", "e"], count)
    assert (count.expected_count, count.missed_count) == (5, 1)
    assert (count.double_count, count.disorder_count) == (1, 1)
    assert not count.is_clean
