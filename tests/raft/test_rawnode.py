"""The holes of the stock core, one scenario each, and what RawNode promises about the disk.

The numbers are those of docs/design/raft.md, section 3.
"""

import random
from typing import Any

import pytest

from tests.raft.hand_cluster import CONFIG, HandCluster, voters
from wukong.errors import DataError, NotLeader
from wukong.raft.config import RaftConfig
from wukong.raft.log import ENTRY, HARD_STATE, RESET, TRIM, Change, GroupLog, Member, Record, Snapshot
from wukong.raft.rawnode import RawNode


def entries_sent(cluster: HandCluster, source: int, target: int) -> list[int]:
    return [
        entry[1]
        for a, b, message in cluster.sent
        if (a, b) == (source, target) and message["type"] == "append_entries"
        for entry in message.get("entries", [])
    ]


def led_by_one(count: int = 3, config: RaftConfig = CONFIG) -> HandCluster:
    cluster = HandCluster(count, config)
    cluster.elect(1)
    cluster.settle()
    return cluster


# -- 1: log matching


def test_1a_a_stale_batch_does_not_cut_entries_that_were_acknowledged() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    stale = dict(cluster.waiting(1, 2)[-1])
    assert [entry[1] for entry in stale["entries"]] == [3]
    cluster.waiting(1, 3).clear()
    cluster.cut.add((1, 3))
    cluster.propose(1, b"b", b"c", b"d")
    cluster.settle()
    assert cluster[1].values == [b"a", b"b", b"c", b"d"]
    cluster.waiting(1, 2).append(stale)
    cluster.deliver(1, 2)
    cluster.crash(1)
    cluster.mend()
    cluster.elect(2)
    cluster.settle()
    assert cluster[3].values == [b"a", b"b", b"c", b"d"]


def test_1b_the_second_of_two_resets_does_not_start_a_second_resend() -> None:
    cluster = led_by_one(config=RaftConfig(heartbeat_ms=100, election_min_ms=400, message_bytes=10))
    cluster.cut |= {(1, 3), (3, 1)}
    values = [b"entry-%02d" % i for i in range(8)]
    cluster.propose(1, *values)
    cluster.reconnect(1, 2)
    for _ in range(2):  # two heartbeats leave before any answer comes
        cluster.wait(0.11)
        cluster.never()
        cluster.tick(1)
    cluster.deliver(1, 2)
    resets = [message for message in cluster.waiting(2, 1) if message.get("reset")]
    assert len(resets) == 2
    cluster.sent.clear()
    cluster.deliver(2, 1, 1)
    cluster.deliver(2, 1)
    cluster.deliver_all()
    assert entries_sent(cluster, 1, 2) == list(range(3, 11))
    cluster.settle()
    assert cluster[2].values == values


def test_1c_what_is_under_way_is_not_sent_again_when_earlier_entries_are_acknowledged() -> None:
    cluster = led_by_one()
    cluster.sent.clear()
    for i in range(8):
        cluster.propose(1, b"%d" % i)
    cluster.deliver(1, 2)
    for i in range(8, 16):
        cluster.deliver(2, 1, 1)
        cluster.tick(1)
        cluster.propose(1, b"%d" % i)
    cluster.settle()
    assert entries_sent(cluster, 1, 2) == list(range(3, 19))
    assert cluster[2].values == cluster[1].values == [b"%d" % i for i in range(16)]


def test_2_an_answer_of_an_earlier_leadership_is_not_counted_in_a_later_one() -> None:
    cluster = led_by_one(5)
    cluster.propose(1, b"x1", b"x2", b"x3")
    cluster.deliver(1, 2)
    late = list(cluster.waiting(2, 1))
    assert late[-1]["next_node_idx"] == 6
    cluster.waiting(2, 1).clear()
    for other in (3, 4, 5):
        cluster.waiting(1, other).clear()
    cluster.elect(3, voters=(4, 5))
    cluster.deliver(3, 1)
    for other in (4, 5, 2):
        cluster.deliver(3, other)
    cluster.elect(1, voters=(4, 5))
    cluster.propose(1, b"y")
    cluster.deliver(1, 4)
    cluster.deliver(4, 1)
    cluster.tick(1)
    cluster.waiting(2, 1).extend(late)
    cluster.deliver(2, 1)
    cluster.tick(1)
    assert cluster[1].values == []  # two of five have it


# -- 3: what must not be seen before it is durable


def test_3a_a_follower_acknowledges_entries_only_when_they_are_on_its_disk() -> None:
    cluster = led_by_one()
    cluster[2].disk_answers = False
    cluster.propose(1, b"a")
    cluster.deliver(1, 2)
    assert not any(m["type"] == "next_node_idx" and m["success"] for m in cluster.waiting(2, 1))
    cluster[2].sync()
    cluster[2].pump()
    assert [m["next_node_idx"] for m in cluster.waiting(2, 1) if m.get("success")] == [4]


def test_3a_a_leader_counts_answers_only_for_entries_on_its_own_disk() -> None:
    cluster = led_by_one()
    cluster[1].disk_answers = False
    cluster.propose(1, b"a")
    cluster.deliver_all()
    cluster.tick()
    assert cluster[1].raw._core.commit_index == 2
    cluster[1].sync()
    cluster.tick(1)
    assert cluster[1].raw.commit_index == 3
    assert cluster[1].values == [b"a"]


def test_3a_a_vote_leaves_only_when_it_is_on_disk() -> None:
    cluster = HandCluster()
    cluster.never()
    cluster[2].disk_answers = False
    cluster[2].raw.step(
        1, {"type": "request_vote", "term": 1, "last_log_index": 1, "last_log_term": 0, "transfer": False}
    )
    cluster[2].pump()
    assert not cluster.waiting(2, 1)
    cluster[2].sync()
    cluster[2].pump()
    assert [m["type"] for m in cluster.waiting(2, 1)] == ["response_vote"]


def test_3a_a_candidate_asks_for_votes_only_when_its_own_is_on_disk() -> None:
    cluster = HandCluster()
    cluster.never()
    cluster[1].disk_answers = False
    cluster[1].raw._core._SyncObj__raftElectionDeadline = 0
    cluster.tick(1)
    cluster.deliver(1, 2)
    cluster.deliver(2, 1)
    cluster.tick(1)
    assert cluster[1].raw.term == 1
    assert not cluster.waiting(1, 2)
    cluster[1].sync()
    cluster[1].pump()
    assert [m["type"] for m in cluster.waiting(1, 2)] == ["request_vote"]


def test_3a_a_follower_applies_only_what_is_on_its_own_disk() -> None:
    cluster = led_by_one()
    cluster[3].disk_answers = False
    cluster.propose(1, b"a")
    cluster.settle()
    assert cluster[1].values == [b"a"]
    assert cluster[3].values == []
    cluster[3].sync()
    cluster[3].pump()
    assert cluster[3].values == [b"a"]


def lone_node(seed: int = 0) -> RawNode:
    log = GroupLog(0)
    log.set_members(voters(1))
    node = RawNode(node_id=1, log=log, applied=(0, 0), config=CONFIG, rng=random.Random(seed), now=5.0)
    node.persisted(node.ready().seq)
    return node


def test_3a_a_lone_voter_elects_itself_at_once_and_commits_only_what_is_on_disk() -> None:
    node = lone_node()
    first = node.ready()
    assert node.is_leader
    assert first.leadership == (1, 1)
    assert first.committed == []
    node.persisted(first.seq)
    assert [(e.index, e.data) for e in node.ready().committed] == [(2, b"")]
    node.propose(b"a")
    node.propose(b"b")
    ready = node.ready()
    assert [record.kind for record in ready.records] == [ENTRY, ENTRY]
    assert ready.must_sync
    for _ in range(3):
        node.tick(6.0)
    assert node.ready().committed == []
    assert node._core.commit_index == 2
    node.persisted(ready.seq)
    assert [(e.index, e.data) for e in node.ready().committed] == [(3, b"a"), (4, b"b")]


def test_3c_a_node_that_restarts_does_not_vote_twice_in_a_term() -> None:
    cluster = HandCluster()
    cluster.never()
    request: dict[str, Any] = {
        "type": "request_vote", "term": 1, "last_log_index": 1, "last_log_term": 0, "transfer": False
    }  # fmt: skip
    cluster[2].raw.step(1, dict(request))
    cluster[2].pump()
    assert [m["type"] for m in cluster.waiting(2, 1)] == ["response_vote"]
    cluster.restart(cluster.crash(2))
    cluster.never()
    cluster[2].raw.step(3, dict(request))
    cluster[2].pump()
    assert not cluster.waiting(2, 3)


def test_3f_after_a_restart_nothing_counts_as_committed_that_the_machine_has_not_applied() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a", b"b")
    cluster.settle()
    hand = cluster.crash(2)
    hand.applied, hand.position = hand.applied[:1], (3, 1)
    cluster.restart(hand)
    assert cluster[2].raw.commit_index == 3
    cluster.settle()
    assert cluster[2].values == [b"a", b"b"]


# -- 4: elections


def test_4a_a_follower_that_was_away_does_not_depose_the_leader() -> None:
    cluster = led_by_one()
    cluster.isolate(3)
    for _ in range(40):
        cluster.wait(0.1)
        cluster.never(1, 2)
        cluster.tick()
        cluster.deliver_all()
    assert cluster[3].raw.term == 1
    cluster.mend()
    cluster.tick(3)
    cluster.deliver_all()
    cluster.settle()
    assert cluster[1].raw.is_leader
    assert cluster[1].raw.term == 1


def test_4b_a_leader_that_hears_nobody_steps_down() -> None:
    cluster = led_by_one()
    cluster.cut |= {(2, 1), (3, 1)}
    cluster.wait(1.6)
    cluster.tick(1)
    assert not cluster[1].raw.is_leader
    assert cluster[1].leaderships[-1] == (None, 1)
    with pytest.raises(NotLeader):
        cluster[1].raw.propose(b"a")


def test_4c_a_stale_leader_is_told_that_its_term_is_over() -> None:
    cluster = led_by_one()
    cluster.isolate(1)
    cluster.elect(2, voters=(3,))
    cluster.mend()
    cluster.wait(0.11)
    cluster.tick(1)
    cluster.deliver(1, 3)
    cluster.deliver(3, 1)
    assert not cluster[1].raw.is_leader
    assert cluster[1].raw.term == 2


def test_leadership_moves_on_request_in_spite_of_the_lease() -> None:
    cluster = led_by_one()
    assert cluster[1].raw.transfer(2)
    cluster[1].pump()
    cluster.deliver_all()
    cluster.tick(2)
    cluster.deliver_all()
    cluster.settle()
    assert cluster[2].raw.is_leader
    assert cluster[1].raw.leader == 2


# -- 5: reads


def test_5_a_deposed_leader_does_not_answer_reads() -> None:
    cluster = led_by_one()
    cluster.isolate(1)
    cluster.elect(2, voters=(3,))
    cluster.propose(2, b"new")
    cluster.settle(skip=(1,))
    assert cluster[1].raw.is_leader
    answers: list[int | None] = []
    cluster[1].raw.read_index(answers.append)
    cluster[1].pump()
    assert answers == []
    cluster.mend()
    cluster.settle()
    assert answers == [None]


def test_5_a_read_waits_for_a_majority_and_sees_what_was_committed() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    cluster.settle()
    answers: list[int | None] = []
    cluster[1].raw.read_index(answers.append)
    cluster[1].raw.read_index(answers.append)
    cluster[1].pump()
    assert answers == []
    assert sum(m["type"] == "read_round" for m in cluster.waiting(1, 2)) == 1
    cluster.deliver_all()
    assert answers == [3, 3]


def test_5_a_follower_asks_its_leader_where_to_read() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    cluster.settle()
    answers: list[int | None] = []
    cluster[3].raw.read_index(answers.append)
    cluster[3].pump()
    cluster.deliver_all()
    assert answers == [3]


def test_5_an_answer_to_a_question_of_an_earlier_life_answers_no_other() -> None:
    cluster = led_by_one()
    answers: list[int | None] = []
    cluster[3].raw.read_index(answers.append)
    cluster[3].pump()
    cluster.deliver_all(skip=(2,))
    cluster.deliver(1, 2)
    cluster.deliver(2, 1)
    late = [message for source, _, message in cluster.sent if message["type"] == "read_answer"]
    assert len(late) == 1
    cluster.restart(cluster.crash(3))
    cluster.propose(1, b"a")
    cluster.settle()
    answers.clear()
    cluster[3].raw.read_index(answers.append)
    cluster[3].pump()
    cluster[3].raw.step(1, late[0])
    assert answers == []
    cluster.deliver_all()
    assert answers == [3]


def test_5_a_new_leader_answers_reads_only_after_an_entry_of_its_own_is_committed() -> None:
    cluster = HandCluster()
    cluster.elect(1)
    for pair in ((1, 2), (1, 3)):
        cluster.waiting(*pair).clear()  # nobody gets its first entry
    answers: list[int | None] = []
    cluster[1].raw.read_index(answers.append)
    cluster[1].pump()
    cluster.deliver_all()
    assert answers == []
    cluster.settle()
    assert answers == [2]


# -- 6: whatever is in an entry, the core goes on


def test_6_commands_of_unknown_kind_pass_through_the_core_without_effect() -> None:
    cluster = led_by_one()
    log = cluster[1].raw.log
    log.add(b"\x03not a pickle", log.last_index + 1, 1)
    cluster[1].pump()
    cluster.propose(1, b"after")
    cluster.settle()
    assert all(hand.values == [b"after"] for hand in cluster.nodes.values())


# -- 7: snapshots


def test_7a_a_heartbeat_does_not_commit_a_tail_that_was_not_verified() -> None:
    cluster = led_by_one()
    cluster.isolate(1)
    cluster.propose(1, b"lost-1", b"lost-2")
    cluster.elect(2, voters=(3,))
    cluster.propose(2, *[b"good-%d" % i for i in range(8)])
    cluster.settle(skip=(1,))
    cluster[2].raw.trim(cluster[2].raw.commit_index)
    cluster[2].pump()
    cluster.mend()
    cluster.settle()
    assert cluster[1].values == []
    assert cluster[2].snapshots_wanted


def test_7b_a_snapshot_that_was_not_installed_is_not_acknowledged() -> None:
    cluster = led_by_one()
    snapshot = Snapshot(50, 1, voters(1, 2, 3))
    assert cluster[2].raw.begin_install(1, 1, snapshot)
    cluster[2].pump()
    cluster.waiting(2, 1).clear()
    cluster.propose(1, b"a")
    cluster.deliver(1, 2)  # entries that come meanwhile are not taken either
    assert not any(m.get("success") for m in cluster.waiting(2, 1))
    assert cluster[2].raw.log.last_index == 2


def test_7c_an_old_snapshot_is_answered_and_thrown_away() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a", b"b", b"c")
    cluster.settle()
    assert not cluster[2].raw.begin_install(1, 1, Snapshot(4, 1, voters(1, 2, 3)))
    cluster[2].pump()
    assert cluster.waiting(2, 1)[-1]["next_node_idx"] == 5
    assert cluster[2].entries == [(2, 1), (3, 1), (4, 1), (5, 1)]


def test_7c_a_snapshot_keeps_the_tail_that_agrees_with_it() -> None:
    cluster = led_by_one()
    cluster.isolate(3)
    cluster.propose(1, b"a", b"b", b"c")
    for message in list(cluster.links[1, 2]):
        cluster[2].raw.step(1, message | {"commit_index": 2})
    cluster[2].pump()
    snapshot = Snapshot(4, 1, voters(1, 2, 3))
    assert cluster[2].raw.begin_install(1, 1, snapshot)
    cluster[2].pump()
    cluster[2].raw.finish_install(1, snapshot)
    cluster[2].pump()
    assert cluster[2].entries == [(5, 1)]
    assert cluster[2].raw.log.base_index == 4


def test_7_a_follower_that_needs_trimmed_entries_catches_up_through_a_snapshot() -> None:
    cluster = led_by_one()
    cluster.isolate(3)
    cluster.propose(1, b"a", b"b")
    cluster.settle(skip=(3,))
    cluster[1].raw.trim(cluster[1].raw.commit_index)
    cluster[1].pump()
    cluster.mend()
    cluster.settle(2)
    assert set(cluster[1].snapshots_wanted) == {3}
    snapshot = cluster[1].raw.snapshot_at(cluster[1].position[0])
    assert cluster[3].raw.begin_install(1, 1, snapshot)
    cluster[3].pump()
    cluster[3].applied, cluster[3].position = list(cluster[1].applied), cluster[1].position
    cluster[3].raw.finish_install(1, snapshot)
    cluster[3].pump()
    cluster.propose(1, b"c")
    cluster.settle()
    assert cluster[3].values == [b"a", b"b", b"c"]


def test_7d_a_crash_between_state_and_log_of_an_installation_is_finished_at_the_next_start() -> None:
    cluster = led_by_one()
    hand = cluster[3]
    assert hand.raw.begin_install(1, 1, Snapshot(50, 1, voters(1, 2, 3)))
    hand.pump()
    cluster.crash(3)
    hand.position = (50, 1)  # the state was replaced; the log was not told
    cluster.restart(hand)
    assert (hand.raw.log.base_index, hand.raw.log.last_index, hand.raw.commit_index) == (50, 50, 50)
    assert RESET in [record.kind for record in hand.disk]


def test_7d_an_installation_that_did_not_reach_the_state_is_forgotten() -> None:
    cluster = led_by_one()
    hand = cluster[3]
    assert hand.raw.begin_install(1, 1, Snapshot(50, 1, voters(1, 2, 3)))
    hand.pump()
    cluster.restart(cluster.crash(3))
    cluster.propose(1, b"a")
    cluster.settle()
    assert hand.values == [b"a"]


@pytest.mark.parametrize(
    ("applied", "text"),
    [((9, 1), "ends at index 4"), ((2, 1), "begins behind index 3"), ((4, 2), "has term 1")],
)
def test_7d_a_state_that_does_not_fit_the_log_is_refused(applied: tuple[int, int], text: str) -> None:
    log = GroupLog(7)
    log.set_members(voters(1))
    for index in (2, 3, 4):
        log.add(b"\x00x", index, 1)
    log.take_records()
    log.mark_durable(log.seq)
    log.trim(3)
    with pytest.raises(DataError, match=text) as caught:
        RawNode(node_id=1, log=log, applied=applied, config=CONFIG, rng=random.Random(0), now=0.0)
    assert "group 7" in str(caught.value)
    assert "rebuild this node" in str(caught.value)


def test_7g_a_follower_behind_the_log_costs_one_heartbeat_per_period() -> None:
    cluster = led_by_one()
    cluster.isolate(3)
    cluster.propose(1, b"a", b"b")
    cluster.settle(skip=(3,))
    cluster[1].raw.trim(cluster[1].raw.commit_index)
    cluster.mend()
    cluster.settle(2)
    cluster.sent.clear()
    for _ in range(10):
        cluster.wait(0.01)
        cluster.propose(1, b"more")
        cluster.tick(1)
    assert sum(target == 3 for _, target, _ in cluster.sent) <= 2


# -- 9: members


def test_9a_a_second_membership_change_waits_until_the_first_is_committed() -> None:
    cluster = led_by_one()
    raw = cluster[1].raw
    assert raw.change_members(Change("learn", 4))
    assert not raw.change_members(Change("learn", 5))
    assert raw.log.learners() == (4,)
    cluster[1].pump()
    cluster.settle()
    assert raw.change_members(Change("learn", 5))
    cluster.settle()
    assert cluster[2].raw.log.learners() == (4, 5)
    assert cluster[2].raw.voters == (1, 2, 3)


def test_9a_a_new_leader_changes_members_only_after_an_entry_of_its_own() -> None:
    cluster = HandCluster()
    cluster.elect(1)
    for pair in ((1, 2), (1, 3)):
        cluster.waiting(*pair).clear()
    assert not cluster[1].raw.change_members(Change("learn", 4))
    cluster.settle()
    assert cluster[1].raw.change_members(Change("learn", 4))


def test_9b_after_a_restart_the_members_are_those_of_the_last_change_in_the_log() -> None:
    cluster = led_by_one()
    cluster[1].raw.change_members(Change("learn", 4, 77))
    cluster[1].pump()
    cluster.deliver_all()
    assert cluster[2].raw.commit_index == 2  # not committed as far as node 2 knows
    cluster.restart(cluster.crash(2))
    assert cluster[2].raw.members == (*voters(1, 2, 3), Member(4, 77, False))


def test_9b_a_change_that_is_trimmed_is_remembered_and_one_that_is_truncated_is_undone() -> None:
    cluster = led_by_one()
    cluster.join(4)
    cluster.change(1, "learn", 4)
    cluster.change(1, "add", 4)
    cluster.propose(1, b"a")
    cluster.settle()
    cluster[1].raw.trim(cluster[1].position[0])
    cluster[1].pump()
    cluster.isolate(1)
    cluster[1].raw.change_members(Change("rem", 2))
    cluster[1].pump()
    assert cluster[1].raw.voters == (1, 3, 4)
    cluster.restart(cluster.crash(1))
    assert cluster[1].raw.voters == (1, 3, 4)
    log = cluster[1].raw.log
    log.deleteEntriesFrom(len(log) - 1)
    assert log.voters() == (1, 2, 3, 4)


def test_9c_strangers_and_repeated_votes_do_not_elect() -> None:
    cluster = HandCluster(5)
    cluster.never()
    cluster[1].raw._core._SyncObj__raftElectionDeadline = 0
    cluster.tick(1)
    for voter in (2, 3):
        cluster.deliver(1, voter)
        cluster.deliver(voter, 1)
    cluster.tick(1)
    assert cluster[1].raw.term == 1
    for voter, times in ((77, 1), (78, 1), (2, 3)):
        for _ in range(times):
            cluster[1].raw.step(voter, {"type": "response_vote", "term": 1})
    cluster.tick(1)
    assert not cluster[1].raw.is_leader
    cluster[1].raw.step(3, {"type": "response_vote", "term": 1})
    assert cluster[1].raw.is_leader


def test_9c_an_answer_of_a_removed_node_is_ignored() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    cluster.deliver(1, 3)
    assert cluster[1].raw.change_members(Change("rem", 3))
    cluster.deliver(3, 1)
    cluster.settle()
    assert cluster[1].raw.voters == (1, 2)
    assert cluster[1].values == [b"a"]


def test_9c_a_leader_refuses_to_remove_itself_and_a_removed_node_does_not_campaign() -> None:
    cluster = led_by_one()
    assert not cluster[1].raw.change_members(Change("rem", 1))
    assert cluster[1].raw.change_members(Change("rem", 3))
    cluster[1].pump()
    cluster.deliver_all()
    hand = cluster[3]
    hand.raw.log.add(cluster[1].raw.log[-1][0], 3, 1)
    hand.pump()
    hand.raw._core._SyncObj__raftElectionDeadline = 0
    cluster.sent.clear()
    cluster.tick(3)
    assert not cluster.sent


def test_a_lone_voter_can_grow_to_a_majority_of_two() -> None:
    cluster = HandCluster(1)
    cluster.tick(1)
    cluster.propose(1, b"a")
    assert cluster[1].values == [b"a"]
    cluster.join(2)
    cluster.change(1, "learn", 2)
    cluster.propose(1, b"b")
    assert cluster[1].values == [b"a", b"b"]  # a learner is not asked
    cluster.change(1, "add", 2)
    cluster.isolate(2)
    cluster.propose(1, b"c")
    cluster.tick(1)
    assert cluster[1].values == [b"a", b"b"]  # node 2 has to say so
    cluster.mend()
    cluster.settle()
    assert cluster[1].values == cluster[2].values == [b"a", b"b", b"c"]


# -- 10, 11, 12


def test_11a_a_divergent_tail_with_several_messages_under_way_is_replaced_in_a_few_rounds() -> None:
    cluster = led_by_one(config=RaftConfig(heartbeat_ms=100, election_min_ms=400, message_bytes=20))
    cluster.isolate(1)
    cluster.propose(1, *[b"lost-%03d" % i for i in range(200)])
    cluster.elect(2, voters=(3,))
    values = [b"good-%03d" % i for i in range(200)]
    cluster.propose(2, *values)
    cluster.settle(skip=(1,))
    cluster.mend()
    cluster.sent.clear()
    for _ in range(3):
        cluster.wait(0.11)
        cluster.never()
        cluster.tick(2)  # several heartbeats are under way at once
    cluster.deliver_all()
    cluster.settle(3)
    assert cluster[1].values == values
    assert sum(source == 1 and m.get("reset", False) for source, _, m in cluster.sent) < 10  # not one per entry


def test_12b_an_entry_over_the_message_size_goes_alone_and_whole() -> None:
    cluster = led_by_one(config=RaftConfig(heartbeat_ms=100, election_min_ms=400, message_bytes=65536))
    for size in (65536 - 52, 65536, 65537, 200_000):
        cluster.propose(1, b"x" * size)
    cluster.settle()
    assert [len(value) for value in cluster[2].values] == [65484, 65536, 65537, 200_000]


def test_a_full_window_stops_entries_but_not_heartbeats() -> None:
    config = RaftConfig(heartbeat_ms=100, election_min_ms=400, message_bytes=10, window_messages=4)
    cluster = led_by_one(config=config)
    cluster.sent.clear()
    for i in range(20):
        cluster.propose(1, b"entry-%03d" % i)
    assert entries_sent(cluster, 1, 2) == [3, 4, 5, 6]
    cluster.wait(0.11)
    cluster.tick(1)
    assert cluster.waiting(1, 2)[-1]["entries"] == []
    cluster.settle(8)
    assert len(cluster[2].values) == 20


def test_a_window_that_was_full_is_open_in_the_next_leadership() -> None:
    cluster = led_by_one(config=RaftConfig(heartbeat_ms=100, election_min_ms=400, window_messages=1))
    cluster.propose(1, *[b"lost"] * 8)
    for other in (2, 3):
        assert cluster.waiting(1, other).pop()["entries"][-1][1] == 10
    cluster.elect(2, voters=(3,))
    cluster.deliver_all()
    cluster.elect(1, voters=(2, 3))
    cluster.settle()
    cluster.propose(1, b"b")
    cluster.settle()
    assert cluster[2].values == [b"b"]


def test_followers_learn_of_a_commit_in_the_step_that_moves_it() -> None:
    cluster = led_by_one()
    cluster.propose(1, b"a")
    cluster.deliver(1, 2)
    cluster.deliver(2, 1)
    cluster.tick(1)  # no time has passed: no heartbeat is due
    cluster.deliver(1, 2)
    cluster.tick(2)
    assert cluster[2].values == [b"a"]


# -- the rest of the contract


def test_proposals_have_a_size_and_need_a_leader() -> None:
    node = lone_node()
    with pytest.raises(ValueError, match="1 to"):
        node.propose(b"")
    with pytest.raises(ValueError, match="1 to"):
        node.propose(b"x" * (CONFIG.max_entry_bytes + 1))
    cluster = led_by_one()
    with pytest.raises(NotLeader) as caught:
        cluster[2].raw.propose(b"a")
    assert (caught.value.group, caught.value.leader) == (0, 1)


def test_ready_says_when_records_can_wait() -> None:
    node = lone_node()
    node.persisted(node.ready().seq)
    node.propose(b"a")
    node.persisted(node.ready().seq)
    node.ready()
    node.trim(3)
    ready = node.ready()
    assert [record.kind for record in ready.records] == [TRIM]
    assert not ready.must_sync


def test_trimming_never_goes_beyond_what_is_durable() -> None:
    node = lone_node()
    node.persisted(node.ready().seq)
    node.propose(b"a")
    node.trim(3)
    assert node.log.base_index == 2


def test_alone_an_entry_counts_once_it_is_on_disk_though_a_trim_is_not_yet() -> None:
    node = lone_node()
    node.persisted(node.ready().seq)
    node.propose(b"a")
    node.persisted(node.ready().seq)
    applied = node.ready().committed[-1].index
    node.propose(b"b")
    seq = node.ready().seq
    node.tick(1.0)
    assert node.ready().committed == []
    node.trim(applied)  # while the disk is busy, as a trim after a flush may come
    node.persisted(seq)
    assert [entry.data for entry in node.ready().committed] == [b"b"]


def test_terms_and_votes_are_records() -> None:
    node = lone_node()
    assert Record(HARD_STATE, 0, 1, 1, b"") in node.ready().records


def test_a_group_without_voters_is_refused() -> None:
    with pytest.raises(ValueError, match="no voters"):
        RawNode(node_id=1, log=GroupLog(0), applied=(0, 0), config=CONFIG, rng=random.Random(0), now=0.0)
