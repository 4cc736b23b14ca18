"""Every judge of the simulation can find somebody guilty, and lets the innocent go."""

from collections.abc import Callable

import pytest

from tests.scenarios.judge import Change, History
from tests.simulation import checkers
from tests.simulation.checkers import Connected, Post, Push, Stored, Violations

ALICE, BOB = "alice", "bob"


@pytest.fixture
def found() -> Violations:
    return Violations()


def history(*changes: Change) -> History:
    made = History(changes=list(changes))
    made.sent(1, b"one", ALICE, 10.0, 11.0)
    made.sent(2, b"two", ALICE, 20.0, 21.0)
    return made


def joins(uid: str, began: float, ok: float) -> Change:
    return Change(lambda each: True if each == uid else None, began, ok)


def leaves(uid: str, began: float, ok: float) -> Change:
    return Change(lambda each: False if each == uid else None, began, ok)


def push(seq: int, at: float = 30.0, *, message_id: int = 0, payload: bytes = b"") -> Push:
    return Push("g", False, seq, message_id or seq, payload or (b"one", b"two")[seq - 1], at)


def connection(*pushes: Push, opened: float = 5.0, closed: float | None = None) -> Connected:
    return Connected(BOB, 1, 7, opened=opened, closed=closed, pushes=list(pushes))


def test_two_entries_at_one_index_are_found(found: Violations) -> None:
    matching = checkers.LogMatching(found)
    assert matching.applied(1, 0, 5, 2, b"x")
    assert not matching.applied(2, 0, 5, 2, b"x")
    assert found.rules == []
    matching.applied(3, 0, 5, 3, b"y")
    assert found.rules == ["log matching"]


def test_logs_that_agree_at_a_point_and_not_before_are_found(found: Violations) -> None:
    matching = checkers.LogMatching(found)
    base = (b"", 1, 0)
    matching.logs(0, {1: [base, (b"a", 2, 1), (b"b", 3, 2)], 2: [base, (b"a", 2, 1), (b"c", 3, 3)]})
    assert found.rules == []
    matching.logs(0, {1: [base, (b"a", 2, 1), (b"b", 3, 2)], 2: [base, (b"z", 2, 2), (b"b", 3, 2)]})
    assert found.rules == ["log matching"]


def test_two_leaders_of_one_term_are_found(found: Violations) -> None:
    leaders = checkers.LeaderCompleteness(found, checkers.LogMatching(found))
    leaders.leads(1, 0, 4, lambda index: None, 1)
    leaders.leads(1, 0, 4, lambda index: None, 1)
    assert found.rules == []
    leaders.leads(2, 0, 4, lambda index: None, 1)
    assert found.rules == ["leader completeness"]


def test_a_leader_without_a_committed_entry_is_found(found: Violations) -> None:
    matching = checkers.LogMatching(found)
    leaders = checkers.LeaderCompleteness(found, matching)
    matching.applied(1, 0, 5, 2, b"x")
    leaders.leads(1, 0, 3, {5: 2}.get, 1)
    leaders.leads(3, 0, 2, {4: 1}.get, 1)  # it was elected before
    assert found.rules == []
    leaders.leads(2, 0, 4, {4: 1}.get, 1)
    assert found.rules == ["leader completeness"]


def test_a_commit_without_a_majority_is_found(found: Violations) -> None:
    rule = checkers.CommitRule(found)
    rule.check(0, 5, 2, [[1, 2, 3]], {1: True, 2: True, 3: False}.get)
    rule.check(0, 6, 2, [[1, 2, 3], [1, 2]], {1: True, 2: None, 3: False}.get)
    assert found.rules == []
    rule.check(0, 7, 2, [[1, 2, 3]], {1: True, 2: False, 3: False}.get)
    assert found.rules == ["commit rule"]


@pytest.mark.parametrize(
    ("term", "vote", "last_index", "guilty"),
    [(4, 2, 9, False), (5, 0, 3, False), (3, 0, 9, True), (4, 3, 9, True), (4, 0, 9, True), (4, 2, 8, True)],
)
def test_a_disk_that_forgets_what_its_node_said_is_found(
    found: Violations, term: int, vote: int, last_index: int, guilty: bool
) -> None:
    promises = checkers.Promises(found)
    promises.says(77, 0, 2, {"type": "response_vote", "term": 4})
    promises.says(77, 0, 2, {"type": "next_node_idx", "term": 4, "next_node_idx": 10, "success": True})
    promises.says(77, 0, 2, {"type": "next_node_idx", "term": 4, "next_node_idx": 30, "success": False})
    promises.restarts(77, 0, term, vote, last_index)
    assert bool(found.found) is guilty


def test_a_gap_and_a_repeat_in_applying_are_found(found: Violations) -> None:
    order = checkers.ApplyOrder(found)
    order.starts(1, 0, 4)
    order.applied(1, 0, 5)
    order.installed(1, 0, 9)
    order.applied(1, 0, 10)
    assert found.rules == []
    order.applied(1, 0, 12)
    assert len(found.found) == 1
    order.installed(1, 0, 12)
    assert len(found.found) == 2


def test_rows_that_differ_at_one_index_are_found(found: Violations) -> None:
    rows = checkers.EqualRows(found)
    rows.digest(1, 0, 40, b"a")
    rows.digest(2, 0, 40, b"a")
    rows.digest(2, 0, 80, b"b")
    assert (found.rules, rows.compared) == ([], 1)
    rows.digest(1, 0, 80, b"c")
    assert found.rules == ["equal rows"]


@pytest.mark.parametrize("stored", [[], [Stored(3, 9, "n", b"other")], [Stored(3, 8, "n", b"hi")]])
def test_an_acknowledged_message_that_is_not_there_is_found(found: Violations, stored: list[Stored]) -> None:
    posts = [
        Post("g", False, ALICE, b"hi", "n", 1.0, acked=2.0, seq=3, message_id=9),
        Post("g", False, ALICE, b"?", "m", 1.0),
    ]
    loss = checkers.NoLoss(found)
    loss.check(1, posts, lambda name, is_cmd: {3: Stored(3, 9, "n", b"hi")})
    assert found.rules == []
    loss.check(1, posts, lambda name, is_cmd: {each.seq: each for each in stored})
    assert found.rules == ["acknowledged loss"]


@pytest.mark.parametrize(
    "messages",
    [
        [Stored(1, 5, "a", b""), Stored(3, 6, "b", b"")],
        [Stored(1, 5, "a", b""), Stored(2, 5, "b", b"")],
        [Stored(1, 5, "a", b""), Stored(2, 6, "a", b"")],
    ],
    ids=["a gap", "an id that does not rise", "a number twice"],
)
def test_a_channel_whose_messages_are_no_sequence_is_found(found: Violations, messages: list[Stored]) -> None:
    sequence = checkers.Sequence_(found)
    sequence.check(1, "g", [Stored(1, 5, "a", b""), Stored(2, 6, "b", b"")])
    assert found.rules == []
    sequence.check(1, "g", messages)
    assert found.rules == ["sequence"]


@pytest.mark.parametrize(
    "pushes",
    [
        [push(2), push(1, 31.0)],
        [push(1), push(1, 31.0)],
        [push(1), push(1, 40.0, payload=b"changed")],
    ],
    ids=["an older seq", "twice at once", "again, and changed"],
)
def test_a_connection_that_gets_things_twice_or_late_is_found(found: Violations, pushes: list[Push]) -> None:
    order = checkers.ConnectionOrder(found, repeat_after_s=6.0)
    order.check(connection(push(1), push(2, 30.1), push(1, 37.0)))  # 1 was not confirmed in time
    assert found.rules == []
    order.check(connection(*pushes))
    assert found.rules == ["order"]


def test_a_member_who_misses_a_push_is_found(found: Violations) -> None:
    promise = checkers.Promise(found)
    told = history(joins(BOB, 1.0, 2.0))
    promise.connection(connection(push(1), push(2)), {("g", False): told}, alive=True)
    promise.connection(connection(opened=25.0), {("g", False): told}, alive=True)  # it came after both
    promise.connection(
        connection(push(1), closed=25.0), {("g", False): told}, alive=False
    )  # 2 may have been on its way
    assert found.rules == []
    promise.connection(connection(push(2), closed=25.0), {("g", False): told}, alive=False)
    assert len(found.found) == 1
    promise.connection(connection(push(1)), {("g", False): told}, alive=True)
    assert len(found.found) == 2 and "MISSED" in found.found[0].text


def test_a_stranger_who_is_pushed_a_message_is_found(found: Violations) -> None:
    promise = checkers.Promise(found)
    told = history(joins(BOB, 15.0, 16.0))
    promise.connection(connection(push(2)), {("g", False): told}, alive=True)
    assert found.rules == []
    promise.connection(connection(push(1), push(2)), {("g", False): told}, alive=True)
    assert "as a stranger" in found.found[0].text


def test_a_change_that_overlaps_a_message_allows_both(found: Violations) -> None:
    promise = checkers.Promise(found)
    told = history(joins(BOB, 10.5, 12.0))
    for pushes in ([push(1), push(2)], [push(2)]):
        promise.connection(connection(*pushes), {("g", False): told}, alive=True)
    assert found.rules == []


def test_somebody_who_was_offline_and_does_not_find_a_message_is_found(found: Violations) -> None:
    promise = checkers.Promise(found)
    promise.user(BOB, {("g", False): {1, 2}}, {("g", False): history(joins(BOB, 1.0, 2.0))})
    promise.user(BOB, {}, {("g", False): history(joins(BOB, 1.0, 2.0), leaves(BOB, 30.0, 31.0))})
    promise.user("carol", {}, {("g", False): history(joins(BOB, 1.0, 2.0))})
    assert found.rules == []
    promise.user(BOB, {("g", False): {2}}, {("g", False): history(joins(BOB, 1.0, 2.0))})
    assert found.rules == ["R0"]


def test_a_command_by_sync_from_before_the_membership_is_found(found: Violations) -> None:
    promise = checkers.Promise(found)
    told = history(joins(BOB, 15.0, 16.0))
    promise.commands(BOB, "g", [2], told)
    assert found.rules == []
    promise.commands(BOB, "g", [1, 2], told)
    assert found.rules == ["R0"]


@pytest.mark.parametrize(
    ("post", "banned", "guilty"),
    [
        (Post("g", False, BOB, b"", "", 20.0, acked=21.0, answered_at=21.0), False, False),
        (Post("g", False, BOB, b"", "", 20.0, refused=3, answered_at=21.0), False, True),
        (Post("g", False, "carol", b"", "", 20.0, acked=21.0, answered_at=21.0), False, True),
        (Post("g", False, "carol", b"", "", 20.0, refused=3, answered_at=21.0), False, False),
        (Post("g", False, BOB, b"", "", 20.0, refused=25, answered_at=21.0), True, False),
        (Post("g", False, BOB, b"", "", 20.0, refused=25, answered_at=21.0), False, True),
        (Post("g", False, BOB, b"", "", 20.0, acked=21.0, answered_at=21.0), True, True),
    ],
)
def test_a_wrong_answer_to_a_sender_is_found(found: Violations, post: Post, banned: bool, guilty: bool) -> None:
    bans = History(changes=[Change(lambda uid: banned, 1.0, 2.0)])
    checkers.Refusals(found).check(post, history(joins(BOB, 1.0, 2.0)), bans, 25)
    assert bool(found.found) is guilty


def test_an_old_list_of_members_is_found(found: Violations) -> None:
    reads = checkers.Reads(found)
    told = history(joins(BOB, 15.0, 16.0))
    reads.members(told, [ALICE, BOB], {BOB}, 20.0, 21.0)
    reads.members(told, [ALICE, BOB], set(), 15.5, 17.0)
    assert found.rules == []
    reads.members(told, [ALICE, BOB], set(), 20.0, 21.0)
    reads.members(told, [ALICE, BOB], {ALICE, BOB}, 20.0, 21.0)
    assert len(found.found) == 2
    reads.newest("g", 3, 3, 20.0)
    assert len(found.found) == 2
    reads.newest("g", 3, 2, 20.0)
    assert len(found.found) == 3


def _membership(found: Violations, members: set[str]) -> None:
    checkers.Membership(found).check(1, "g", history(joins(BOB, 1.0, 2.0)), [ALICE, BOB], members, 50.0)


def _unread(found: Violations, told: int) -> None:
    checkers.Unread(found).check(BOB, "g", told, 4, 10, [2, 7], newest_own=False)


def _presence(found: Violations, in_log: set[tuple[str, int, int]]) -> None:
    checkers.Presence(found).check(1, in_log, {(BOB, 1, 7)})


def _copies(found: Violations, copied: list[str]) -> None:
    checkers.Copies(found).check(1, "a flag", "on", copied)


def _deaf(found: Violations, connected: list[str]) -> None:
    checkers.Deaf(found).check(1, 12.0, connected)


def _audience(found: Violations, audience: set[str]) -> None:
    checkers.AudienceFits(found).check(1, BOB, audience, {"g"})


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (_membership, {BOB}, [set(), {ALICE, BOB}]),
        (_unread, 3, [6, 0, 10]),
        (_presence, {(BOB, 1, 7)}, [set(), {(BOB, 1, 7), (BOB, 2, 7)}]),
        (_copies, ["on", "on"], [["on", "off"], ["off", "off"]]),
        (_deaf, [], [["bob-0"]]),
        (_audience, {"g"}, [set(), {"g", "h"}]),
    ],
)
def test_what_a_quiet_cluster_says_wrongly_is_found(
    check: "Callable[[Violations, object], None]", right: object, wrong: list[object]
) -> None:
    innocent = Violations()
    check(innocent, right)
    assert innocent.found == []
    for each in wrong:
        guilty = Violations()
        check(guilty, each)
        assert guilty.found


def test_waiting_for_ever_and_failing_are_found(found: Violations) -> None:
    checkers.Liveness(found).waited("an election", 10.0)
    checkers.Faultless(found).fault("an exception")
    assert found.rules == ["faultless", "liveness"]
