"""A leader that dies, one that is only cut off from somebody, one that hands over; and who was heard when."""

import math

import pytest

from tests.raft.hand_cluster import CONFIG, HandCluster
from wukong.errors import NotLeader
from wukong.raft.log import Change

HASTE_SECONDS = 0.25 * CONFIG.election_min_ms / 1000


def led_by_one(count: int = 3) -> HandCluster:
    cluster = HandCluster(count)
    cluster.elect(1)
    cluster.settle()
    return cluster


def run(cluster: HandCluster, seconds: float, *nodes: int) -> None:
    """Time passes and these nodes work, with elections as they come."""
    for _ in range(round(seconds / 0.01)):
        cluster.wait(0.01)
        cluster.tick(*nodes)
        cluster.deliver_all()


# -- a leader is gone


def test_when_the_links_to_a_killed_leader_break_nobody_waits_for_the_election_time() -> None:
    cluster = led_by_one()
    for node in (2, 3):
        cluster[node].raw._core._SyncObj__raftElectionDeadline = cluster.now + CONFIG.election_max_ms / 1000
    cluster.crash(1)
    run(cluster, HASTE_SECONDS + 0.02, 2)  # node 3 only answers
    assert cluster[2].raw.is_leader
    assert cluster[3].raw.leader == 2


def test_followers_that_notice_at_the_same_moment_elect_one_of_them_at_once() -> None:
    cluster = led_by_one()
    cluster.crash(1)
    for node in (2, 3):
        cluster[node].raw._core._SyncObj__raftElectionDeadline = cluster.now
    run(cluster, 0.05)
    assert cluster[3].raw.is_leader
    assert [hand.raw.term for hand in cluster.nodes.values()] == [2, 2]


def test_a_leader_that_one_follower_cannot_reach_stays_in_office() -> None:
    cluster = led_by_one()
    cluster.cut |= {(1, 3), (3, 1)}
    for a, b in ((1, 3), (3, 1)):
        cluster[a].raw.disconnected(b)
    cluster.sent.clear()
    run(cluster, 3.0)
    assert any(m["type"] == "pre_vote" for source, _, m in cluster.sent if source == 3)
    assert cluster[1].raw.is_leader
    assert [hand.raw.term for hand in cluster.nodes.values()] == [1, 1, 1]


def test_a_broken_link_to_a_follower_changes_nothing_for_the_lease() -> None:
    cluster = led_by_one()
    cluster[2].raw.disconnected(3)
    assert cluster[2].raw._filter._leader_is_alive()
    cluster[2].raw.disconnected(1)
    assert not cluster[2].raw._filter._leader_is_alive()


def test_the_lease_is_back_when_the_leader_is_heard_again() -> None:
    cluster = led_by_one()
    cluster.reconnect(1, 2)
    assert not cluster[2].raw._filter._leader_is_alive()
    cluster.settle(1)
    assert cluster[2].raw._filter._leader_is_alive()


def test_reads_that_were_asked_of_a_lost_leader_fail_at_once_and_new_ones_are_not_sent() -> None:
    cluster = led_by_one()
    answers: list[int | None] = []
    cluster[2].raw.read_index(answers.append)
    cluster[2].pump()
    assert answers == []
    cluster[2].raw.disconnected(1)
    assert answers == [None]
    cluster.sent.clear()
    cluster[2].raw.read_index(answers.append)
    cluster[2].pump()
    assert answers == [None, None]
    assert not [m for _, _, m in cluster.sent if m["type"] == "read"]


# -- who was heard


def test_a_follower_knows_when_it_heard_its_leader() -> None:
    cluster = led_by_one()
    assert cluster[2].raw.heard_at() == cluster.now
    before = cluster.now
    cluster.isolate(2)
    cluster.wait(0.3)
    cluster.tick()
    cluster.deliver_all()
    assert cluster[2].raw.heard_at() == before
    assert HandCluster()[2].raw.heard_at() == -math.inf


def test_a_leader_knows_when_it_heard_a_majority() -> None:
    cluster = led_by_one(5)
    start = cluster.now
    cluster.isolate(2)
    cluster.isolate(3)
    cluster.settle(2)
    assert cluster[1].raw.heard_at() == cluster.now > start
    heard = cluster.now
    cluster.isolate(4)
    cluster.settle(2)
    assert cluster[1].raw.heard_at() == heard


def test_a_leader_that_is_a_majority_alone_is_always_heard() -> None:
    cluster = HandCluster(1)
    cluster.tick(1)
    assert cluster[1].raw.heard_at() == math.inf


# -- handing over


def test_a_transfer_to_a_voter_that_has_everything_is_done_at_once() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    cluster.settle()
    assert cluster[1].raw.transfer(3)
    cluster[1].pump()
    cluster.deliver_all()
    cluster.tick(3)
    cluster.deliver_all()
    cluster.tick()
    assert cluster[3].raw.is_leader
    assert not cluster[1].raw.transferring


def test_a_transfer_to_a_voter_that_is_behind_waits_for_it_and_loses_nothing() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a", b"b")  # under way
    assert cluster[1].raw.transfer(2)
    cluster[1].pump()
    assert not [m for _, _, m in cluster.sent if m["type"] == "timeout_now"]
    assert cluster[1].raw.transferring
    with pytest.raises(NotLeader) as caught:
        cluster[1].raw.propose(b"c")
    assert caught.value.leader == 2
    cluster.deliver_all()
    cluster.tick(1)
    cluster.deliver_all()
    cluster.tick(2)
    cluster.deliver_all()
    cluster.settle()
    assert cluster[2].raw.is_leader
    cluster.propose(2, b"c")
    cluster.settle()
    assert all(hand.values == [b"a", b"b", b"c"] for hand in cluster.nodes.values())


def test_a_transfer_that_does_not_succeed_ends_by_time_and_the_leader_goes_on() -> None:
    cluster = led_by_one()
    cluster.cut.add((1, 2))
    assert cluster[1].raw.transfer(2)
    cluster[1].pump()
    assert cluster[1].raw.transferring
    cluster.wait(CONFIG.election_max_ms / 1000)
    cluster.never()
    cluster.tick(1)
    cluster.deliver_all()
    assert cluster[1].raw.is_leader
    assert not cluster[1].raw.transferring
    cluster.propose(1, b"a")
    cluster.settle()
    assert cluster[3].values == [b"a"]


def test_a_transfer_ends_when_the_link_to_the_target_breaks() -> None:
    cluster = led_by_one()
    assert cluster[1].raw.transfer(2)
    cluster[1].raw.disconnected(2)
    cluster.tick(1)
    assert not cluster[1].raw.transferring


def test_what_was_appended_before_a_transfer_is_there_once_when_the_old_leader_dies_in_it() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    assert cluster[1].raw.transfer(2)
    cluster[1].pump()
    cluster.deliver(1, 2)
    cluster.deliver(2, 1)
    cluster.tick(1)
    cluster.deliver(1, 2)
    hand = cluster.crash(1)
    cluster.tick(2)
    cluster.deliver_all()
    assert cluster[2].raw.is_leader
    cluster.restart(hand)
    cluster.settle()
    assert all(other.values == [b"a"] for other in cluster.nodes.values())


@pytest.mark.parametrize("target", [1, 4, 7], ids=["itself", "a learner", "a stranger"])
def test_only_another_voter_can_take_over(target: int) -> None:
    cluster = led_by_one()
    cluster.join(4)
    cluster.change(1, "learn", 4)
    assert not cluster[1].raw.transfer(target)
    assert not cluster[2].raw.transfer(1)


def test_a_voter_that_is_away_or_needs_a_snapshot_cannot_take_over() -> None:
    cluster = led_by_one()
    cluster.isolate(3)
    cluster.propose(1, b"a", b"b")
    cluster.settle(skip=(3,))
    cluster[1].raw.trim(cluster[1].raw.commit_index)
    cluster.mend()
    cluster.settle(1)
    assert not cluster[1].raw.transfer(3)
    cluster[1].raw.disconnected(2)
    assert not cluster[1].raw.transfer(2)


def test_members_do_not_change_while_leadership_is_handed_over() -> None:
    cluster = led_by_one()
    assert cluster[1].raw.transfer(2)
    assert not cluster[1].raw.transfer(3)
    assert not cluster[1].raw.change_members(Change("rem", 3))
