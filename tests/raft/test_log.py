"""The log in memory: what it holds, what it tells the disk, and that the disk's records build it again."""

import random

import pytest

from tests.raft.hand_cluster import voters
from wukong.raft.log import (
    ENTRY,
    HARD_STATE,
    INSTALL,
    MEMBERS,
    RESET,
    TRIM,
    TRUNCATE,
    Change,
    GroupLog,
    Member,
    Record,
    Snapshot,
    after_change,
    decode_change,
    encode_change,
)


def filled(last: int, term: int = 1) -> GroupLog:
    log = GroupLog(0)
    log.set_members(voters(1, 2, 3))
    for index in range(2, last + 1):
        log.add(b"\x00%d" % index, index, term)
    return log


def rebuilt(records: list[Record]) -> GroupLog:
    log = GroupLog(0)
    for record in records:
        log.replay(record)
    log.end_replay()
    return log


def same(a: GroupLog, b: GroupLog) -> bool:
    def facts(log: GroupLog) -> tuple[object, ...]:
        return (list(log), log.term, log.vote, log.members, log.members_now(), log.entry_bytes, log.intent)

    return facts(a) == facts(b)


def test_a_new_log_holds_only_the_agreed_first_entry() -> None:
    log = GroupLog(0)
    assert (log.base_index, log.last_index, log.last_term, len(log)) == (1, 1, 0, 1)
    assert log.voters() == ()


def test_entries_follow_each_other_without_gaps() -> None:
    log = filled(3)
    for index in (3, 5):
        with pytest.raises(AssertionError, match="does not follow"):
            log.add(b"\x00", index, 1)
    with pytest.raises(AssertionError):
        log.add(b"", 4, 1)


def test_terms_are_known_from_the_base_to_the_end() -> None:
    log = filled(5)
    log.trim(3)
    assert [log.term_at(index) for index in range(2, 7)] == [None, 1, 1, 1, None]


def test_entries_are_read_up_to_a_size_but_at_least_one() -> None:
    log = filled(9)
    assert [entry[1] for entry in log.entries_from(4, 4)] == [4, 5]
    assert [entry[1] for entry in log.entries_from(4, 0)] == [4]
    assert log.entries_from(10, 100) == []


def test_a_truncated_entry_is_not_durable_though_its_first_version_was_written() -> None:
    log = filled(5)
    log.take_records()
    under_way = log.seq
    log.deleteEntriesFrom(3)  # index 4 on
    log.add(b"\x00new", 4, 2)
    log.mark_durable(under_way)
    assert log.durable_index == 3
    log.take_records()
    log.mark_durable(log.seq)
    assert log.durable_index == 4


def test_the_same_term_and_vote_leave_no_record() -> None:
    log = GroupLog(0)
    log.setCurrentTerm(3, 2)
    log.setCurrentTerm(3, 2)
    assert log.take_records() == [Record(HARD_STATE, 0, 2, 3, b"")]
    assert (log.getCurrentTerm(), log.getVotedForNodeId()) == (3, 2)
    log.setCurrentTerm(4, None)
    assert log.getVotedForNodeId() is None


def test_trimming_remembers_the_members_and_only_what_is_behind_the_base() -> None:
    log = filled(3)
    log.add(encode_change(Change("add", 9)), 4, 1)
    log.add(b"\x00tail", 5, 1)
    log.take_records()
    log.trim(4)
    assert [record.kind for record in log.take_records()] == [TRIM]
    assert log.members == log.members_now() == voters(1, 2, 3, 9)
    assert log.entry_bytes == 5
    log.trim(2)
    assert log.base_index == 4
    with pytest.raises(AssertionError, match="behind the end"):
        log.trim(6)


def test_a_snapshot_replaces_a_log_that_does_not_agree_with_it() -> None:
    log = filled(5)
    log.finish_install(Snapshot(4, 2, voters(1, 2)))
    assert [(index, term) for _, index, term in log] == [(4, 2)]
    assert log.durable_index == 4


def test_changes_survive_their_encoding_and_nothing_else_passes() -> None:
    for change in (Change("rem", 12), Change("learn", 3, 2**63), Change("add", 3, 7)):
        assert decode_change(encode_change(change)) == change
    assert decode_change(b"\x02\x92\xa3add\x04") == Change("add", 4, 0)  # before disks were known
    assert decode_change(b"\x00\x92") is None
    for bad in (b"\x02\x91\xa3add", b"\x02", b"\x02\x92\xa3add\xa1x", b"\x02\x92\xa3xxx\x01", b"\x02\x01"):
        with pytest.raises(ValueError):
            decode_change(bad)


@pytest.mark.parametrize("seed", range(30))
def test_replaying_the_records_builds_the_same_log(seed: int) -> None:
    rng = random.Random(seed)
    log = GroupLog(0)
    log.set_members(voters(1, 2, 3))
    records: list[Record] = []
    term = 1
    for _ in range(120):
        draw = rng.random()
        if draw < 0.6:
            log.add(b"\x00" + rng.randbytes(rng.randint(0, 9)), log.last_index + 1, term)
        elif draw < 0.68 and len(log) > 1:
            log.deleteEntriesFrom(rng.randint(1, len(log) - 1))
            term += 1
        elif draw < 0.76:
            log.trim(rng.randint(log.base_index, log.last_index))
        elif draw < 0.84:
            term = max(term, log.term) + 1
            log.setCurrentTerm(term, rng.choice((None, 1, 2)))
        elif draw < 0.9:
            change = Change(rng.choice(("learn", "add", "rem")), rng.randint(1, 6), rng.randint(0, 2))
            log.add(encode_change(change), log.last_index + 1, term)
        elif draw < 0.93:
            snapshot = Snapshot(log.last_index + rng.randint(-1, 5), term, voters(1, 2))
            if snapshot.index > log.base_index:
                log.begin_install(snapshot)
                log.finish_install(snapshot)
        if rng.random() < 0.2:
            records += log.take_records()
            assert same(rebuilt(records), log)
        if rng.random() < 0.05:  # a new segment repeats everything, and the older ones go
            records += log.take_records()
            records = log.state_records(entries=True)
            assert same(rebuilt(records), log)
    records += log.take_records()
    assert same(rebuilt(records), log)
    print("seed", seed)


def test_a_gap_is_accepted_only_if_a_later_trim_point_covers_it() -> None:
    entries = [Record(ENTRY, 0, index, 1, b"\x00") for index in (7, 8, 9)]
    with pytest.raises(ValueError, match="before 7 are missing"):
        rebuilt(entries)
    with pytest.raises(ValueError, match="missing"):
        rebuilt([*entries, Record(TRIM, 0, 5, 1, b"")])
    for at in (6, 8):
        log = rebuilt([*entries, Record(TRIM, 0, at, 1, b"")])
        assert (log.base_index, log.last_index, log.term_at(at)) == (at, 9, 1)
    log = rebuilt(
        [*entries, Record(TRUNCATE, 0, 4, 0, b""), Record(ENTRY, 0, 4, 2, b"\x00"), Record(TRIM, 0, 4, 2, b"")]
    )
    assert (log.base_index, log.last_index) == (4, 4)


@pytest.mark.parametrize(
    "record",
    [
        Record(TRUNCATE, 0, 3, 0, b""),
        Record(TRIM, 0, 5, 9, b""),
        Record(ENTRY, 0, 7, 1, b""),
        Record(MEMBERS, 0, 1, 0, b"\x81\x01\x01"),
        Record(99, 0, 1, 0, b""),
    ],
)
def test_records_that_contradict_the_log_are_refused(record: Record) -> None:
    log = rebuilt([Record(RESET, 0, 3, 1, b""), *[Record(ENTRY, 0, index, 1, b"\x00") for index in (4, 5, 6)]])
    with pytest.raises(ValueError):
        log.replay(record)


def test_an_intent_is_kept_until_the_log_was_reset() -> None:
    log = filled(3)
    log.begin_install(Snapshot(40, 2, voters(1, 2)))
    records = log.take_records()
    assert records[-1].kind == INSTALL
    again = rebuilt(records)
    assert again.intent == Snapshot(40, 2, voters(1, 2))
    assert rebuilt(again.state_records(entries=True)).intent == again.intent
    log.finish_install(Snapshot(40, 2, voters(1, 2)))
    assert rebuilt(records + log.take_records()).intent is None


TWO_MEMBERS = (Member(1, 10, True), Member(2, 20, False))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change("learn", 3, 30), (*TWO_MEMBERS, Member(3, 30, False))),
        (Change("learn", 2, 21), TWO_MEMBERS),
        (Change("learn", 1, 11), TWO_MEMBERS),
        (Change("add", 2, 20), (Member(1, 10, True), Member(2, 20, True))),
        (Change("add", 2, 21), TWO_MEMBERS),
        (Change("add", 0, 5), (Member(0, 5, True), *TWO_MEMBERS)),
        (Change("rem", 2), (Member(1, 10, True),)),
        (Change("rem", 1, 10), (Member(2, 20, False),)),
        (Change("rem", 1, 11), TWO_MEMBERS),
        (Change("rem", 9), TWO_MEMBERS),
    ],
    ids=str,
)
def test_a_change_leads_from_members_to_members(change: Change, expected: tuple[Member, ...]) -> None:
    assert after_change(TWO_MEMBERS, change) == expected


def test_a_node_is_a_member_with_its_own_disk_only() -> None:
    log = GroupLog(0)
    log.set_members(TWO_MEMBERS)
    assert log.member(2, 20) == TWO_MEMBERS[1]
    assert log.member(2, 21) is None
    assert (log.voters(), log.learners()) == ((1,), (2,))


def test_a_write_that_tears_anywhere_leaves_the_members_of_what_is_there() -> None:
    log = filled(3)
    log.add(encode_change(Change("rem", 3)), 4, 1)
    log.add(b"\x00tail", 5, 1)
    before = log.take_records()
    log.trim(4)
    torn = log.take_records()
    for count in range(len(torn) + 1):
        assert rebuilt(before + torn[:count]).members_now() == voters(1, 2), count
    snapshot = Snapshot(40, 2, TWO_MEMBERS)
    log.finish_install(snapshot)
    installed = log.take_records()
    for count in range(len(installed) + 1):
        again = rebuilt(before + torn + installed[:count])
        assert again.members_now() == (voters(1, 2) if again.base_index == 4 else TWO_MEMBERS), count


def test_members_survive_in_every_record_that_carries_them() -> None:
    log = GroupLog(0)
    log.set_members(TWO_MEMBERS)
    log.begin_install(Snapshot(40, 2, (*TWO_MEMBERS, Member(3, 2**64 - 1, True))))
    for records in (log.take_records(), log.state_records(entries=True)):
        again = rebuilt(records)
        assert again.members == TWO_MEMBERS
        assert again.intent == log.intent
