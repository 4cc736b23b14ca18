"""Why a user gets a message: verdicts from rows, what nodes remember, nodes that do not answer, limits."""

import asyncio

import msgspec
import pytest

from tests.service.stack import NODE_ID, START_MS, FakeClock, Stack
from wukong.channel.commands import LIST_DENY, Append, NodeRow, OpenSession, PutNode, Retire
from wukong.channel.ids import AGENT, CUSTOMER_SERVICE, GROUP, PERSON, VISITORS, ChannelId, person_id
from wukong.cluster.control import Body
from wukong.dispatch.deliveries import SLOW, Deliveries
from wukong.errors import RequestRefused, Unavailable
from wukong.limits import MIB
from wukong.service import explain
from wukong.service.explain import Explain, Explanation, NodeFacts, Pushes, Query, UserFacts
from wukong.service.messages import Twin
from wukong.service.other_nodes import Handler
from wukong.session.registry import LocalSession, Registry

ROOM = ChannelId(GROUP, "room")
OTHER, THIRD = 7, 8
NO_PERSIST = 1


class FakeNodes:
    """facts: what other nodes answer; those that are not named never do. asked: of whom what."""

    node_id = NODE_ID

    def __init__(self) -> None:
        self.facts: dict[int, NodeFacts | Exception | bytes] = {}
        self.asked: list[tuple[int, Body]] = []

    def is_known(self, node: int) -> bool:
        return True

    def serve(self, name: str, handler: Handler) -> None: ...

    async def ask(self, node: int, name: str, args: Body) -> bytes:
        assert name == explain.QUESTION
        self.asked.append((node, args))
        answer = self.facts.get(node)
        if answer is None:
            await asyncio.sleep(60)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else msgspec.json.encode(answer)


class World:
    """A node in memory with a memory of pushes. Other nodes are those that `join`."""

    def __init__(self, stack: Stack, limit_bytes: int = MIB) -> None:
        self.stack = stack
        self.nodes = FakeNodes()
        self.deliveries = Deliveries(limit_bytes)
        self.pushes = Pushes(node_id=NODE_ID, deliveries=self.deliveries, registry=stack.registry, clock=stack.clock)
        self.explain = Explain(stack.use_cases.replica, self.pushes)

    def later(self, ms: int = 1_000) -> None:
        self.stack.clock.ms += ms

    async def members(self, *uids: str, channel: ChannelId = ROOM) -> None:
        await self.stack.use_cases.channels.add_members(channel, list(uids), reset=False)

    async def remove(self, *uids: str) -> None:
        await self.stack.use_cases.channels.remove_members(ROOM, list(uids))

    async def send(self, *to: int, channel: ChannelId = ROOM, sender: str = "alice", flags: int = 0) -> tuple[int, int]:
        """seq and id; pushed to these sessions here."""
        self.later()
        reply = await self.stack.client_sends(channel, sender, flags=flags)
        assert reply.reason == 1
        if to:
            self.deliveries.pushed(reply.message_id, channel, list(to), self.stack.clock.ms)
        return reply.message_seq, reply.message_id

    async def join(self, *nodes: int) -> None:
        for node in (NODE_ID, *nodes):
            await self.stack.node.execute(0, PutNode(node, NodeRow(f"10.0.0.{node % 250}:11110", node, "")))

    async def ask(
        self, seq: int = 0, *, channel: ChannelId = ROOM, is_cmd: bool = False, message_id: int = 0, **options: object
    ) -> Explanation:
        query = Query(twin=Twin(channel, is_cmd), message_seq=seq, message_id=message_id, **options)  # type: ignore[arg-type]
        return await self.explain.explain(query, self.nodes)

    async def of(self, uid: str, seq: int, **options: object) -> UserFacts:
        (user,) = (await self.ask(seq, uid=uid, **options)).users  # type: ignore[arg-type]
        return user


@pytest.fixture
async def world(stack: Stack) -> World:
    return World(stack)


# -- who was to get it --


async def test_every_time_as_a_member_is_told_apart(world: World) -> None:
    await world.members("alice", "bob")
    first, _ = await world.send()
    await world.members("dave")
    second, _ = await world.send()
    for uid, seq, why in (("bob", first, "member"), ("dave", first, "joined_later"), ("dave", second, "member")):
        user = await world.of(uid, seq)
        assert (user.recipient, user.why) == (why == "member", why)
    await world.remove("bob")
    third, _ = await world.send()
    user = await world.of("bob", third)
    assert (user.recipient, user.why, user.certain, user.membership) == (False, "no_member", False, None)
    await world.members("bob")
    user = await world.of("bob", third)
    assert (user.recipient, user.why, user.certain) == (False, "joined_later", False)
    assert user.membership is not None
    assert user.membership.from_seq == third


async def test_the_time_of_joining_lies_between_the_messages_around_it(world: World) -> None:
    await world.members("alice", "bob")
    joined_ms = world.stack.clock.ms
    seq, _ = await world.send()
    user = await world.of("bob", seq)
    assert user.membership is not None
    assert user.membership.from_ms == (joined_ms, joined_ms)
    # Reading changes his row, so only bounds are left.
    world.later(60_000)
    await world.stack.use_cases.conversations.set_unread("bob", ROOM.id, ROOM.type, 0)
    user = await world.of("bob", seq)
    assert user.membership is not None
    low, high = user.membership.from_ms
    assert low <= joined_ms <= high < joined_ms + 2_000
    assert user.sync is not None
    assert (user.sync.way, user.sync.done, user.sync.from_seq) == ("conversation", True, 2)


async def test_a_removal_is_told_while_an_unconfirmed_command_keeps_it_and_with_it_a_return(world: World) -> None:
    await world.members("alice", "bob")
    await world.stack.run(ROOM.id, Append(ROOM, True, "alice", b"c", "n1", 4, trusted=True))
    seq, _ = await world.send()
    await world.remove("bob")
    missed, _ = await world.send()
    user = await world.of("bob", seq)
    assert (user.recipient, user.why, user.sync and user.sync.way) == (True, "member", "history")
    user = await world.of("bob", missed)
    assert (user.recipient, user.why) == (False, "removed_before")
    assert user.membership is not None
    assert (user.membership.from_seq, user.membership.until_seq) == (0, seq)
    await world.members("bob")
    user = await world.of("bob", missed)
    assert (user.recipient, user.why) == (False, "joined_later")
    assert user.earlier is not None
    assert user.earlier.until_seq == seq


@pytest.mark.parametrize(
    ("channel", "uids"),
    [
        (ChannelId(PERSON, person_id("alice", "bob")), ["alice", "bob"]),
        (ChannelId(AGENT, "alice@helper"), ["alice", "helper"]),
        (ChannelId(VISITORS, "alice"), ["alice"]),
        (ChannelId(CUSTOMER_SERVICE, "alice|shop"), ["alice"]),
    ],
)
async def test_members_by_the_channels_id(world: World, channel: ChannelId, uids: list[str]) -> None:
    seq, _ = await world.send(channel=channel)
    answer = await world.ask(seq, channel=channel)
    assert [user.uid for user in answer.users] == sorted(uids)
    assert {(user.recipient, user.why) for user in answer.users} == {(True, "implicit")}
    stranger = await world.of("eve", seq, channel=channel)
    assert (stranger.recipient, stranger.why) == (False, "no_member")


async def test_visitors_have_members_besides(world: World) -> None:
    channel = ChannelId(VISITORS, "alice")
    await world.members("zoe", channel=channel)
    seq, _ = await world.send(channel=channel)
    answer = await world.ask(seq, channel=channel)
    assert [(user.uid, user.why) for user in answer.users] == [("alice", "implicit"), ("zoe", "member")]
    assert answer.counts is not None
    assert answer.counts.recipients == 1


async def test_named_ones_and_nobody_else_though_they_are_members(world: World) -> None:
    await world.members("alice", "bob")
    command = Append(ROOM, True, "alice", b"c", "n1", 4, trusted=True, recipients=["carol", "dave"])
    reply = await world.stack.run(ROOM.id, command)
    answer = await world.ask(reply.message_seq, is_cmd=True)
    assert [(user.uid, user.recipient, user.why) for user in answer.users] == [
        ("carol", True, "named"),
        ("dave", True, "named"),
    ]
    user = await world.of("bob", reply.message_seq, is_cmd=True)
    assert (user.recipient, user.why, user.certain) == (False, "not_named", True)
    page = await world.ask(reply.message_seq, is_cmd=True, limit=1)
    assert ([user.uid for user in page.users], page.next) == (["carol"], "dave")
    assert page.counts is not None
    assert page.counts.recipients == 2
    page = await world.ask(reply.message_seq, is_cmd=True, limit=1, start="dave")
    assert ([user.uid for user in page.users], page.next, page.counts) == (["dave"], "", None)


async def test_the_system_account_is_pushed_nothing_and_system_accounts_are_named_as_such(world: World) -> None:
    await world.members("alice", "____system", "robot")
    await world.stack.use_cases.users.add_system_uids(["robot"])
    seq, _ = await world.send()
    user = await world.of("____system", seq)
    assert (user.recipient, user.why, user.system) == (False, "system_account", True)
    user = await world.of("robot", seq)
    assert (user.recipient, user.system) == (True, True)


async def test_commands_are_confirmed_one_by_one(world: World) -> None:
    await world.members("alice", "bob")
    for number in ("n1", "n2"):
        await world.stack.run(ROOM.id, Append(ROOM, True, "alice", b"c", number, 4, trusted=True))
    sync = world.stack.use_cases.command_sync
    await sync.sync("bob", limit=1)
    await sync.acknowledge("bob")
    first, second = [(await world.of("bob", seq, is_cmd=True)).sync for seq in (1, 2)]
    assert first is not None
    assert second is not None
    assert (first.way, first.done) == ("command", True)
    assert (second.done, second.from_seq) == (False, 2)


async def test_a_named_one_has_confirmed_it_once_his_note_of_it_is_gone(world: World) -> None:
    named = Append(ROOM, True, "alice", b"c", "n1", 4, trusted=True, recipients=["carol", "dave"])
    reply = await world.stack.run(ROOM.id, named)
    sync = world.stack.use_cases.command_sync
    await sync.sync("carol", limit=10)
    await sync.acknowledge("carol")
    for uid, done in (("carol", True), ("dave", False)):
        user = await world.of(uid, reply.message_seq, is_cmd=True)
        assert user.sync is not None
        assert (user.sync.way, user.sync.from_seq, user.sync.done) == ("command", 1, done)


async def test_who_is_denied_by_the_other_or_in_a_group_is_told_as_such_and_gets_it(world: World) -> None:
    pair = ChannelId(PERSON, person_id("alice", "bob"))
    seq, _ = await world.send(channel=pair)
    await world.members("alice", "bob")
    group_seq, _ = await world.send()
    channels = world.stack.use_cases.channels
    await channels.add_to_list(ChannelId(PERSON, "bob"), LIST_DENY, ["alice"])
    await channels.add_to_list(ROOM, LIST_DENY, ["bob"])
    answer = await world.ask(seq, channel=pair)
    assert {user.uid: (user.recipient, user.denied) for user in answer.users} == {
        "alice": (True, True),
        "bob": (True, False),
    }
    user = await world.of("bob", group_seq)
    assert (user.recipient, user.denied) == (True, True)
    assert user.sync is not None
    assert user.sync.way == "history"


async def test_a_conversation_that_was_hidden_does_not_show_it(world: World) -> None:
    await world.members("alice", "bob")
    seq, _ = await world.send()
    await world.stack.use_cases.conversations.delete("bob", ROOM.id, ROOM.type)
    later, _ = await world.send()
    ways = [(await world.of("bob", each)).sync for each in (seq, later)]
    assert [each and each.way for each in ways] == ["history", "conversation"]


# -- what happened on the way --


async def test_a_push_its_recvack_and_its_repetitions_are_told_by_the_wall_clock(world: World) -> None:
    stack = world.stack
    await world.members("alice", "bob")
    await stack.connect("bob", 3, flag=1)
    await stack.connect("bob", 4)
    seq, message_id = await world.send(3)
    sent_ms = stack.clock.ms
    world.later(60_000)
    world.deliveries.repeated(message_id, 3, stack.clock.ms)
    world.later(7)
    world.deliveries.acknowledged(message_id, 3, stack.clock.ms)
    world.later(5_000)
    user = await world.of("bob", seq)
    assert user.connected
    one, two = user.sessions
    assert (one.session, one.device_flag, one.device_id, one.state) == (3, 1, "device-3", "connected")
    assert (one.pushed_ms, one.repeated_ms, one.acknowledged_ms) == (sent_ms, [sent_ms + 60_000], sent_ms + 60_007)
    assert (two.session, two.pushed_ms, two.acknowledged_ms) == (4, 0, 0)
    counts = (await world.ask(seq)).counts
    assert counts is not None
    assert (counts.recipients, counts.pushed, counts.acknowledged, counts.by_sync, counts.exact) == (1, 1, 1, 0, True)


async def test_who_got_it_was_a_recipient_whatever_rows_have_forgotten(world: World) -> None:
    await world.members("alice", "bob")
    await world.stack.connect("bob", 3)
    seq, _ = await world.send(3)
    await world.remove("bob")
    assert (await world.of("bob", seq)).why == "pushed"
    answer = await world.ask(seq)
    assert [(user.uid, user.recipient) for user in answer.users] == [("alice", True), ("bob", True)]
    await world.members("bob")
    assert (await world.of("bob", seq)).why == "pushed"


async def test_an_ended_session_keeps_its_story_and_others_are_told_by_their_last_three(world: World) -> None:
    stack = world.stack
    await world.members("alice", "bob")
    for number in range(3, 9):
        session = LocalSession(
            number,
            "bob",
            device_flag=0,
            device_id="d",
            version=5,
            via_json=False,
            peer=("192.0.2.1", 1),
            opened_ms=START_MS + number,
        )
        world.deliveries.ended(session, stack.clock.ms + 10_000, SLOW)
    seq, _ = await world.send(4)
    user = await world.of("bob", seq)
    assert [(each.session, bool(each.pushed_ms), each.state, each.why) for each in user.sessions] == [
        (4, True, "ended", "slow"),
        (6, False, "ended", "slow"),
        (7, False, "ended", "slow"),
        (8, False, "ended", "slow"),
    ]
    assert user.sessions[0].ended_ms == START_MS + 10_000
    assert not user.connected


async def test_what_is_forgotten_is_said_to_be(stack: Stack) -> None:
    world = World(stack, limit_bytes=64 * 1024)
    await world.members("alice", "bob")
    seq, message_id = await world.send(3)
    (node,) = (await world.ask(seq)).nodes
    # The session that got it is known to nobody.
    assert (node.pushed, node.nameless, node.covers) == (True, 1, False)
    for number in range(1_000):
        world.later(1)
        world.deliveries.pushed(message_id + 1 + number, ROOM, [3], stack.clock.ms)
    answer = await world.ask(seq)
    (node,) = answer.nodes
    assert (node.pushed, node.covers) == (False, False)
    assert node.forgotten_ms > answer.message.sent_ms
    last, _ = await world.send(3)
    assert not (await world.ask(last)).nodes[0].covers
    nobody, _ = await world.send()
    assert (await world.ask(nobody)).nodes[0].covers


async def test_a_message_of_before_the_start_is_not_covered(world: World) -> None:
    await world.members("alice", "bob")
    seq, _ = await world.send()
    world.later()
    again = World(world.stack)
    (node,) = (await again.ask(seq)).nodes
    assert (node.covers, node.since_ms) == (False, world.stack.clock.ms)
    nothing = Explain(world.stack.use_cases.replica, Pushes.none(NODE_ID))
    answer = await nothing.explain(Query(twin=Twin(ROOM, False), message_seq=seq), world.nodes)
    assert (answer.nodes[0].recording, answer.nodes[0].covers) == (False, False)
    assert answer.counts is not None
    assert (answer.counts.by_sync, answer.counts.exact) == (1, False)


async def test_another_channels_message_with_this_id_is_not_taken_for_it(world: World) -> None:
    await world.members("alice", "bob")
    await world.stack.connect("bob", 3)
    seq, message_id = await world.send()
    world.deliveries.pushed(message_id, ChannelId(GROUP, "else"), [3], world.stack.clock.ms)
    user = await world.of("bob", seq)
    assert [each.pushed_ms for each in user.sessions] == [0]


# -- messages that are not stored --


async def test_of_an_unstored_message_times_tell_what_they_can(world: World) -> None:
    await world.members("alice", "bob", "carol")
    await world.stack.connect("bob", 3)
    _, message_id = await world.send(3, flags=NO_PERSIST)
    world.later()
    await world.members("dave")
    await world.stack.use_cases.conversations.set_unread("carol", ROOM.id, ROOM.type, 0)
    answer = await world.ask(message_id=message_id)
    assert not answer.message.stored
    assert answer.counts is None
    users = {user.uid: (user.recipient, user.why) for user in answer.users}
    assert users["bob"] == (True, "member")
    assert users["alice"] == (True, "member")
    assert users["dave"] == (False, "joined_later")
    await world.remove("bob")
    assert (await world.of("bob", 0, message_id=message_id)).why == "pushed"
    user = await world.of("eve", 0, message_id=message_id)
    assert (user.recipient, user.why, user.certain) == (None, "not_kept", False)
    bob = await world.of("bob", 0, message_id=message_id)
    assert bob.sync is not None
    assert bob.sync.way == "none"


async def test_a_message_that_cannot_be_there_is_refused(world: World) -> None:
    with pytest.raises(RequestRefused, match="it has no messages"):
        await world.ask(1)
    await world.members("alice")
    _, message_id = await world.send()
    with pytest.raises(RequestRefused, match="its last message is 1"):
        await world.ask(2)
    for wrong in (7, message_id ^ 1 << 12, message_id + (1 << 40)):
        with pytest.raises(RequestRefused, match="has this id"):
            await world.ask(message_id=wrong)
    assert (await world.ask(message_id=message_id)).message.message_seq == 1


async def test_a_message_that_is_not_kept_any_more_is_said_to_have_been_there(world: World) -> None:
    await world.members("alice", "bob")
    for _ in range(3):
        await world.send()
    await world.stack.run(ROOM.id, Retire(ROOM, False, 2))
    with pytest.raises(RequestRefused, match="has no message 2; it had one, which is not kept any more"):
        await world.ask(2)
    assert (await world.of("bob", 3)).why == "member"


# -- other nodes --


async def test_other_nodes_are_asked_and_their_sessions_are_told_with_ours(world: World) -> None:
    await world.members("alice", "bob")
    await world.join(OTHER)
    await world.stack.connect("bob", 3)
    seq, message_id = await world.send(3)
    sent_ms = world.stack.clock.ms
    there = explain.SessionFacts(node=OTHER, session=3, uid="bob", opened_ms=START_MS - 5, pushed_ms=sent_ms)
    world.nodes.facts[OTHER] = NodeFacts(
        node=OTHER, since_ms=START_MS, pushed=True, receivers=["bob"], sessions=[there]
    )
    user = await world.of("bob", seq)
    assert [(each.node, each.session, each.pushed_ms) for each in user.sessions] == [
        (OTHER, 3, sent_ms),
        (NODE_ID, 3, sent_ms),
    ]
    assert world.nodes.asked[-1] == (
        OTHER,
        {"channel_id": "room", "channel_type": GROUP, "message_id": message_id, "uids": ["bob"]},
    )
    assert [node.covers for node in (await world.ask(seq)).nodes] == [True, True]


@pytest.mark.parametrize(
    "answer", [None, Unavailable("gone"), RequestRefused("the other node does not know this"), b"{"]
)
async def test_nodes_that_do_not_answer_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Exception | bytes | None
) -> None:
    monkeypatch.setattr(explain, "TIMEOUT_S", 0.05)
    await world.members("alice", "bob")
    await world.join(OTHER)
    if answer is not None:
        world.nodes.facts[OTHER] = answer
    seq, _ = await world.send()
    found = await world.ask(seq)
    assert [(node.node, node.answered, node.covers) for node in found.nodes] == [
        (OTHER, False, False),
        (NODE_ID, True, True),
    ]
    assert found.counts is not None
    assert not found.counts.exact


async def test_a_session_of_an_incarnation_that_is_over_is_lost(world: World) -> None:
    stack = world.stack
    await world.members("alice", "bob")
    await stack.run("bob", OpenSession("bob", 3, 1, "phone", b""))
    seq, _ = await world.send()
    world = World(await Stack(store=stack.store).start())
    world.later(60_000)
    user = await world.of("bob", seq)
    (session,) = user.sessions
    assert (session.node, session.session, session.state, session.known) == (NODE_ID, 3, "lost", False)
    assert (session.device_id, session.why, session.opened_ms) == ("phone", "node_ended", START_MS)
    assert not user.connected


async def test_what_is_answered_to_another_node_is_what_is_told_here(world: World) -> None:
    await world.members("alice", "bob")
    await world.stack.connect("bob", 3)
    seq, message_id = await world.send(3)
    args: Body = {"channel_id": "room", "channel_type": GROUP, "message_id": message_id, "uids": ["bob"]}
    facts = msgspec.json.decode(await world.explain.serve(args), type=NodeFacts)
    assert (facts.pushed, facts.receivers, [each.session for each in facts.sessions]) == (True, ["bob"], [3])
    with pytest.raises(RequestRefused, match="too many users"):
        await world.explain.serve({**args, "uids": ["u"] * 101})
    with pytest.raises(RequestRefused, match="too many users"):
        await world.explain.serve({**args, "uids": "bob"})
    assert seq == 1


# -- limits --


async def test_pages_begin_where_the_last_one_ended(world: World) -> None:
    uids = [f"u{number:03}" for number in range(250)]
    await world.members("alice", *uids)
    seq, _ = await world.send()
    found: list[str] = []
    start = ""
    while True:
        page = await world.ask(seq, start=start, limit=1_000)
        assert len(page.users) <= 100
        assert (page.counts is None) is bool(start)
        found += [user.uid for user in page.users]
        start = page.next
        if not start:
            break
    assert found == ["alice", *uids]


async def test_beyond_their_limits_counts_are_left_out_or_said_not_to_be_exact(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [f"u{number}" for number in range(10)]
    await world.members("alice", *uids)
    for number, uid in enumerate(uids):
        await world.stack.connect(uid, number + 1)
    seq, _ = await world.send(*range(1, 11))
    counts = (await world.ask(seq)).counts
    assert counts is not None
    assert (counts.pushed, counts.exact) == (10, True)
    monkeypatch.setattr(explain, "RECEIVERS_LIMIT_COUNT", 9)
    counts = (await world.ask(seq)).counts
    assert counts is not None
    assert not counts.exact
    monkeypatch.setattr(explain, "ROWS_LIMIT_COUNT", 5)
    assert (await world.ask(seq)).counts is None


async def test_too_much_at_once_is_refused_and_a_silent_node_is_waited_for_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "TIMEOUT_S", 0.05)
    await world.members("alice", "bob")
    await world.join(OTHER)
    seq, _ = await world.send()
    outcomes = await asyncio.gather(
        *(world.ask(seq) for _ in range(explain.RUNNING_LIMIT_COUNT + 1)), return_exceptions=True
    )
    assert [type(each) for each in outcomes] == [Explanation] * explain.RUNNING_LIMIT_COUNT + [Unavailable]
    assert len(world.nodes.asked) == explain.RUNNING_LIMIT_COUNT
    assert isinstance(await world.ask(seq), Explanation)


def test_a_chat_of_two_is_named_by_both(stack: Stack) -> None:
    use = Explain(stack.use_cases.replica, Pushes(node_id=1, deliveries=None, registry=Registry(), clock=FakeClock()))
    pair = Twin(ChannelId(PERSON, person_id("alice", "bob")), False)
    assert use.named("bob", PERSON, "alice", is_cmd=False) == pair
    assert use.named("bob@alice", PERSON, "", is_cmd=False) == pair
    assert use.named("alice@bob", PERSON, "eve", is_cmd=False) == pair
    with pytest.raises(RequestRefused, match="needs both"):
        use.named("bob", PERSON, "", is_cmd=False)
    assert use.named("helper", AGENT, "alice", is_cmd=False).channel == ChannelId(AGENT, "alice@helper")
    assert use.named("room____cmd", GROUP, "", is_cmd=False) == Twin(ROOM, True)
    assert use.named("room", GROUP, "", is_cmd=True) == Twin(ROOM, True)
