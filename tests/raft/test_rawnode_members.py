"""Learners, disks, and changes of members: who counts, who votes, and what a change waits for."""

import pytest

from tests.raft.hand_cluster import HandCluster, voters
from wukong.raft.log import Change, GroupLog, Member, Record, Snapshot

LEARNER = Member(4, 40, False)


def with_learner() -> HandCluster:
    """Three voters, led by 1, and node 4 as a learner."""
    cluster = HandCluster()
    cluster.elect(1)
    cluster.settle()
    cluster.join(4, 40)
    cluster.change(1, "learn", 4, 40)
    return cluster


def with_lost_disk() -> HandCluster:
    """Node 1 leads and has committed `a` together with node 2, whose disk is lost then; node 3 has nothing of it."""
    cluster = HandCluster()
    cluster.elect(1)
    cluster.settle()
    cluster.isolate(3)
    cluster.propose(1, b"a")
    cluster.settle(skip=(3,))
    assert cluster[1].values == cluster[2].values == [b"a"]
    cluster.crash(2)
    cluster.join(2, disk_number=9)
    return cluster


def campaign(cluster: HandCluster, node: int, *asked: int) -> None:
    """The node stands for election and everybody asked answers, once for PreVote and once for the vote."""
    cluster.never()
    cluster.forget_leases()
    cluster[node].raw._core._SyncObj__raftElectionDeadline = cluster.now - 1
    for _ in range(3):
        cluster.tick(node)
        for other in asked:
            cluster.deliver(node, other)
            cluster.deliver(other, node)


# -- learners


def test_a_learner_gets_everything_that_voters_get() -> None:
    cluster = with_learner()
    cluster.propose(1, b"a", b"b")
    cluster.settle()
    assert cluster[4].values == [b"a", b"b"]
    assert cluster[4].raw.members == (*voters(1, 2, 3), LEARNER)
    assert cluster[1].raw.match_index(4) == cluster[1].raw.log.last_index
    assert cluster[2].raw.match_index(4) == 0  # who does not lead, does not know


def test_what_learners_hold_commits_nothing() -> None:
    cluster = with_learner()
    cluster.isolate(2)
    cluster.isolate(3)
    cluster.propose(1, b"a")
    cluster.settle()
    assert cluster[4].raw.log.last_index == cluster[1].raw.log.last_index
    assert cluster[1].values == []


def test_learners_do_not_keep_a_leader_in_office_nor_confirm_its_reads() -> None:
    cluster = with_learner()
    cluster.cut |= {(2, 1), (3, 1)}
    answers: list[int | None] = []
    cluster[1].raw.read_index(answers.append)
    cluster[1].pump()
    (question,) = (message for message in cluster.waiting(1, 2) if message["type"] == "read_round")
    assert not [m for m in cluster.waiting(1, 4) if m["type"] == "read_round"]  # it is not even asked
    cluster[1].raw.step(4, {"type": "read_round_answer", "term": 1, "id": question["id"]})
    cluster.deliver_all()
    assert answers == []
    for _ in range(16):
        cluster.wait(0.1)
        cluster.never()
        cluster.tick(1)
        cluster.deliver_all()
    assert not cluster[1].raw.is_leader
    assert answers == [None]


def test_a_learner_does_not_stand_for_election_and_elects_nobody_by_its_vote() -> None:
    cluster = with_learner()
    cluster.sent.clear()
    campaign(cluster, 4)
    assert not [m for source, _, m in cluster.sent if source == 4 and m["type"] in ("pre_vote", "request_vote")]
    cluster.isolate(3)
    cluster.crash(1)
    campaign(cluster, 2, 4)
    cluster[2].raw.step(4, {"type": "pre_vote_answer", "asked_term": 1, "granted": True, "term": 1})
    cluster.tick(2)
    assert cluster[2].raw.term == 1


def test_a_learner_is_sent_no_more_than_a_window_at_a_time() -> None:
    cluster = with_learner()
    cluster.sent.clear()
    cluster.propose(1, *[b"x" * 100_000 for _ in range(120)])
    size = sum(len(e[0]) for _, to, m in cluster.sent if to == 4 for e in m.get("entries", ()))
    assert cluster.config.window_bytes <= size < cluster.config.window_bytes + cluster.config.message_bytes
    cluster.settle()
    assert len(cluster[4].values) == 120


def test_a_learner_that_needs_trimmed_entries_is_named_for_a_snapshot() -> None:
    cluster = HandCluster()
    cluster.elect(1)
    cluster.propose(1, b"a", b"b")
    cluster.settle()
    cluster[1].raw.trim(cluster[1].raw.commit_index)
    cluster.join(4, 40)
    cluster.change(1, "learn", 4, 40)
    assert set(cluster[1].snapshots_wanted) == {4}
    assert not cluster[1].raw.change_members(Change("add", 4, 40))  # it does not hold the log yet
    snapshot = cluster[1].raw.snapshot_at(cluster[1].position[0])
    assert cluster[4].raw.begin_install(1, 1, snapshot)
    cluster[4].pump()
    cluster[4].applied, cluster[4].position = list(cluster[1].applied), cluster[1].position
    cluster[4].raw.finish_install(1, snapshot)
    cluster[4].pump()
    cluster.propose(1, b"c")
    cluster.settle()
    assert cluster[4].values == [b"a", b"b", b"c"]
    assert cluster[1].raw.match_index(4) == cluster[1].raw.log.last_index


def test_a_promoted_learner_keeps_its_progress_and_counts_from_then_on() -> None:
    cluster = with_learner()
    cluster.propose(1, b"a")
    cluster.settle()
    held = cluster[1].raw.match_index(4)
    cluster.sent.clear()
    assert cluster[1].raw.change_members(Change("add", 4, 40))
    assert cluster[1].raw.match_index(4) == held
    cluster[1].pump()
    cluster.settle()
    sent = [entry[1] for _, to, m in cluster.sent if to == 4 for entry in m.get("entries", ())]
    assert sent == [held + 1]
    cluster.isolate(2)
    cluster.propose(1, b"b")
    cluster.settle()
    assert cluster[1].values == cluster[3].values == cluster[4].values == [b"a", b"b"]  # three of four
    cluster.isolate(3)
    cluster.propose(1, b"c")
    cluster.settle()
    assert cluster[1].values == [b"a", b"b"]  # two of four


def test_a_removed_learner_hears_nothing_any_more() -> None:
    cluster = with_learner()
    cluster.change(1, "rem", 4, 40)
    cluster.sent.clear()
    cluster.propose(1, b"a")
    cluster.settle()
    assert not [to for _, to, _ in cluster.sent if to == 4]
    assert cluster[2].raw.members == voters(1, 2, 3)


def test_a_lone_voter_tells_learners_of_a_commit_only_when_it_is_on_its_disk() -> None:
    cluster = HandCluster(1)
    cluster.tick(1)
    cluster.join(4, 40)
    cluster.change(1, "learn", 4, 40)
    hand = cluster.crash(1)
    known = hand.raw.commit_index
    hand.disk_answers = False
    cluster.restart(hand)
    cluster.wait(0.11)
    cluster.tick(1)
    assert hand.raw.is_leader
    assert hand.raw._core.commit_index == hand.raw.log.last_index > known  # a majority alone, the core thinks
    assert hand.raw.commit_index == hand.raw.log.durable_index < hand.raw.log.last_index
    hand.raw._core.on_send = lambda node, message: cluster.put(1, node, message)  # whatever holds messages back
    hand.raw._core.replicate(heartbeat=True)
    commits = [m["commit_index"] for m in cluster.waiting(1, 4) if m["type"] == "append_entries"]
    assert commits
    assert max(commits) < hand.raw.log.last_index


# -- disks


def test_a_node_that_lost_its_disk_gives_no_vote() -> None:
    cluster = with_lost_disk()
    cluster.mend()
    cluster.crash(1)
    campaign(cluster, 3, 2)
    assert not cluster[3].raw.is_leader  # `a` was acknowledged, and node 3 does not have it


def test_a_node_that_lost_its_disk_does_not_stand_for_election() -> None:
    cluster = with_lost_disk()
    cluster.mend()
    cluster.crash(1)
    cluster.sent.clear()
    campaign(cluster, 2, 3)
    assert cluster.sent == []
    assert not cluster[2].raw.is_leader


def test_what_a_node_with_a_new_disk_acknowledges_is_not_counted_until_the_log_has_taken_it_in() -> None:
    cluster = with_lost_disk()
    cluster.propose(1, b"b")
    cluster.settle()  # node 3 is still cut off
    assert cluster[1].values == [b"a"], "node 2 forgot in which term it promised what"
    assert cluster[2].values == []
    cluster.mend()
    cluster.settle()
    assert cluster[1].values == cluster[3].values == [b"a", b"b"]


def test_a_node_that_lost_its_disk_does_not_help_a_deposed_leader() -> None:
    cluster = HandCluster()
    cluster.elect(1)
    cluster.settle()
    cluster.isolate(1)
    cluster.elect(2, voters=(3,))
    cluster.propose(2, b"x")
    cluster.settle(skip=(1,))
    assert cluster[2].values == cluster[3].values == [b"x"]
    # It comes back without its disk, meets the leader of before first, and knows nothing of the later term.
    cluster.crash(3)
    cluster.join(3, disk_number=9)
    cluster.mend()
    cluster.isolate(2)
    if cluster[1].raw.is_leader:
        cluster.propose(1, b"y")
    cluster.settle(skip=(2,))
    assert cluster[1].values == []


def test_a_replaced_disk_is_taken_out_and_comes_back_as_a_learner_that_may_vote_then() -> None:
    cluster = with_lost_disk()
    cluster.mend()
    cluster.settle()
    assert not cluster[1].raw.change_members(Change("learn", 2, 9))  # it is a voter with its old disk
    cluster.change(1, "rem", 2, 0)
    cluster.change(1, "learn", 2, 9)
    assert cluster[2].raw.members == (Member(1, 0, True), Member(2, 9, False), Member(3, 0, True))
    cluster.change(1, "add", 2, 9)
    hand = cluster.crash(1)
    cluster.elect(2, voters=(3,))
    cluster.restart(hand)
    cluster.settle()
    assert cluster[1].raw.leader == 2
    assert cluster[3].values == [b"a"]


def test_a_learner_may_vote_because_others_may_know_before_it_that_it_is_a_voter() -> None:
    cluster = with_learner()
    cluster.waiting(1, 4).clear()
    cluster.cut.add((1, 4))
    assert cluster[1].raw.change_members(Change("add", 4, 40))
    cluster[1].pump()
    cluster.settle()
    assert cluster[4].raw.log.learners() == (4,)
    cluster.crash(1)
    campaign(cluster, 2, 3, 4)
    assert cluster[2].raw.is_leader  # three of four


# -- changes


@pytest.mark.parametrize(
    "change",
    [
        Change("add", 4, 41),  # the learner has another disk
        Change("learn", 4, 41),  # it is a learner already
        Change("learn", 2, 20),  # it is a voter
        Change("add", 2, 0),
        Change("add", 5, 50),  # not a learner yet
        Change("rem", 5),
        Change("rem", 4, 41),
        Change("rem", 1),  # the leader itself
    ],
    ids=str,
)
def test_a_change_that_does_not_fit_the_members_is_refused(change: Change) -> None:
    cluster = with_learner()
    before = cluster[1].raw.log.last_index
    assert not cluster[1].raw.change_members(change)
    assert cluster[1].raw.log.last_index == before


def test_a_learner_becomes_a_voter_only_when_its_log_names_it() -> None:
    cluster = HandCluster()
    cluster.elect(1)
    cluster.settle()
    cluster.join(4, 40)
    cluster.cut.add((1, 4))
    cluster.change(1, "learn", 4, 40)
    assert not cluster[1].raw.change_members(Change("add", 4, 40))
    cluster.reconnect(1, 4)
    cluster.mend()
    cluster.settle()
    assert cluster[1].raw.change_members(Change("add", 4, 40))


def test_a_learner_that_is_gone_does_not_become_a_voter() -> None:
    cluster = with_learner()
    cluster.crash(4)
    assert not cluster[1].raw.change_members(Change("add", 4, 40))


def test_an_answer_of_a_disk_that_was_replaced_makes_nobody_a_voter() -> None:
    cluster = with_lost_disk()
    cluster.mend()
    cluster.settle()
    late = {"type": "next_node_idx", "next_node_idx": 4, "success": True, "reset": False, "term": 1, "rid": 0}
    cluster.crash(2)
    cluster.change(1, "rem", 2)
    cluster.change(1, "learn", 2, 9)
    cluster[1].raw.step(2, late)
    assert not cluster[1].raw.change_members(Change("add", 2, 9))


# -- the records


def test_members_and_changes_of_the_time_before_disks_are_read_as_disk_0() -> None:
    log = GroupLog(0)
    log.replay(Record(6, 0, 1, 0, b"\x93\x01\x02\x03"))
    assert log.members == voters(1, 2, 3)
    log.replay(Record(1, 0, 2, 1, b"\x02\x92\xa3add\x04"))
    assert log.members_now() == voters(1, 2, 3, 4)
    log.replay(Record(7, 0, 9, 1, b"\x92\x01\x02"))
    assert log.intent == Snapshot(9, 1, voters(1, 2))


def test_a_member_list_names_a_node_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        GroupLog(0).set_members((Member(1, 1, True), Member(1, 2, False)))
