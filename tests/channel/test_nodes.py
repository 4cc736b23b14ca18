"""The table of nodes: who is wanted in the cluster."""

import pytest

from tests.channel.slot import Slot
from wukong.channel.commands import DropNode, ForgetNode, NodeRow, PutNode, Reply
from wukong.channel.nodes import MAX_NODES, table

ONE = NodeRow("10.0.0.1:11110", 5, "http://10.0.0.1:5001")


def slot_with(row: NodeRow = ONE) -> Slot:
    slot = Slot(0)
    assert slot.do(PutNode(1, row)) == Reply()
    return slot


def test_a_slot_that_knows_no_nodes_has_an_empty_table() -> None:
    assert table(Slot(0).state) == {}


def test_nodes_are_kept_in_the_order_of_their_numbers() -> None:
    slot = slot_with()
    for node in (1_023, 256, 255, 2):
        slot.do(PutNode(node, ONE))
    slot.restart()
    assert list(table(slot.state)) == [1, 2, 255, 256, 1_023]
    assert table(slot.state)[1_023] == ONE
    assert not slot.effects()


def test_a_known_node_may_move() -> None:
    slot = slot_with()
    moved = NodeRow("10.0.0.9:1", 5, "")
    slot.do(PutNode(1, moved))
    assert table(slot.state) == {1: moved}


@pytest.mark.parametrize(
    ("disk", "leaving", "expected"),
    [(5, False, True), (5, True, True), (6, False, True), (0, False, False), (0, True, True)],
)
def test_a_leaving_node_stays_leaving_whatever_it_says_and_only_who_does_not_know_its_disk_takes_it_back(
    disk: int, leaving: bool, expected: bool
) -> None:
    slot = slot_with()
    slot.do(DropNode(1))
    slot.do(PutNode(1, NodeRow("10.0.0.9:1", disk, "", leaving)))
    assert table(slot.state) == {1: NodeRow("10.0.0.9:1", disk, "", expected)}


def test_a_node_is_forgotten_only_when_it_is_leaving() -> None:
    slot = slot_with()
    slot.do(ForgetNode(1))
    assert table(slot.state) == {1: ONE}
    assert slot.do(DropNode(1)) == Reply()
    assert table(slot.state)[1].leaving
    slot.do(ForgetNode(1))
    assert table(slot.state) == {}


def test_an_unknown_node_is_neither_dropped_nor_forgotten() -> None:
    slot = slot_with()
    assert slot.do(DropNode(2)) == slot.do(ForgetNode(2)) == Reply()
    assert table(slot.state) == {1: ONE}


def test_one_node_too_many_is_refused_until_one_has_left() -> None:
    slot = slot_with()
    for node in range(2, MAX_NODES + 1):
        assert slot.do(PutNode(node, ONE)).reason == 1
    assert slot.do(PutNode(MAX_NODES + 1, ONE)).reason == 15
    assert len(table(slot.state)) == MAX_NODES
    assert slot.do(PutNode(7, NodeRow("b:1", 1, ""))).reason == 1, "a known one is none too many"
    slot.do(DropNode(7))
    slot.do(ForgetNode(7))
    assert slot.do(PutNode(MAX_NODES + 1, ONE)).reason == 1
