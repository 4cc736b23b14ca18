"""Defects that a review of the path of a message found. Each test says what has to hold; an xfail is an open defect."""

import asyncio

import msgspec
import pytest

from tests.node.inprocess_log import InProcessLog
from wukong.app import Server
from wukong.channel.commands import (
    CHAT_OP_CLEAR,
    LIST_DENY,
    OP_ADD,
    OP_CLEAR,
    OP_SET,
    AdvanceCommands,
    Append,
    ChannelInfo,
    Command,
    PutChannel,
    PutSettings,
    RememberSync,
    RemoveMembers,
    Reply,
    SetToken,
    UpdateChat,
    UpdateList,
    decode_entry,
)
from wukong.channel.conversations import conversation, pending_commands
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.presence import sessions_of
from wukong.channel.state import Settings, channel_part, encode
from wukong.clock import SystemClock
from wukong.config import Config, cluster_settings
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.errors import Unavailable
from wukong.node.node import Node
from wukong.node.streams import SlotStream
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Recvack, Send, Sendack
from wukong.protocol.recv_frame import RecvView
from wukong.raft.config import RaftConfig
from wukong.raft.statemachine import Committed
from wukong.service.sessions import Login, Sessions, hash_token
from wukong.session.audience import Audience
from wukong.session.registry import Registry
from wukong.store.memory import MemoryStore

GROUP = ChannelId(2, "g")
BOB = ChannelId(1, "bob")


class Sink:
    """A gateway without sockets."""

    def __init__(self) -> None:
        self.pushed: list[tuple[int, RecvView]] = []
        self.acks: list[Sendack] = []

    def deliver(self, view: RecvView, sessions: list[int]) -> None:
        self.pushed += [(number, view) for number in sessions]

    def deliver_event(self, event: SharedEvent, sessions: list[int]) -> None:
        pass

    def sendack(self, session: int, packet: Sendack) -> None:
        self.acks.append(packet)

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None:
        pass

    def drop(self, session: int) -> None:
        pass


class Room:
    """One replica with sessions over it."""

    def __init__(self, store: MemoryStore | None = None, **limits: int) -> None:
        clock = SystemClock()
        self.registry, self.audience, self.gateway = Registry(), Audience(), Sink()
        self.dispatcher = Dispatcher(
            node_id=1,
            registry=self.registry,
            audience=self.audience,
            clock=clock,
            policy=RetryPolicy(),
            system_uid="____system",
            cmd_suffix="____cmd",
        )
        self.dispatcher.gateway = self.gateway
        self.node = Node(
            node_id=1,
            slot_count=16,
            store=store or MemoryStore(),
            clock=clock,
            effects_sink=self.dispatcher.run,
            **limits,
        )
        self.log = InProcessLog(self.node)
        self.log._indexes = {slot: index for slot, (index, _) in self.node.applied().items()}
        self.node.attach(self.log)
        self.sessions = Sessions(
            node=self.node,
            dispatcher=self.dispatcher,
            registry=self.registry,
            clock=clock,
            manager_uid="____manager",
            manager_token="",
            system_uid="____system",
        )

    async def start(self, settings: Settings | None = None) -> "Room":
        await self.node.go_live()
        if settings is not None:
            reply = await self.node.execute(0, PutSettings(encode(settings)))
            await self.node.copied(0, reply.version)
        return self

    async def run(self, key: str, command: Command) -> Reply:
        reply = await self.node.execute(self.node.slot(key), command)
        await self.node.copied(self.node.slot(key), reply.version)
        return reply

    async def connect(self, uid: str, token: str = "") -> int:
        number = self.sessions.new_number()
        await self.sessions.login(number, Login(uid, 0, f"device-{number}", token, 5, False, ("127.0.0.1", 1)))
        return number

    async def sends(self, number: int, uid: str, channel_id: str, kind: int, payload: bytes = b"hi") -> Sendack:
        self.sessions.send(number, uid, Send(0, 0, 1, "", channel_id, kind, 0, "", "", payload))
        before = len(self.gateway.acks)
        while len(self.gateway.acks) == before:
            await asyncio.sleep(0)
        return self.gateway.acks[-1]


async def quiet(room: Room) -> None:
    """Everything that was asked for so far is applied, and what follows from it."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- commands that end the process -------------------------------------------------------------------------------------


def commit(node: Node, log: InProcessLog) -> None:
    """One step of the log, in this very turn, so that what apply raises is seen."""
    entries = []
    for slot, data in node.collect():
        index = log._indexes[slot] = log._indexes.get(slot, 0) + 1
        entries.append(Committed(slot, index, 1, data))
    node.apply(entries)


async def deny_list_beyond_the_limit(room: Room, count: int) -> None:
    for first in range(0, count, 5):
        await room.run("bob", UpdateList(BOB, LIST_DENY, OP_ADD, [f"u{n}" for n in range(first, first + 5)]))


async def test_a_list_with_more_copies_than_may_be_in_flight_does_not_make_apply_raise() -> None:
    room = await Room(in_flight_limit=10).start()
    await deny_list_beyond_the_limit(room, 30)
    await quiet(room)
    room.log.hold = True
    room.node.propose(room.node.slot("bob"), UpdateList(BOB, LIST_DENY, OP_CLEAR), None)
    commit(room.node, room.log)


async def test_a_node_starts_whatever_its_outbox_owes() -> None:
    store = MemoryStore()
    room = await Room(store).start()
    await deny_list_beyond_the_limit(room, 30)
    await quiet(room)
    room.log.hold = True
    room.node.propose(room.node.slot("bob"), UpdateList(BOB, LIST_DENY, OP_CLEAR), None)
    commit(room.node, room.log)  # the process ends here: 30 copies are owed
    await Room(store.reopen(), in_flight_limit=10).start()


async def test_the_last_copy_of_a_version_may_arrive_while_too_much_is_in_flight() -> None:
    room = await Room(in_flight_limit=10).start()
    node, log = room.node, room.log
    log.hold = True
    node.propose(node.slot("bob"), UpdateList(BOB, LIST_DENY, OP_ADD, ["eve"]), None)
    commit(node, log)  # one copy is proposed
    carol, carols = next(
        (uid, node.slot(uid)) for uid in ("carol", "dora", "emil") if node.slot(uid) != node.slot("bob")
    )
    pair = node.slot(person_id("bob", "eve"))
    node.propose(carols, UpdateList(ChannelId(1, carol), LIST_DENY, OP_ADD, ["u1", "u2", "u3"]), None)
    busy = next(slot for slot in range(16) if slot not in (pair, carols))
    for _ in range(17):
        node.propose(busy, Append(GROUP, False, "a", b"x"), None)
    # This step takes 2 of 19 out, puts 3 copies in, and then wants to propose that bob's copy may be forgotten.
    await step_slots(room, {pair, carols})


async def test_a_command_that_no_entry_can_hold_is_refused_when_it_is_proposed() -> None:
    room = await Room().start()
    room.log.hold = True
    positions = [(ChannelId(2, f"{n:05}" + "x" * 32_000), 1) for n in range(300)]
    try:
        room.node.propose(room.node.slot("alice"), RememberSync("alice", positions), None)
    except Unavailable:
        pytest.fail("only a lack of room is to be refused like that")
    except Exception:
        return
    sizes = [len(data) for _, data in room.node.collect()]
    assert max(sizes) <= RaftConfig().max_entry_bytes, "RawNode.propose raises in the runtime's turn: the process ends"


# -- who must get a message, and does not ------------------------------------------------------------------------------


def commands_for(room: Room, uid: str) -> list[bytes]:
    pending = pending_commands(room.node.state_of("g"), uid, limit=100)
    return [message.payload for _, messages in pending for message in messages]


async def test_a_masters_recvack_does_not_confirm_commands_he_has_not_got() -> None:
    room = await Room().start(Settings(token_auth_on=True))
    await room.run("alice", SetToken("alice", 0, hash_token("secret"), 1))
    await room.run("g", PutChannel(GROUP, None, ["alice"]))
    await room.run("g", Append(GROUP, True, "boss", b"while offline", "1", 4, trusted=True))
    number = await room.connect("alice", "secret")
    # Before her application has asked for /message/sync, a command is pushed, and her SDK acknowledges it by itself.
    await room.run("g", Append(GROUP, True, "boss", b"while online", "2", 4, trusted=True))
    [(_, view)] = room.gateway.pushed
    room.sessions.recvack(number, "alice", Recvack(4, view.message.message_id, view.message.message_seq))
    await quiet(room)
    assert b"while offline" in commands_for(room, "alice")


async def test_a_visitor_whose_subscription_ends_stays_reachable_while_he_is_offline() -> None:
    channel = ChannelId(3, "visitor|desk")
    room = await Room().start()
    await room.run(channel.id, PutChannel(channel, None, ["staff", "visitor"]))
    await room.run(channel.id, Append(channel, False, "visitor", b"help"))
    await room.run(channel.id, RemoveMembers(channel, ["visitor"]))
    await room.run(
        channel.id, Append(channel, False, "staff", b"here I am")
    )  # he is a recipient: it follows from the id
    state = room.node.state_of(channel.id)
    assert conversation(state, channel, "visitor", after_seq=0, unread_only=False, count=10) is not None


async def test_a_stored_message_is_stored_though_an_unstored_one_had_its_number() -> None:
    room = await Room().start()
    await room.run("g", PutChannel(GROUP, None, ["alice"]))
    await room.run("g", Append(GROUP, False, "alice", b"hi", "number", 1))
    reply = await room.run("g", Append(GROUP, False, "alice", b"hi", "number", 0))
    assert reply.message_seq == 1


@pytest.mark.parametrize(("op", "uids"), [(OP_SET, ["eve"]), (OP_CLEAR, [])])
async def test_a_member_whose_denial_is_lifted_finds_later_messages_again(op: int, uids: list[str]) -> None:
    room = await Room().start()
    await room.run("g", PutChannel(GROUP, None, ["alice", "bob"]))
    await room.run("g", UpdateList(GROUP, LIST_DENY, OP_ADD, ["alice"]))
    await room.run("g", UpdateList(GROUP, LIST_DENY, op, uids))
    await room.run("g", Append(GROUP, False, "bob", b"welcome back"))
    assert conversation(room.node.state_of("g"), GROUP, "alice", after_seq=0, unread_only=False, count=10) is not None


# -- who must not get a message, and does ------------------------------------------------------------------------------


async def test_a_person_on_the_denylist_stays_denied_however_he_writes_the_pair() -> None:
    room = await Room().start()
    await room.run("bob", UpdateList(BOB, LIST_DENY, OP_ADD, ["eve"]))
    bob, eve = await room.connect("bob"), await room.connect("eve")
    assert (await room.sends(eve, "eve", "bob", 1)).reason_code == 4
    first, second = person_id("bob", "eve").split("@")
    ack = await room.sends(eve, "eve", f"{second}@{first}", 1)
    assert (ack.reason_code, [number for number, _ in room.gateway.pushed if number == bob]) == (4, [])


async def test_a_removed_member_who_clears_his_unread_does_not_find_later_messages() -> None:
    room = await Room().start()
    await room.run("g", PutChannel(GROUP, None, ["alice", "bob"]))
    await room.run("g", Append(GROUP, False, "bob", b"before"))
    await room.run("g", RemoveMembers(GROUP, ["alice"]))
    await room.run("g", UpdateChat(GROUP, "alice", CHAT_OP_CLEAR))  # her screen still shows the group
    await room.run("g", Append(GROUP, False, "bob", b"after"))
    found = conversation(room.node.state_of("g"), GROUP, "alice", after_seq=0, unread_only=False, count=10)
    assert found is None or b"after" not in [message.payload for message in found.messages]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_user_who_disconnects_in_a_rush_does_not_stay_online() -> None:
    room = await Room(in_flight_limit=10).start()
    number = await room.connect("alice")
    room.log.hold = True
    for _ in range(20):
        room.node.propose(room.node.slot("g"), Append(GROUP, False, "a", b"x"), None)
    room.sessions.logout(number, "alice")  # for instance: 20,000 others in the same moment
    room.log.release()
    await quiet(room)
    assert sessions_of(room.node.state_of("alice"), "alice") == []


async def test_a_login_gives_the_loop_its_turn_between_slices_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    room = await Room().start()
    for n in range(3_000):
        await room.run(f"g{n}", PutChannel(ChannelId(2, f"g{n}"), None, ["alice"]))
    joined_in_turn: list[int] = [0]
    join = room.dispatcher.join

    def counted(uid: str, channels: list[ChannelId]) -> None:
        joined_in_turn[-1] += len(channels)
        join(uid, channels)

    async def turns() -> None:
        while True:
            joined_in_turn.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(room.dispatcher, "join", counted)
    others = asyncio.ensure_future(turns())
    await room.connect("alice")
    others.cancel()
    assert sum(joined_in_turn) == 3_000
    assert max(joined_in_turn) < 3_000


# -- streams, for the time when there are several nodes ----------------------------------------------------------------


async def test_commands_that_were_put_back_by_a_gap_and_then_arrived_are_not_packed_twice() -> None:
    stream = SlotStream()
    for n in range(4):
        stream.in_flight.append((bytes((0x90, n)), None))
    stream.cut(1, 1, 1, 1 << 20)
    stream.resend(1)  # a later pack came first
    stream.settle(1, [Reply(), Reply()], [])  # and then the one that seemed to be lost
    assert stream.packed == 0
    assert stream.cut(1, 1, 1, 1 << 20) is not None


async def test_a_gap_makes_the_node_propose_again() -> None:
    node = Node(node_id=1, slot_count=1, store=MemoryStore(), clock=SystemClock(), effects_sink=lambda effects: None)
    log = InProcessLog(node)
    node.attach(log)
    await node.go_live()
    woken: list[bool] = []
    log.wake = lambda: woken.append(True)  # type: ignore[method-assign]
    for n in range(2):
        node.propose(0, Append(GROUP, False, "a", bytes((n,))), None)
    [(_, _lost)] = node.collect()
    node.propose(0, Append(GROUP, False, "a", b"2"), None)
    [(_, second)] = node.collect()
    woken.clear()
    node.apply([Committed(0, 50, 1, second)])
    assert woken


# -- copies ------------------------------------------------------------------------------------------------------------


async def step_slots(room: Room, slots: set[int]) -> None:
    """Commit what is packed for these slots only; the rest is lost with the process."""
    entries = []
    for slot, data in room.node.collect():
        if slot in slots:
            index = room.log._indexes[slot] = room.log._indexes.get(slot, 0) + 1
            entries.append(Committed(slot, index, 1, data))
    room.node.apply(entries)


async def test_a_repeated_send_ban_is_answered_when_its_copies_are_in_force_too() -> None:
    room = await Room().start()
    room.log.hold = True
    alice = ChannelId(1, "alice")
    replies: list[Reply | None] = []
    put = PutChannel(alice, ChannelInfo(send_ban=True))
    room.node.propose(room.node.slot("alice"), put, replies.append)
    await step_slots(room, {room.node.slot("alice")})
    # The copies are under way; the caller's time is up, and he asks again.
    room.node.propose(room.node.slot("alice"), put, replies.append)
    await step_slots(room, {room.node.slot("alice")})
    assert [reply.version > 0 for reply in replies if reply is not None] == [True, True]


async def test_settings_of_the_file_are_in_force_after_a_crash_in_the_middle_of_another_change() -> None:
    store = MemoryStore()
    config = Config()
    file = msgspec.convert(cluster_settings(config), Settings)
    room = await Room(store).start(file)
    room.log.hold = True
    other = msgspec.structs.replace(file, whitelist_off_of_person=not file.whitelist_off_of_person)
    room.node.propose(0, PutSettings(encode(other)), None)
    commit(room.node, room.log)  # the change is owed to every slot; the process ends, and the file is put back
    again = await Room(store.reopen()).start()
    server = Server.__new__(Server)
    server.config, server.node = config, again.node
    await server._enter_settings(alone=True)
    await quiet(again)
    assert [state.settings for state in again.node.states] == [file] * 16


# -- work per message that grows ---------------------------------------------------------------------------------------


class Counting(MemoryStore):
    """Counts deleted keys that a scan passes, as a log-structured store has to until it compacts."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[bytes] = set()
        self.passed = 0

    def write(self, changes):  # type: ignore[no-untyped-def]
        self.dead |= {key for key, value in changes.items() if value is None and self._values.get(key) is not None}
        self.dead -= {key for key, value in changes.items() if value is not None}
        super().write(changes)

    def scan(self, start, end, *, limit=None, reverse=False):  # type: ignore[no-untyped-def]
        rows = super().scan(start, end, limit=limit, reverse=reverse)
        stop = rows[-1][0] if limit is not None and len(rows) == limit and not reverse else end
        self.passed += sum(start <= key < stop for key in self.dead)
        return rows


async def test_an_unstored_message_does_not_pass_by_all_that_expired_before_it() -> None:
    store = Counting()
    room = await Room(store).start(Settings(no_persist_idempotency_retention_ms=0))
    await room.run("g", PutChannel(GROUP, None, ["alice"]))
    passed = []
    for n in range(300):
        store.passed = 0
        await room.run("g", Append(GROUP, False, "alice", b"typing", f"number {n}", 1))
        await asyncio.sleep(0.001)
        passed.append(store.passed)
    assert max(passed[-10:]) <= 20


async def test_a_confirmation_does_not_pass_by_all_that_was_confirmed_before_it() -> None:
    channel = ChannelId(8, "1234567")
    store = Counting()
    room = await Room(store).start()
    passed = []
    for seq in range(1, 301):
        await room.run(channel.id, Append(channel, True, "boss", b"x", "", 4, trusted=True, recipients=["alice"]))
        store.passed = 0
        await room.run(channel.id, AdvanceCommands(channel, "alice", seq))
        passed.append(store.passed)
    assert max(passed[-10:]) <= 20


async def test_an_entry_holds_no_more_commands_than_one_turn_of_the_loop_can_apply() -> None:
    room = await Room().start()
    room.log.hold = True
    for n in range(3_000):
        room.node.propose(room.node.slot("g"), Append(GROUP, False, "alice", b"hello", f"{n:032x}"), None)
    [(_, data)] = room.node.collect()
    assert sum(len(pack.commands) for pack in decode_entry(data)) <= 512


# -- what was suspected and holds --------------------------------------------------------------------------------------


async def test_somebody_added_while_his_login_joins_its_channels_gets_the_next_message() -> None:
    room = await Room().start()
    for n in range(40):
        await room.run(f"g{n}", PutChannel(ChannelId(2, f"g{n}"), None, ["alice"]))
    login = asyncio.ensure_future(room.connect("alice"))
    await room.run("g", PutChannel(GROUP, None, ["alice", "bob"]))
    await room.run("g0", RemoveMembers(ChannelId(2, "g0"), ["alice"]))
    number = await login
    await room.run("g", Append(GROUP, False, "bob", b"new"))
    assert [(to, view.message.payload) for to, view in room.gateway.pushed] == [(number, b"new")]
    for slot, state in enumerate(room.node.states):
        for channel in state.channels_of("alice"):
            here = "alice" in room.audience.uids(channel)
            assert here == state.is_member(channel_part(channel), "alice"), slot
