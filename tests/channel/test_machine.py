"""The state machine against the slow model, and the rules of the streams. A failure prints the seed's minimal trace."""

from random import Random

import pytest

from tests.channel.slot import Slot
from tests.channel.world import (
    NODES,
    START_MS,
    Step,
    World,
    make_lanes_small,
    make_retention_small,
    make_webhooks_small,
    random_steps,
    rows_of,
    run_or_shrink,
    shrink,
)
from wukong.channel.commands import (
    Append,
    CloseSession,
    Command,
    Hello,
    NodeGone,
    OpenSession,
    Pack,
    PutChannel,
    Reply,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.effects import FanOut, NodeEnded, SessionStarted
from wukong.channel.ids import ChannelId
from wukong.channel.machine import MAX_OPEN_REPLIES
from wukong.channel.messages import FIRST_MS, LAST_MS
from wukong.channel.presence import sessions_of

# 24 * 5 * 1000 steps, each compared with the model. S42 of the catalogue of lost subscribers asks for 10^5.
SEEDS = range(24)
WORLDS_PER_SEED = 5
STEPS_PER_WORLD = 1_000


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lanes_small(monkeypatch)
    make_webhooks_small(monkeypatch)
    make_retention_small(monkeypatch)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_reply_effect_and_read_is_the_models(seed: int) -> None:
    for world in range(WORLDS_PER_SEED):
        random = Random(f"{seed}/{world}")
        run_or_shrink(random_steps(random, STEPS_PER_WORLD), head_limit=(0, 1, 4096)[(seed + world) % 3])


def test_a_failure_shrinks_to_what_causes_it() -> None:
    def fails(steps: list[Step]) -> bool:
        kinds = [step.kind for step in steps]
        return kinds.count("reborn") >= 2 and "gap" in kinds

    steps = [Step("gap" if at == 300 else "reborn" if at % 100 == 50 else "check") for at in range(1_000)]
    assert sorted(step.kind for step in shrink(steps, fails)) == ["gap", "reborn", "reborn"]


# -- streams --

GROUP = ChannelId(2, "g")


def message(text: str) -> Append:
    return Append(GROUP, False, "u", text.encode(), trusted=True)


def pack(first: int, *commands: Append, incarnation: int = 7, done: int = 0, node: int = 1) -> Pack:
    return Pack(node, incarnation, first, done, START_MS, list(commands))


def test_counters_that_follow_one_another_are_applied() -> None:
    slot = Slot()
    assert [r.message_seq for r in slot.apply(pack(1, message("a"), message("b"))).replies] == [1, 2]
    outcome = slot.apply(pack(3, message("c")))
    assert (outcome.first, [r.message_seq for r in outcome.replies], outcome.resend_from) == (3, [3], 0)
    assert slot.pushed() == slot.texts(GROUP) == ["a", "b", "c"]


def test_a_repeat_gets_the_first_replies_and_changes_nothing() -> None:
    slot = Slot()
    first = slot.apply(pack(1, message("a"), message("b")))
    rows = slot.rows()
    slot.state.effects.clear()
    assert slot.apply(pack(1, message("a"), message("b"))) == first
    assert slot.rows() == rows
    assert not slot.state.effects


def test_a_repeat_that_goes_on_gets_old_and_new_replies() -> None:
    slot = Slot()
    first = slot.apply(pack(1, message("a"), message("b")))
    outcome = slot.apply(pack(2, message("b"), message("c"), message("d")))
    assert outcome.replies[0] == first.replies[1]
    assert [r.message_seq for r in outcome.replies] == [2, 3, 4]
    assert slot.pushed() == slot.texts(GROUP) == ["a", "b", "c", "d"]


def test_a_repeat_after_a_restart_gets_the_first_replies() -> None:
    slot = Slot()
    first = slot.apply(pack(1, message("a"), message("b")))
    slot.restart()
    assert slot.apply(pack(1, message("a"), message("b"))).replies == first.replies
    assert slot.texts(GROUP) == ["a", "b"]


@pytest.mark.parametrize("first", [3, 4, 1 << 62])
def test_a_gap_is_answered_with_the_counter_to_go_on_from(first: int) -> None:
    slot = Slot()
    slot.apply(pack(1, message("a")))
    rows = slot.rows()
    outcome = slot.apply(pack(first, message("z"), done=first - 1))
    assert (outcome.resend_from, outcome.replies, outcome.fenced) == (2, [], False)
    assert slot.rows() == rows
    assert slot.apply(pack(2, message("b"))).replies[0].message_seq == 2


def test_what_the_origin_has_is_not_kept_and_its_repeat_is_answered_with_reason_0() -> None:
    slot = Slot()
    slot.apply(pack(1, message("a"), message("b"), message("c")))
    slot.apply(pack(4, message("d"), done=2))
    assert len(slot.state.streams[1].replies) == 2
    again = slot.apply(pack(1, message("a"), message("b"), message("c"), message("d"))).replies
    assert [r.reason for r in again] == [0, 0, 1, 1]
    assert [r.message_seq for r in again[2:]] == [3, 4]


def test_an_old_settling_does_not_bring_replies_back() -> None:
    slot = Slot()
    slot.apply(pack(1, message("a"), message("b")))
    slot.apply(pack(3, message("c"), done=2))
    slot.apply(pack(4, message("d"), done=0))
    stream = slot.state.streams[1]
    assert (stream.done, stream.last, len(stream.replies)) == (2, 4, 2)


def test_an_origin_that_never_settles_keeps_a_limited_number_of_replies() -> None:
    slot = Slot()
    count = MAX_OPEN_REPLIES + 10
    commands: list[Command] = [CloseSession("u", 1)] * count
    slot.apply(Pack(1, 7, 1, 0, START_MS, commands))
    assert len(slot.state.streams[1].replies) == MAX_OPEN_REPLIES
    assert [r.reason for r in slot.apply(Pack(1, 7, 10, 0, START_MS, commands[:2])).replies] == [0, 1]
    assert slot.apply(Pack(1, 7, count + 1, 0, START_MS, commands[:1])).replies == [Reply()]


def test_a_lower_incarnation_is_fenced() -> None:
    slot = Slot()
    slot.apply(pack(1, message("a")))
    outcome = slot.apply(pack(2, message("b"), incarnation=6))
    assert outcome.fenced and not outcome.replies
    assert slot.texts(GROUP) == ["a"]


def test_a_new_incarnation_begins_at_counter_1_and_fences_the_old_one() -> None:
    slot = Slot()
    slot.apply(pack(1, message("a"), message("b")))
    assert slot.apply(pack(1, message("c"), incarnation=8)).replies[0].message_seq == 3
    assert slot.apply(pack(3, message("d"))).fenced
    assert slot.texts(GROUP) == ["a", "b", "c"]


def test_a_gap_at_the_start_of_an_incarnation_does_not_begin_it() -> None:
    slot = Slot()
    slot.apply(pack(1, message("a")))
    assert slot.apply(pack(2, message("z"), incarnation=8)).resend_from == 1
    assert slot.apply(pack(2, message("b"))).replies[0].message_seq == 2


def open_session(session: int, uid: str = "u") -> OpenSession:
    return OpenSession(uid, session, 0, f"device {session}", b"")


def test_a_new_incarnation_ends_the_nodes_sessions_and_no_others() -> None:
    slot = Slot()
    slot.apply(Pack(1, 7, 1, 0, START_MS, [Hello(), open_session(1), open_session(2, "v")]))
    slot.apply(Pack(2, 7, 1, 0, START_MS, [Hello(), open_session(3)]))
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(1, 1), (2, 3)]
    slot.apply(Pack(1, 8, 1, 0, START_MS, [Hello()]))
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(2, 3)]
    assert not sessions_of(slot.state, "v")
    slot.restart()
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(2, 3)]


def test_rows_of_dead_sessions_are_swept_at_the_users_next_login() -> None:
    slot = Slot()
    slot.apply(Pack(1, 7, 1, 0, START_MS, [Hello(), open_session(1)]))
    slot.apply(Pack(1, 8, 1, 0, START_MS, [Hello()]))
    assert len(slot.state.scan(b"s", b"t")) == 1
    slot.apply(Pack(1, 8, 2, 0, START_MS, [open_session(2)]))
    assert len(slot.state.scan(b"s", b"t")) == 1


# -- a node that is gone --


def gone(node: int, incarnation: int) -> NodeGone:
    return NodeGone(node, incarnation)


def slot_with_two_nodes() -> Slot:
    """Node 1 in life 7 with a session and an unsettled reply, node 2 in life 4."""
    slot = Slot()
    slot.apply(Pack(1, 7, 1, 0, START_MS, [Hello(), open_session(1), message("a")]))
    slot.apply(Pack(2, 4, 1, 0, START_MS, [Hello(), open_session(5)]))
    slot.effects()
    return slot


@pytest.mark.parametrize("restart", [False, True])
def test_a_gone_nodes_sessions_are_dead_and_its_packs_fenced(restart: bool) -> None:
    slot = slot_with_two_nodes()
    assert slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7)])).replies == [Reply()]
    assert slot.effects() == [NodeEnded(1, 7)]
    if restart:
        slot.restart()
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(2, 5)]
    rows = slot.rows()
    for first, incarnation in ((4, 7), (1, 7), (9, 7), (4, 6)):
        outcome = slot.apply(pack(first, message("z"), incarnation=incarnation))
        assert outcome.fenced and not outcome.replies and not outcome.resend_from
    assert slot.rows() == rows and not slot.state.effects


def test_nobody_keeps_the_replies_of_a_node_that_is_gone() -> None:
    slot = slot_with_two_nodes()
    assert len(slot.state.streams[1].replies) == 3
    slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7)]))
    stream = slot.state.streams[1]
    assert (stream.replies, stream.done, stream.last, stream.ended) == ([], 3, 3, True)


def test_a_gone_node_comes_back_in_a_higher_incarnation() -> None:
    slot = slot_with_two_nodes()
    slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7)]))
    assert slot.apply(pack(2, message("z"), incarnation=8)).resend_from == 1
    assert slot.apply(Pack(1, 8, 1, 0, START_MS, [Hello(), open_session(2)])).replies == [Reply(), Reply()]
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(1, 2), (2, 5)]
    assert not slot.state.streams[1].ended
    assert slot.apply(pack(4, message("y"))).fenced


@pytest.mark.parametrize(("node", "incarnation"), [(1, 6), (1, 8), (3, 7), (3, 0)])
def test_only_the_present_incarnation_can_be_gone(node: int, incarnation: int) -> None:
    slot = slot_with_two_nodes()
    before = slot.rows()
    assert slot.apply(Pack(2, 4, 3, 2, START_MS, [gone(node, incarnation)])).replies == [Reply()]
    assert slot.effects() == []
    changed = {key for key in slot.rows().keys() | before.keys() if slot.rows().get(key) != before.get(key)}
    assert changed == {b"S\x00\x02"}
    assert slot.apply(pack(4, message("b"))).replies[0].reason == 1


def test_a_node_is_gone_once() -> None:
    slot = slot_with_two_nodes()
    slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7), gone(1, 7)]))
    slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7), gone(1, 7)]))
    slot.apply(Pack(3, 1, 1, 0, START_MS, [gone(1, 7)]))
    assert slot.effects() == [NodeEnded(1, 7)]


@pytest.mark.parametrize("cut", [False, True])
def test_what_follows_a_nodes_own_end_is_fenced_however_it_is_packed(cut: bool) -> None:
    slot = slot_with_two_nodes()
    commands: list[Command] = [message("b"), gone(1, 7), message("c"), open_session(3)]
    if cut:
        outcomes = [slot.apply(Pack(1, 7, 4 + at, 0, START_MS, [c])) for at, c in enumerate(commands)]
        assert [(len(outcome.replies), outcome.fenced) for outcome in outcomes] == [
            (1, False),
            (1, False),
            (0, True),
            (0, True),
        ]
    else:
        outcome = slot.apply(Pack(1, 7, 4, 0, START_MS, commands))
        assert [reply.reason for reply in outcome.replies] == [1, 1] and outcome.fenced
    assert [type(effect) for effect in slot.effects()] == [FanOut, NodeEnded]
    stream = slot.state.streams[1]
    assert (stream.replies, stream.done, stream.last, stream.ended) == ([], 5, 5, True)
    assert slot.texts(GROUP) == ["a", "b"]
    assert [(s.node, s.session) for s in sessions_of(slot.state, "u")] == [(2, 5)]


def test_a_nodes_pack_behind_its_end_in_the_same_entry_is_fenced() -> None:
    slot = slot_with_two_nodes()
    packs = [
        encode_pack(2, 4, 3, 0, START_MS, [encode_command(gone(1, 7))]),
        encode_pack(1, 7, 4, 0, START_MS, [encode_command(message("z"))]),
    ]
    assert [slot.apply(decoded).fenced for decoded in decode_entry(encode_entry(packs))] == [False, True]
    assert slot.texts(GROUP) == ["a"]


def test_rows_of_a_gone_nodes_sessions_are_swept_at_the_users_next_login() -> None:
    slot = slot_with_two_nodes()
    slot.apply(Pack(2, 4, 3, 0, START_MS, [gone(1, 7)]))
    assert len(slot.state.scan(b"s", b"t")) == 2
    slot.apply(Pack(2, 4, 4, 0, START_MS, [open_session(6)]))
    assert {key[-8:] for key, _ in slot.state.scan(b"s", b"t")} == {bytes(7) + b"\x05", bytes(7) + b"\x06"}


def test_streams_of_two_nodes_do_not_meet() -> None:
    slot = Slot()
    assert slot.apply(pack(1, message("a"), node=1)).replies[0].message_seq == 1
    assert slot.apply(pack(1, message("b"), node=2)).replies[0].message_seq == 2
    assert slot.apply(pack(2, message("c"), node=1)).replies[0].message_seq == 3


@pytest.mark.parametrize("seed", range(10))
def test_repeats_and_reordering_give_every_effect_exactly_once_and_in_the_nodes_order(seed: int) -> None:
    """Origins send packs of random cuts, some twice, some too early, some from counters long applied; whatever is
    answered with a gap is sent again. What comes out is as if each command had been sent once."""
    random = Random(seed)
    slot = Slot()
    sent = {node: [message(f"{node}:{n}") for n in range(60)] for node in NODES}
    first_replies: dict[tuple[int, int], Reply] = {}
    confirmed = dict.fromkeys(NODES, 0)
    while any(confirmed[node] < 60 for node in NODES):
        node = random.choice(NODES)
        first = max(1, confirmed[node] + random.randint(-5, 6))
        commands = sent[node][first - 1 : first - 1 + random.randint(1, 6)]
        settled = max(0, confirmed[node] - random.randrange(8))
        outcome = slot.apply(Pack(node, 1, first, settled, START_MS, list(commands)))
        for offset, reply in enumerate(outcome.replies):
            known = first_replies.setdefault((node, first + offset), reply)
            assert reply == known or (reply.reason == 0 and first + offset <= confirmed[node])
        if outcome.resend_from:
            assert outcome.resend_from == confirmed[node] + 1
            continue
        confirmed[node] = max(confirmed[node], first - 1 + len(outcome.replies))
        if random.random() < 0.1:
            effects = slot.effects()
            slot.restart()
            slot.state.effects = effects
    assert slot.pushed() == slot.texts(GROUP)
    assert sorted(slot.pushed()) == sorted(m.payload.decode() for messages in sent.values() for m in messages)
    for node in NODES:
        assert [t for t in slot.texts(GROUP) if t.startswith(f"{node}:")] == [f"{node}:{n}" for n in range(60)]


# -- times --


def test_the_logs_time_never_goes_back() -> None:
    slot = Slot()
    times = []
    for first, now_ms in enumerate((5_000, 9_000, 2_000, 9_500), start=1):
        slot.apply(Pack(1, 1, first, 0, START_MS + now_ms, [message("x")]))
        times.append(slot.state.now_ms - START_MS)
    assert times == [5_000, 9_000, 9_000, 9_500]


@pytest.mark.parametrize("now_ms", [-(1 << 63), 0, FIRST_MS - 1, LAST_MS + 1, (1 << 64) - 1])
def test_a_clock_out_of_range_counts_as_the_nearest_time_that_ids_can_carry(now_ms: int) -> None:
    slot = Slot()
    reply = slot.apply(Pack(1, 1, 1, 0, now_ms, [message("x")])).replies[0]
    assert slot.state.now_ms == (FIRST_MS if now_ms < FIRST_MS else LAST_MS)
    assert 0 < reply.message_id < 1 << 63


def test_a_session_belongs_to_the_node_and_incarnation_of_its_pack() -> None:
    slot = Slot()
    slot.apply(Pack(600, 9, 1, 0, START_MS, [open_session(4)]))
    (effect,) = slot.state.effects
    assert effect == SessionStarted("u", 600, 9, 4, 0, 0)


def test_packs_of_an_entry_are_applied_in_their_order() -> None:
    slot = Slot()
    one = encode_pack(1, 1, 1, 0, START_MS, [encode_command(PutChannel(GROUP, None, ["u"]))])
    two = encode_pack(2, 1, 1, 0, START_MS, [encode_command(Append(GROUP, False, "u", b"hi"))])
    outcomes = [slot.apply(decoded) for decoded in decode_entry(encode_entry([one, two]))]
    assert [o.replies[0].reason for o in outcomes] == [1, 1]


def test_a_world_with_random_seed_runs_the_same_twice() -> None:
    worlds = [World(head_limit=head_limit) for head_limit in (0, 1)]
    for world in worlds:
        world.run(random_steps(Random("twice"), 300))
    assert rows_of(worlds[0].state) == rows_of(worlds[1].state)
