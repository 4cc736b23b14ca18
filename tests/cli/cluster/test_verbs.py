import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from tests.cli.cluster.small_cluster import SLOTS, small_cluster
from tests.cli.cluster.worlds import cluster, node, slot, three
from tests.cli.conftest import Wukong, answer
from wukong.cli.cluster import verbs


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "POLL_S", 0.001)


# -- looking --


def test_the_status_names_every_node_and_says_that_all_is_well(wukong: Wukong) -> None:
    with small_cluster() as small:
        result = wukong("cluster", "status", "--api", small.url, "--check")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["1001", "voter", "here", "2", "0", "1", "host1001:11110"] in rows
    assert ["1003", "voter", "up", "1", "0", "1", "host1003:11110"] in rows
    assert result.stdout.rstrip().endswith("All is well.")


def test_troubles_are_told_and_decide_the_check_alone(wukong: Wukong) -> None:
    broken = cluster(node(1001), node(1002), node(1003, connected=False), slots=[slot(0, 0, (1001, 1002, 1003))])
    with small_cluster(broken) as small:
        result = wukong("cluster", "status", "--api", small.url)
        assert result.exit_code == 0
        assert "! no leader: slot 0" in result.stdout
        assert "1003  voter  down" in result.stdout
        assert "All is well" not in result.stdout
        assert wukong("cluster", "status", "--api", small.url, "--check").exit_code == 1


def test_what_is_under_way_is_told(wukong: Wukong) -> None:
    busy = msgspec.structs.replace(three(), job="node 1004 is awaited", snapshots=["slot 3 to 1004: 5 of 9 MB"])
    with small_cluster(busy) as small:
        shown = wukong("cluster", "status", "--api", small.url).stdout
    assert "Under way: node 1004 is awaited" in shown
    assert "Snapshot: slot 3 to 1004: 5 of 9 MB" in shown


def test_a_line_for_every_slot_tells_leaders_learners_and_what_they_lack(wukong: Wukong) -> None:
    status = cluster(*map(node, (1001, 1002, 1003)), slots=[slot(7, 1002, (1001, 1002), (1003,))])
    with small_cluster(status) as small:
        shown = wukong("cluster", "status", "--api", small.url, "--slots").stdout
    assert "7        1  1001  1002*  1003? (6)" in shown


def test_the_status_for_programs_is_the_servers_with_the_troubles(wukong: Wukong) -> None:
    with small_cluster() as small:
        found = answer(wukong("cluster", "status", "--api", small.url, "--json"))
        assert found == {**msgspec.to_builtins(small.status), "troubles": []}


def test_a_node_that_does_not_answer_is_passed_over(wukong: Wukong, unused_address: str) -> None:
    with small_cluster() as small:
        assert wukong("cluster", "status", "--api", f"{unused_address},{small.url}").exit_code == 0
    result = wukong("cluster", "status", "--api", f"{unused_address},{small.url}")
    assert result.exit_code == 3
    assert "connection refused" in result.stderr


def test_the_token_is_given(wukong: Wukong) -> None:
    with small_cluster() as small:
        small.token = "open sesame"
        assert wukong("cluster", "status", "--api", small.url, "--token", "open sesame").exit_code == 0
        refused = wukong("cluster", "status", "--api", small.url)
    assert refused.exit_code == 1
    assert "WUKONG_TOKEN" in refused.stderr


def test_a_server_that_knows_no_clusters_is_told_from_one_that_is_away(wukong: Wukong) -> None:
    from tests.cli.small_node import small_node

    with small_node() as other:
        result = wukong("cluster", "status", "--api", other.url)
    assert result.exit_code == 1
    assert "knows no clusters" in result.stderr


# -- changing --


def test_adding_waits_until_the_node_votes_everywhere(wukong: Wukong) -> None:
    with small_cluster() as small:
        options = ("--node-api", "host4:5001", "--api", small.url)
        result = wukong("cluster", "add", "1004", "host4:11110", *options)
        assert small.asked == [("member/add", {"node": 1004, "addr": "host4:11110", "api_url": "http://host4:5001"})]
        assert small.looks == 2 * SLOTS
    assert (result.exit_code, result.stdout) == (0, "node 1004 is a member\n")
    assert f"node 1004 votes in 1 of {SLOTS} slots, learns in 1" in result.stderr


def test_removing_waits_until_the_node_is_out(wukong: Wukong) -> None:
    with small_cluster() as small:
        result = wukong("cluster", "remove", "1003", "--yes", "--json", "--api", small.url)
        assert small.asked == [("member/remove", {"node": 1003})]
    assert answer(result) == {"node": 1003, "done": True, "standing": f"node 1003 is out of {SLOTS} of {SLOTS} slots"}


def test_nobody_is_removed_unasked(wukong: Wukong) -> None:
    with small_cluster() as small:
        result = wukong("cluster", "remove", "1003", "--api", small.url)
        assert small.asked == []
    assert result.exit_code == 2
    assert "2 will vote; that survives the loss of 0. Say --yes" in result.stderr


@pytest.mark.parametrize(("reply", "status", "count"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_on_a_terminal_the_question_is_asked(
    wukong: Wukong, monkeypatch: pytest.MonkeyPatch, reply: str, status: int, count: int
) -> None:
    monkeypatch.setattr(verbs, "somebody_is_there", lambda: True)
    with small_cluster() as small:
        result = wukong("cluster", "remove", "1003", "--api", small.url, text=reply)
        assert len(small.asked) == count
    assert result.exit_code == status


def test_replacing_waits_for_both(wukong: Wukong) -> None:
    with small_cluster() as small:
        result = wukong("cluster", "replace", "1003", "1004", "host4:1", "--api", small.url)
        assert small.asked == [("member/replace", {"node": 1003, "by": 1004, "addr": "host4:1"})]
        assert small.status.voters() == {1001, 1002, 1004}
    assert result.exit_code == 0
    assert "stop node 1003" in result.stdout


@pytest.mark.parametrize(("options", "slot_asked", "steps"), [((), -1, 3), (("--slot", "0"), 0, 1)])
def test_leaders_are_transferred(wukong: Wukong, options: tuple[str, ...], slot_asked: int, steps: int) -> None:
    with small_cluster() as small:
        assert wukong("cluster", "transfer", "1002", *options, "--api", small.url).exit_code == 0
        assert small.asked == [("transfer", {"slot": slot_asked, "node": 1002})]
        assert small.looks == steps


def test_not_waiting_returns_at_once(wukong: Wukong) -> None:
    with small_cluster() as small:
        result = wukong("cluster", "add", "1004", "h:1", "--no-wait", "--json", "--api", small.url)
        assert small.looks == 0
    assert answer(result)["done"] is False


def test_a_refusal_is_told_in_the_servers_words(wukong: Wukong) -> None:
    with small_cluster(refusal="the cluster has its 9 nodes") as small:
        result = wukong("cluster", "add", "1004", "h:1", "--api", small.url)
        assert small.looks == 0
    assert result.exit_code == 1
    assert "the cluster has its 9 nodes" in result.stderr


def test_a_change_that_takes_too_long_goes_on_without_us(wukong: Wukong, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_cluster(stuck=True) as small:
        result = wukong("cluster", "add", "1004", "h:1", "--timeout", "1", "--json", "--api", small.url)
    assert result.exit_code == 1
    assert "The cluster goes on by itself" in result.stderr
    assert json.loads(result.stdout)["done"] is False


def test_a_cluster_that_does_not_answer_meanwhile_is_asked_again(wukong: Wukong) -> None:
    with small_cluster() as small:
        small.away = 3
        result = wukong("cluster", "add", "1004", "h:1", "--api", small.url)
    assert result.exit_code == 0
    assert "503 electing; asking again" in result.stderr


def test_an_interrupted_command_says_that_the_cluster_goes_on() -> None:
    with small_cluster(stuck=True) as small:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "wukong", "cluster", "add", "1004", "h:1", "--api", small.url],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert small.looked.wait(60)
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "goes on" in said


# -- settings --


def test_settings_that_differ_are_listed_with_whose_they_are(wukong: Wukong) -> None:
    status = msgspec.structs.replace(three(), settings_differ=["manager_uid", "1002:visitors_on"])
    with small_cluster(status) as small:
        shown = wukong("cluster", "settings", "--api", small.url).stdout
    assert shown == (
        "manager_uid: differs in the file of the node that answered\nvisitors_on: differs in the file of node 1002\n"
    )


def test_settings_that_agree_are_told(wukong: Wukong) -> None:
    with small_cluster() as small:
        assert "agrees" in wukong("cluster", "settings", "--api", small.url).stdout
        assert answer(wukong("cluster", "settings", "--json", "--api", small.url)) == {"settings_differ": []}


def test_settings_are_adopted_from_one_named_node(wukong: Wukong) -> None:
    status = msgspec.structs.replace(three(), settings_differ=["manager_uid", "1002:visitors_on"])
    with small_cluster(status) as small:
        unasked = wukong("cluster", "settings", "adopt", "--api", small.url)
        assert (unasked.exit_code, small.asked) == (2, [])
        assert "manager_uid?" in unasked.stderr
        result = wukong("cluster", "settings", "adopt", "--yes", "--api", small.url)
        assert (result.exit_code, result.stdout) == (0, "adopted: manager_uid\n")
        assert small.asked == [("settings/adopt", {})]
        two = wukong("cluster", "settings", "adopt", "--yes", "--api", f"{small.url},{small.url}")
        assert two.exit_code == 2
