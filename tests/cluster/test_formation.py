"""How a cluster begins: one node decides, whatever is restarted or wiped meanwhile."""

import msgspec
import pytest

from wukong.channel.nodes import MAX_NODES
from wukong.cluster.formation import Facts, Forming, read_facts
from wukong.errors import DataError
from wukong.links.options import LinkOptions
from wukong.store.datadir import Formation

WANTED = frozenset((1, 2, 3))
FORMED = Formation(77, ((1, 11), (2, 12), (3, 13)))


def blank(disk: int) -> Facts:
    return Facts(disk, 16, join=True)


def formed(disk: int, formation: Formation = FORMED) -> Facts:
    return Facts(disk, 16, formation.cluster, formation.members)


def test_a_node_decides_when_it_is_the_lowest_and_has_heard_all() -> None:
    forming = Forming(1, 11, 16, WANTED)
    assert forming.decide(77) is None
    forming.heard(2, blank(12))
    assert forming.missing == [3]
    assert forming.decide(77) is None
    forming.heard(3, blank(13))
    assert forming.decide(77) == FORMED


def test_the_others_never_decide_and_take_over_what_was_decided() -> None:
    forming = Forming(2, 12, 16, WANTED)
    forming.heard(1, blank(11))
    forming.heard(3, blank(13))
    assert forming.decide(78) is None
    forming.heard(1, formed(11))
    assert forming.decide(78) == FORMED


def test_a_node_whose_disk_was_lost_takes_the_formation_that_does_not_name_its_disk() -> None:
    forming = Forming(1, 99, 16, WANTED)
    forming.heard(2, formed(12))
    forming.heard(3, blank(13))
    assert forming.decide(78) == FORMED
    assert dict(FORMED.members)[1] != 99


def test_a_node_that_went_away_before_the_decision_is_waited_for_again() -> None:
    forming = Forming(1, 11, 16, WANTED)
    forming.heard(2, blank(12))
    forming.lost(2)
    forming.heard(3, blank(13))
    assert forming.decide(77) is None
    forming.heard(2, blank(22))
    assert forming.decide(77) == Formation(77, ((1, 11), (2, 22), (3, 13)))


def test_a_node_with_a_seed_waits_for_a_cluster_and_never_makes_one() -> None:
    forming = Forming(4, 14, 16, frozenset())
    forming.heard(1, blank(11))
    assert forming.decide(78) is None
    forming.heard(1, formed(11))
    assert forming.decide(78) == FORMED


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, {"disk": "x"}, {"disk": 1, "members": [[1]]}, {"disk": None}])
def test_malformed_facts_are_none(value: object) -> None:
    assert read_facts(2, value) is None


def test_facts_survive_the_wire_and_carry_the_node_that_the_link_proved() -> None:
    told = Facts(12, 16, 77, FORMED.members, "h:1", nodes={1: "a:1"}, node=99)
    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(told)))
    assert read_facts(2, carried) == msgspec.structs.replace(told, node=2)


def test_a_node_with_another_number_of_slots_is_no_part_of_a_cluster_that_is_formed() -> None:
    forming = Forming(1, 11, 16, WANTED)
    forming.heard(2, blank(12))
    forming.heard(3, Facts(13, 64, join=True))
    assert forming.missing == [3]
    assert forming.decide(77) is None


def test_a_directory_that_does_not_fit_the_cluster_is_refused_in_plain_words() -> None:
    forming = Forming(4, 14, 16, frozenset())
    forming.heard(1, Facts(11, 64, 77, FORMED.members))
    with pytest.raises(DataError, match=r"64 slots.*made with 16.*wukong.slotCount 64"):
        forming.decide(1)


# -- who is believed


FOREIGN = Formation(666, ((7, 70), (8, 80)))


def test_a_formation_is_not_taken_from_a_node_that_the_configuration_does_not_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forming = Forming(1, 11, 16, WANTED)
    for _ in range(3):
        forming.heard(7, formed(70, FOREIGN), named=False)
    forming.heard(8, blank(80), named=False)
    assert forming.decide(78) is None
    assert forming.missing == [2, 3]
    assert len(caplog.records) == 1, "said once"
    assert "node 7 says that it belongs to cluster 666" in caplog.text


def test_a_formation_with_this_nodes_own_disk_is_taken_from_anybody() -> None:
    forming = Forming(1, 11, 16, WANTED)
    forming.heard(7, formed(70), named=False)
    assert forming.decide(78) == FORMED


def test_a_stray_node_with_other_slots_ends_nobodys_start(caplog: pytest.LogCaptureFixture) -> None:
    forming = Forming(1, 11, 16, WANTED)
    forming.heard(7, Facts(70, 64, 666, FOREIGN.members), named=False)
    forming.heard(8, Facts(80, 64), named=False)
    assert forming.decide(77) is None
    assert "slots" not in caplog.text


def test_other_slots_are_said_once_and_forgotten_when_the_node_comes_with_the_right_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forming = Forming(4, 14, 16, frozenset())
    for _ in range(3):
        forming.heard(1, Facts(11, 64, 77, FORMED.members))
    assert len(caplog.records) == 1
    forming.heard(1, formed(11))
    assert forming.decide(1) == FORMED


@pytest.mark.parametrize(
    "field",
    [
        {"disk": 1 << 63},
        {"cluster": -1},
        {"slots": 1_025},
        {"addr": "nowhere"},
        {"addr": "h:0"},
        {"addr": "h" * 300 + ":1"},
        {"api_url": "u" * 1_025},
        {"version": "v" * 300},
        {"nodes": {0: "h:1"}},
        {"nodes": {1_024: "h:1"}},
        {"nodes": dict.fromkeys(range(1, 200), "h:1")},
        {"members": [[0, 1]]},
        {"members": [[1, 1]] * 65},
    ],
)
def test_facts_over_a_limit_are_none(field: dict[str, object]) -> None:
    assert read_facts(2, {"disk": 12}) is not None
    assert read_facts(2, {"disk": 12, **field}) is None


def test_an_address_of_another_node_that_is_none_is_left_out() -> None:
    facts = read_facts(2, {"disk": 12, "nodes": {1: "h:1", 3: "h:²", 4: ""}})
    assert facts is not None
    assert facts.nodes == {1: "h:1"}


def test_the_facts_of_a_full_table_are_within_all_limits() -> None:
    ids = range(1, MAX_NODES + 1)
    disk = 1 << 62
    addresses = dict.fromkeys(ids, "h" * 249 + ":11110")
    told = Facts(disk, 1_024, disk, tuple((node, disk) for node in ids), addresses[1], "u" * 1_024, nodes=addresses)
    carried = msgspec.to_builtins(told)
    assert read_facts(1, carried) is not None
    assert len(msgspec.msgpack.encode(carried)) < LinkOptions().facts_limit_bytes - 100
