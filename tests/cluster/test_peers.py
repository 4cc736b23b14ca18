"""Whom a node can speak to and hears: two directions that fail one by one."""

import math

from tests.cluster.control_fakes import FakeClock, FakeFacts
from wukong.cluster.peers import REACHABLE_SILENCE_S, Peers


def made() -> tuple[Peers, FakeClock]:
    clock = FakeClock()
    return Peers(1, clock), clock


def test_a_node_is_reachable_when_our_link_is_up_and_it_was_heard_lately() -> None:
    peers, clock = made()
    peers.heard(2)
    assert not peers.is_reachable(2), "there is no link of ours"
    peers.connected(2)
    assert peers.reachable() == {1, 2}
    clock.seconds += REACHABLE_SILENCE_S + 0.1
    assert peers.reachable() == {1}
    peers.heard(2)
    peers.disconnected(2)
    assert peers.reachable() == {1}


def test_a_node_is_silent_from_when_nothing_comes_or_nothing_can_be_sent() -> None:
    peers, clock = made()
    assert peers.silent_s(2) == math.inf
    peers.connected(2)
    clock.seconds += 2
    assert peers.silent_s(2) == 2, "its facts come in a moment"
    peers.heard(2)
    assert peers.silent_s(2) == 0
    peers.disconnected(2)
    clock.seconds += 3
    peers.heard(2)
    assert peers.silent_s(2) == 3
    peers.connected(2)
    assert peers.silent_s(2) == 0


def test_a_node_that_only_tells_its_facts_is_silent_though_it_is_heard() -> None:
    peers, clock = made()
    for _ in range(20):
        clock.seconds += 1
        peers.told(4, FakeFacts(40))
    assert peers.silent_s(4) == 20
    assert peers.heard_s(4) == 0


def test_heard_is_who_was_heard_with_or_without_a_link_of_ours() -> None:
    peers, clock = made()
    assert peers.heard_s(2) == math.inf
    peers.told(2, FakeFacts(20))
    clock.seconds += 4
    assert peers.heard_s(2) == 4


def test_a_disk_is_silent_since_it_was_heard_last_or_since_this_node_listens() -> None:
    peers, clock = made()
    clock.seconds += 5
    assert peers.disk_silent_s(2, 20) == 5
    peers.told(2, FakeFacts(20))
    clock.seconds += 1
    peers.told(2, FakeFacts(21))
    clock.seconds += 1
    peers.heard(2)
    assert peers.disk_silent_s(2, 20) == 2
    assert peers.disk_silent_s(2, 21) == 0
