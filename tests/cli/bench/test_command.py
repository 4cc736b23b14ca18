"""Every case against a real server: what it measures is not judged here, that it counts right is."""

import pytest

from tests.cli.conftest import Wukong, answer
from tests.support.server import ServerProcess

CASES = [
    ("closed", ["--pairs", "5", "--window", "3", "--seconds", "0.5", "--processes", "2"]),
    ("closed", ["--pairs", "3", "--window", "5", "--rate", "200", "--seconds", "0.5"]),
    ("latency", ["--rate", "50", "--seconds", "0.5"]),
    ("fanout", ["--members", "20", "--rate", "20", "--seconds", "0.5", "--processes", "2"]),
    ("fanout", ["--members", "20", "--rate", "0", "--seconds", "0.5"]),
    ("storm", ["--connections", "30", "--concurrency", "10", "--processes", "2"]),
    ("idle", ["--connections", "30", "--seconds", "0.5", "--ping-interval", "1"]),
]


@pytest.mark.parametrize(("case", "options"), CASES, ids=[f"{case} {options[2]}" for case, options in CASES])
def test_a_case_counts_what_it_did(on_node: Wukong, node: ServerProcess, case: str, options: list[str]) -> None:
    found = answer(on_node("bench", case, *options, "--pid", str(node.pid), "--json"))
    assert found["case"] == case
    figures = found["median"]
    assert figures == found["runs"][0]
    nothing = ("refused", "never_acked", "never_received", "missing", "no_connack")
    assert {name: figures[name] for name in nothing if figures.get(name)} == {}
    match case:
        case "closed":
            assert figures["sent"] > 0
            assert figures["acked_per_s"] > 0
        case "latency":
            assert figures["sent"] == figures["acked"] == figures["received"] == 25
        case "fanout":
            assert figures["expected"] == figures["received"] == figures["sent"] * 20 > 0
        case "storm":
            assert figures["ok"] == 30
        case "idle":
            assert figures["alive"] == 30
    if case != "storm":
        assert figures["generators_cpu_pct"] is not None
    if case not in ("latency", "storm"):
        assert figures["server_rss_mib"] > 10


def test_several_runs_are_shown_with_their_range(on_node: Wukong) -> None:
    result = on_node("bench", "storm", "--connections", "5", "--repeat", "2")
    assert result.exit_code == 0
    assert "median" in result.stdout
    assert "run 2 of 2: 5 logins" in result.stderr


def test_nobody_listening_is_told_before_any_process_is_started(wukong: Wukong, unused_address: str) -> None:
    result = wukong("bench", "storm", "--api", unused_address)
    assert result.exit_code == 3
    assert unused_address in result.stderr


def test_a_pid_that_is_not_there_is_a_usage_error(on_node: Wukong) -> None:
    result = on_node("bench", "storm", "--pid", "999999999")
    assert result.exit_code == 2
    assert "no process 999999999" in result.stderr
