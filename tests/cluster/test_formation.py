"""How a cluster begins: one node decides, whatever is restarted or wiped meanwhile."""

import msgspec
import pytest

from wukong.cluster.formation import Facts, Forming, read_facts
from wukong.errors import DataError
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
