"""What a peer may say to the core. Here the core is a stub that writes down what reaches it."""

from typing import Any

import pytest

from tests.raft.hand_cluster import voters
from wukong.raft.filter import Message, MessageFilter
from wukong.raft.log import GroupLog, Member
from wukong.raft.reads import ReadRounds


class StubCore:
    disk = 0
    """Stands still; `delivered` is what the filter let through."""

    def __init__(self, *, term: int = 3, leader: bool = False, last: int = 8) -> None:
        self.node_id = 1
        self.log = GroupLog(0)
        self.log.set_members(voters(1, 2, 3))
        for index in range(2, last + 1):
            self.log.add(b"\x00", index, 1 if index < 6 else 2)
        self.log.take_records()
        self.log.mark_durable(self.log.seq)
        self.is_leader = leader
        self.leader_id: int | None = 1 if leader else None
        self.term = term
        self.commit_index = 4
        self.peers: dict[int, Any] = {2: None, 3: None}
        self.learners: dict[int, Any] = {}
        self.may_vote = self.may_campaign_itself = True
        self.next: dict[int, int] = {2: 9, 3: 9}
        self.delivered: list[tuple[int, Message]] = []
        self.windows: list[tuple[str, int]] = []

    def next_index(self, node: int) -> int | None:
        return self.next.get(node)

    def deliver(self, node: int, message: Message, now: float) -> None:
        self.delivered.append((node, message))

    def answered(self, node: int, index: int) -> None:
        self.windows.append(("answered", index))

    def restart_window(self, node: int) -> None:
        self.windows.append(("restart", node))

    def keep_next_index(self, node: int, index: int) -> None:
        self.next[node] = max(self.next[node], index)

    def postpone_election(self, after_s: float, now: float) -> None:
        self.windows.append(("postpone", round(after_s * 1000)))

    def learner_has(self, node: int, index: int) -> None:
        self.windows.append(("learner has", index))

    def learner_asks(self, node: int, index: int) -> None:
        self.windows.append(("learner asks", index))


class Bench:
    def __init__(self, **options: Any) -> None:
        self.core = StubCore(**options)
        self.sent: list[tuple[int, Message]] = []
        self.filter = MessageFilter(
            self.core,
            lambda node, message: self.sent.append((node, message)),
            ReadRounds(limit_count=10, timeout_s=1.0, first_id=1),
            election_min_s=0.5,
            now=100.0,
        )

    def hears(self, node: int, **message: Any) -> None:
        self.filter.incoming(node, message)

    @property
    def reached(self) -> list[Message]:
        return [message for _, message in self.core.delivered]


def append(prev: int, prev_term: int, *entries: tuple[bytes, int, int], **more: Any) -> Message:
    message = {
        "type": "append_entries",
        "term": 3,
        "commit_index": 99,
        "rid": 7,
        "prevLogIdx": prev,
        "prevLogTerm": prev_term,
        "entries": [list(entry) for entry in entries],
    }
    return message | more


# -- shape


MALFORMED: list[Message] = [
    {},
    {"type": None},
    {"type": ["append_entries"]},
    {"type": "apply_command", "command": b""},
    {"type": "status"},
    {"type": "append_entries"},
    {"type": "append_entries", "term": "3", "commit_index": 1, "rid": 0},
    {"type": "append_entries", "term": 3, "commit_index": 1},
    {"type": "append_entries", "term": True, "commit_index": 1, "rid": 0},
    append(8, 2) | {"entries": None},
    append(8, 2) | {"entries": [None]},
    append(8, 2) | {"entries": [[b"\x00", 9]]},
    append(8, 2) | {"prevLogTerm": None},
    append(8, 2, (b"", 9, 3)),
    append(8, 2, (b"\x00", 10, 3)),
    append(8, 2, (b"\x00", 9, 1)),
    append(8, 2, (b"\x00", 9, 4)),
    append(8, 2, (b"\x00", 9, 3), (b"\x00", 9, 3)),
    append(8, 2) | {"entries": [["text", 9, 3]]},
    {"type": "response_vote", "term": 3.0},
    {"type": "next_node_idx", "term": 3, "next_node_idx": 4, "success": 1, "reset": False, "rid": 0},
    {"type": "request_vote", "term": 4, "last_log_index": 4, "last_log_term": 1},
    {"type": "read_round", "term": 3, "id": "x"},
]


@pytest.mark.parametrize("message", MALFORMED, ids=[str(message)[:60] for message in MALFORMED])
def test_malformed_messages_are_counted_and_dropped(message: Message) -> None:
    bench = Bench()
    bench.filter.incoming(2, message)
    assert (bench.filter.malformed_count, bench.core.delivered, bench.sent) == (1, [], [])


# -- entries


def test_entries_that_are_there_already_never_reach_the_core() -> None:
    bench = Bench()
    bench.hears(2, **append(3, 1, (b"\x00", 4, 1), (b"\x00", 5, 1)))
    (beat,) = bench.reached
    assert "prevLogIdx" not in beat
    assert beat["commit_index"] == 5
    ((_, answer),) = bench.sent
    assert (answer["next_node_idx"], answer["success"], answer["rid"]) == (6, True, 7)


def test_of_entries_that_overlap_only_the_new_ones_reach_the_core() -> None:
    bench = Bench()
    bench.hears(2, **append(6, 2, (b"\x00", 7, 2), (b"\x00", 8, 2), (b"new", 9, 3)))
    (message,) = bench.reached
    assert (message["prevLogIdx"], message["prevLogTerm"], message["entries"]) == (8, 2, [(b"new", 9, 3)])
    assert message["commit_index"] == 9


def test_entries_that_conflict_replace_from_the_first_that_differs() -> None:
    bench = Bench()
    bench.hears(2, **append(4, 1, (b"\x00", 5, 1), (b"other", 6, 3)))
    (message,) = bench.reached
    assert (message["prevLogIdx"], message["prevLogTerm"], message["entries"]) == (5, 1, [(b"other", 6, 3)])


def test_replacing_what_is_committed_stops_the_process() -> None:
    bench = Bench()
    with pytest.raises(AssertionError, match="committed up to 4"):
        bench.hears(2, **append(2, 1, (b"other", 3, 2)))


@pytest.mark.parametrize(
    ("prev", "prev_term", "expected"),
    [(12, 3, 9), (8, 3, 6), (5, 2, 5)],
    ids=["log too short", "start of the conflicting term", "not below the commit index"],
)
def test_a_mismatch_is_answered_with_where_to_go_on(prev: int, prev_term: int, expected: int) -> None:
    bench = Bench()
    bench.hears(2, **append(prev, prev_term))
    (beat,) = bench.reached
    assert beat["commit_index"] == 0
    ((_, answer),) = bench.sent
    assert (answer["reset"], answer["success"], answer["next_node_idx"]) == (True, False, expected)


def test_entries_before_the_base_count_as_known() -> None:
    bench = Bench()
    bench.core.log.trim(4)
    bench.hears(2, **append(1, 0, (b"\x00", 2, 1), (b"\x00", 3, 1)))
    bench.hears(2, **append(2, 1, (b"\x00", 3, 1), (b"\x00", 4, 1), (b"\x00", 5, 1)))
    assert [answer["next_node_idx"] for _, answer in bench.sent] == [4, 6]
    assert all("prevLogIdx" not in message for message in bench.reached)


def test_a_leader_of_the_past_is_told_so() -> None:
    bench = Bench()
    bench.hears(2, **append(8, 2) | {"term": 2})
    bench.hears(3, type="request_vote", term=2, last_log_index=99, last_log_term=2, transfer=False)
    assert bench.sent == [(2, {"type": "term_hint", "term": 3}), (3, {"type": "term_hint", "term": 3})]
    assert bench.reached == []


def test_a_second_leader_of_the_term_stops_the_process() -> None:
    bench = Bench(leader=True)
    with pytest.raises(AssertionError, match="two leaders in term 3"):
        bench.hears(2, **append(8, 2))


def test_while_a_snapshot_is_installed_no_entries_are_taken() -> None:
    bench = Bench()
    bench.filter.installing = True
    bench.hears(2, **append(8, 2, (b"new", 9, 3)))
    (beat,) = bench.reached
    assert "prevLogIdx" not in beat
    assert not bench.sent[0][1]["success"]


# -- answers


def answer(next_index: int, *, term: int = 3, success: bool = True, reset: bool = False, rid: int = 0) -> Message:
    return {
        "type": "next_node_idx", "term": term, "next_node_idx": next_index,
        "success": success, "reset": reset, "rid": rid,
    }  # fmt: skip


def test_answers_count_only_from_voters_in_this_term() -> None:
    bench = Bench(leader=True)
    bench.hears(9, **answer(9))
    bench.hears(2, **answer(9, term=2))
    assert bench.reached == []
    bench.hears(2, **answer(9))
    assert [message["next_node_idx"] for message in bench.reached] == [9]


def test_an_answer_of_a_higher_term_ends_the_leadership() -> None:
    bench = Bench(leader=True)
    bench.hears(2, **answer(9, term=5))
    (message,) = bench.reached
    assert (message["type"], message["term"], message["last_log_index"]) == ("request_vote", 5, -1)


def test_an_answer_does_not_claim_more_than_the_log_holds() -> None:
    bench = Bench(leader=True)
    bench.hears(2, **answer(500))
    assert [message["next_node_idx"] for message in bench.reached] == [9]


def test_an_answer_for_entries_that_are_not_durable_here_waits_for_them() -> None:
    bench = Bench(leader=True)
    log = bench.core.log
    log.add(b"\x00", 9, 3)
    log.add(b"\x00", 10, 3)
    bench.hears(2, **answer(11))
    assert [message["next_node_idx"] for message in bench.reached] == [9]
    log.take_records()
    log.mark_durable(log.seq)
    bench.filter.log_became_durable()
    assert [message["next_node_idx"] for message in bench.reached] == [9, 11]
    bench.filter.log_became_durable()
    assert len(bench.reached) == 2


def test_only_the_first_of_several_resets_moves_the_position() -> None:
    bench = Bench(leader=True)
    for _ in range(2):
        bench.hears(2, **answer(4, success=False, reset=True, rid=0))
    assert [message["reset"] for message in bench.reached] == [True, False]
    assert bench.core.windows == [("restart", 2)]
    bench.filter.outgoing(2, {"type": "append_entries"})
    assert bench.sent[-1][1]["rid"] == 1
    bench.hears(2, **answer(3, success=False, reset=True, rid=1))
    assert bench.reached[-1]["reset"]


# -- elections


def vote_request(term: int, *, transfer: bool = False) -> Message:
    return {"type": "request_vote", "term": term, "last_log_index": 99, "last_log_term": 9, "transfer": transfer}


def test_while_a_leader_is_heard_only_a_transfer_gets_a_vote_in_a_new_term() -> None:
    bench = Bench()
    bench.hears(2, **append(8, 2))
    bench.core.delivered.clear()
    bench.filter.now += 0.4
    bench.hears(3, **vote_request(4))
    assert bench.reached == []
    bench.hears(3, **vote_request(4, transfer=True))
    bench.filter.now += 0.2
    bench.hears(3, **vote_request(4))
    assert len(bench.reached) == 2


def test_a_vote_counts_once_per_voter_and_term() -> None:
    bench = Bench()
    for node in (2, 2, 9, 3, 3):
        bench.hears(node, type="response_vote", term=3)
    bench.hears(2, type="response_vote", term=2)
    assert [node for node, _ in bench.core.delivered] == [2, 3]


@pytest.mark.parametrize(
    ("term", "last", "heard", "granted"),
    [
        (3, (2, 8), False, True),
        (3, (2, 7), False, False),
        (3, (1, 99), False, False),
        (2, (2, 8), False, False),
        (3, (2, 8), True, False),
    ],
)
def test_a_pre_vote_is_granted_like_a_vote_but_never_while_a_leader_is_heard(
    term: int, last: tuple[int, int], heard: bool, granted: bool
) -> None:
    bench = Bench()
    if heard:
        bench.hears(2, **append(8, 2))
        bench.sent.clear()
    bench.hears(3, type="pre_vote", term=term, last_log_term=last[0], last_log_index=last[1])
    (told,) = bench.sent
    assert told == (3, {"type": "pre_vote_answer", "asked_term": term, "granted": granted, "term": 3, "disk": 0})


def test_an_election_needs_a_majority_of_pre_votes_of_this_term_and_question() -> None:
    bench = Bench()
    assert not bench.filter.may_campaign()
    assert [node for node, _ in bench.sent] == [2, 3]
    bench.hears(2, type="pre_vote_answer", asked_term=3, granted=False, term=3)
    bench.hears(3, type="pre_vote_answer", asked_term=2, granted=True, term=3)
    bench.hears(9, type="pre_vote_answer", asked_term=3, granted=True, term=3)
    assert not bench.filter.may_campaign()
    bench.hears(3, type="pre_vote_answer", asked_term=3, granted=True, term=3)
    assert bench.filter.may_campaign()
    assert not bench.filter.may_campaign()  # the next election asks again
    assert len(bench.sent) == 4


def test_unanswered_pre_votes_are_asked_again_after_half_an_election_time() -> None:
    bench = Bench()
    bench.filter.may_campaign()
    bench.filter.now += 0.2
    bench.filter.may_campaign()
    assert len(bench.sent) == 2
    bench.filter.now += 0.1
    bench.filter.may_campaign()
    assert len(bench.sent) == 4


def test_hints_of_a_higher_term_are_adopted_and_lower_ones_ignored() -> None:
    bench = Bench()
    bench.hears(2, type="term_hint", term=3)
    assert bench.reached == []
    bench.hears(2, type="term_hint", term=6)
    bench.hears(2, type="pre_vote_answer", asked_term=3, granted=False, term=7)
    assert [message["term"] for message in bench.reached] == [6, 7]


def test_a_request_to_take_over_is_obeyed_only_from_the_leader() -> None:
    bench = Bench()
    bench.core.leader_id = 2
    bench.hears(3, type="timeout_now", term=3)
    bench.hears(2, type="timeout_now", term=2)
    assert bench.reached == []
    bench.hears(2, type="timeout_now", term=3)
    assert len(bench.reached) == 1
    bench.filter.outgoing(3, {"type": "request_vote", "term": 4})
    assert bench.sent[-1][1]["transfer"]
    bench.filter.outgoing(3, {"type": "request_vote", "term": 5})
    assert not bench.sent[-1][1]["transfer"]


# -- members


def test_a_node_whose_disk_the_log_does_not_name_gives_neither_pre_vote_nor_vote() -> None:
    bench = Bench()
    bench.core.may_vote = False
    bench.hears(3, type="pre_vote", term=9, last_log_term=9, last_log_index=99)
    assert not bench.sent[-1][1]["granted"]
    for transfer in (False, True):
        bench.hears(3, **vote_request(9, transfer=transfer))
    assert bench.reached == []


def test_answers_of_a_learner_move_its_own_position_and_do_not_reach_the_core() -> None:
    bench = Bench(leader=True)
    bench.core.learners = {4: None}
    bench.core.log.set_members((*voters(1, 2, 3), Member(4, 0, False)))
    bench.hears(4, **answer(7))
    bench.hears(4, **answer(3, success=False, reset=True))
    bench.hears(4, **answer(3, success=False, reset=True))  # of the probe before
    bench.hears(4, **answer(9, term=2))
    assert bench.core.windows == [("answered", 6), ("learner has", 6), ("restart", 4), ("learner asks", 3)]
    assert bench.reached == []


def test_a_learner_that_was_removed_is_a_stranger() -> None:
    bench = Bench(leader=True)
    bench.hears(4, **answer(7))
    assert (bench.core.windows, bench.reached) == ([], [])


def test_who_must_not_stand_for_election_does_not_take_over() -> None:
    bench = Bench()
    bench.core.leader_id = 2
    bench.core.may_campaign_itself = False
    bench.hears(2, type="timeout_now", term=3)
    assert bench.reached == []


# -- two that ask for an election at once


def pre_vote(last_index: int = 8, term: int = 3) -> Message:
    return {"type": "pre_vote", "term": term, "last_log_term": 2, "last_log_index": last_index}


def test_of_two_that_ask_at_once_the_one_with_the_longer_log_or_the_higher_number_goes_first() -> None:
    bench = Bench()
    bench.filter.may_campaign()
    bench.sent.clear()
    bench.core.node_id = 3
    bench.hears(2, **pre_vote())
    assert not bench.sent[-1][1]["granted"]
    bench.hears(2, **pre_vote(last_index=9))
    assert bench.sent[-1][1]["granted"]


def test_who_grants_a_pre_vote_steps_back_for_a_moment() -> None:
    bench = Bench()
    bench.filter.may_campaign()
    bench.hears(3, **pre_vote())
    assert bench.sent[-1][1]["granted"]
    assert bench.core.windows == [("postpone", 125)]
    bench.hears(2, type="pre_vote_answer", asked_term=3, granted=True, term=3)
    assert not bench.filter.may_campaign()  # the answer is to a question that was taken back


def test_who_asks_again_lets_others_go_first() -> None:
    bench = Bench()
    bench.core.node_id = 9
    bench.filter.may_campaign()
    bench.filter.now += 0.3
    bench.filter.may_campaign()  # the first question was not answered: it may reach too few
    bench.hears(2, **pre_vote())
    assert bench.sent[-1][1]["granted"]


def test_answers_with_another_disk_than_the_members_are_those_of_a_stranger() -> None:
    for kind in ("next_node_idx", "response_vote", "pre_vote_answer", "read_round_answer"):
        bench = Bench(leader=True)
        bench.hears(2, **{**answer(7), "type": kind, "asked_term": 3, "granted": True, "id": 1, "disk": 99})
        assert (bench.core.windows, bench.reached) == ([], []), kind


def test_that_something_is_committed_is_not_answered() -> None:
    bench = Bench()
    bench.hears(2, **append(8, 2), quiet=True)
    assert bench.sent == []
    bench.hears(2, **append(8, 2))
    assert len(bench.sent) == 1


def test_a_heartbeat_that_announces_a_snapshot_is_answered_with_what_is_committed_here() -> None:
    bench = Bench()
    message = append(8, 2)
    del message["prevLogIdx"]
    bench.hears(2, **message)
    _, told = bench.sent[-1]
    assert (told["success"], told["next_node_idx"]) == (True, bench.core.commit_index + 1)
