import msgspec
import pytest

from tests.cli.cluster.worlds import three
from wukong import __version__
from wukong.cli.cluster.status import ClusterStatus
from wukong.cli.doctor import cluster
from wukong.cli.doctor.cluster import Told, judge, judge_clocks, judge_disk, judge_status, judge_versions
from wukong.cli.doctor.datadir import Identity
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding

IDENTITY = Identity(1, 16, 0xABC, 9, True)


def with_node(status: ClusterStatus, position: int, **changes: object) -> ClusterStatus:
    nodes = list(status.nodes)
    nodes[position] = msgspec.structs.replace(nodes[position], **changes)
    return msgspec.structs.replace(status, nodes=nodes)


def worst(found: list[Finding]) -> str:
    return max((each.level for each in found), key=[OK, NOTE, WARNING, ERROR].index)


def test_a_healthy_cluster_has_nothing_but_ok() -> None:
    status = three(4)
    for position in range(3):
        status = with_node(status, position, version=__version__)
    assert worst(judge_status(status)) == OK


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"connected": False}, ERROR, "missing peer"),
        ({"health": "the disk hangs"}, ERROR, "the disk hangs"),
        ({"lag_entries": 5_000}, WARNING, "5,000 entries"),
        ({"version": "9.9.9"}, WARNING, "mixed versions"),
    ],
)
def test_what_is_wrong_with_a_node_is_told(changes: dict[str, object], level: str, words: str) -> None:
    status = three(4)
    for position in range(3):
        status = with_node(status, position, version=__version__)
    found = judge_status(with_node(status, 2, **changes))
    assert worst(found) == level
    assert any(words in each.text and each.advice for each in found)


def test_slots_without_a_leader_and_settings_that_differ_are_told() -> None:
    status = three(4)
    slots = [msgspec.structs.replace(status.slots[0], leader=0), *status.slots[1:]]
    found = judge_status(msgspec.structs.replace(status, slots=slots, settings_differ=["2:token_auth_on"]))
    assert any("1 of 4 slots" in each.text and each.level == ERROR for each in found)
    assert any("2:token_auth_on" in each.text and each.level == WARNING for each in found)


# -- clocks


def test_clocks_that_agree_within_what_a_header_can_tell_are_well() -> None:
    assert [each.level for each in judge_clocks({"a": 0.4, "b": -1.9})] == [OK]
    assert judge_clocks({}) == []


def test_one_clock_that_is_off_is_named() -> None:
    (found,) = judge_clocks({"a": 0.1, "b": 600.2})
    assert (found.level, found.text) == (ERROR, "clock off: b is 10 min 0 s ahead of this machine")
    assert judge_clocks({"a": -4.0})[0].level == WARNING


def test_when_all_others_agree_it_is_this_machines_clock() -> None:
    (found,) = judge_clocks({"a": -600.0, "b": -600.9, "c": -599.5})
    assert (found.level, "this machine's is 10 min 0 s ahead of" in found.text) == (ERROR, True)


def test_a_date_header_is_read_as_the_middle_of_its_second() -> None:
    assert cluster._ahead_s("Wed, 25 Nov 2026 00:00:10 GMT", 1795564800.5) == pytest.approx(10)
    assert cluster._ahead_s("", 0) is None


# -- APIs


def test_an_api_that_does_not_answer_is_an_error_unless_its_server_is_known_to_be_stopped() -> None:
    told = Told("http://a", unreached="nobody listens there")
    assert judge([told], None)[0].level == ERROR
    assert judge([told], None, stopped="http://a")[0].level == NOTE


def test_a_missing_token_is_said_and_health_is_told_in_the_nodes_own_words() -> None:
    assert "--token" in judge([Told("http://a", unauthorized=True)], None)[0].advice
    found = judge([Told("http://a", health="no majority")], None)[0]
    assert (found.level, "no majority" in found.text) == (ERROR, True)


def test_versions_are_compared_with_each_other_and_with_this_program() -> None:
    assert judge_versions({__version__})[0].level == OK
    assert judge_versions({__version__, "9"})[0].level == WARNING
    assert judge_versions({"9"})[0].level == WARNING
    assert judge_versions(set()) == []


def test_a_directory_that_the_cluster_knows_by_another_disk_is_an_error() -> None:
    status = with_node(three(4), 0, id=1, disk="abc")
    assert judge_disk(status, IDENTITY) == []
    assert judge_disk(with_node(status, 0, disk="def"), IDENTITY)[0].level == ERROR
    assert judge_disk(status, None) == []
