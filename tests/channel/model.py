"""What one slot must do, written the slow way: plain dicts and lists, everything kept for ever, nothing derived ahead.

Written from behaviour.md (sections 2, 4, 5, 7 to 10, 12, 19) and from the docstrings of the commands. It knows nothing
of rows, keys, intervals or caches: who was a member at a position is found by replaying the channel's history, and who
should have a message is written on the message when it is stored. Where the machine may choose (message ids), the model
checks the rule and then takes what was chosen.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import msgspec

from wukong import limits
from wukong.channel import presence, retention, webhooks
from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    ChannelInfo,
    CloseSession,
    Command,
    Disband,
    DropNode,
    Erase,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    Hello,
    ImportChats,
    ImportMembers,
    ImportMessages,
    NodeGone,
    NodeRow,
    OpenSession,
    PostedEvent,
    PostEvent,
    PutChannel,
    PutCopy,
    PutNode,
    PutRetention,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    RetentionPolicy,
    Retire,
    SetToken,
    StageMembers,
    SweepSessions,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.conversations import Conversation
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings

PERSON, CUSTOMER_SERVICE, INFO, LIVE, VISITORS, AGENT = 1, 3, 6, 9, 10, 11
ADD, REMOVE, SET, CLEAR = 0, 1, 2, 3
DENY = 0
CLEAR_UNREAD, SET_UNREAD, DELETE_CHAT = 0, 1, 2
SLAVE, MASTER = 0, 1
OK, AUTH_FAIL, NOT_MEMBER, DENIED, KICK, NOT_ALLOWED, REFUSED, BAN = 1, 2, 3, 4, 12, 13, 15, 19
DISBANDED, SEND_BAN = 24, 25
NO_PERSIST = 1
ERASED = 16
COPY_USER, COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS = 1, 2, 3, 4

NOTIFY, OFFLINE, ONLINE = 1, 2, 4
EVENTS = {"msg.notify": NOTIFY, "msg.offline": OFFLINE, "user.onlinestatus": ONLINE}

# An effect as the tests compare it: its kind, then its facts. See `Model.apply`.
Seen = tuple[Any, ...]


@dataclass
class Stored:
    """A message, who should have it and who was a member: decided at its position, never again."""

    message: Message
    recipients: frozenset[str]
    members: frozenset[str]


@dataclass
class Talk:
    """A conversation. ends_at: the last seq it shows, for somebody who left and kept it; None: it goes on."""

    read: int = 0
    deleted: int = 0
    ends_at: int | None = None
    touched_ms: int = 0


@dataclass
class Channel:
    """history: (position, uid, joined or left), oldest first."""

    id: ChannelId
    info: ChannelInfo | None = None
    history: list[tuple[int, str, bool]] = field(default_factory=list)
    deny: set[str] = field(default_factory=set)
    allow: set[str] = field(default_factory=set)
    chat: list[Stored] = field(default_factory=list)
    commands: list[Stored] = field(default_factory=list)
    talks: dict[str, Talk] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    ever_send_banned: bool = False
    imported: dict[bool, int] = field(default_factory=dict)
    retired: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    # Messages that are not found by their number: a newer one of the sender had it, and was erased.
    unfindable: set[tuple[bool, int]] = field(default_factory=set)

    def members(self) -> set[str]:
        present: set[str] = set()
        for _, uid, joined in self.history:
            (present.add if joined else present.discard)(uid)
        return present

    def joined_at(self, uid: str) -> int:
        """Position of the member's newest joining."""
        return max(position for position, who, joined in self.history if joined and who == uid)

    def implicit(self) -> list[str]:
        """Members by the id alone: behaviour.md 8.1."""
        if self.id.type in (PERSON, AGENT):
            return list(dict.fromkeys(self.id.id.split("@", 1)))
        if self.id.type == CUSTOMER_SERVICE and "|" in self.id.id:
            visitor = self.id.id.split("|")[0]
            return [visitor] if visitor else []
        if self.id.type == VISITORS:
            return [self.id.id]
        return []

    def log(self, is_cmd: bool) -> list[Stored]:
        """Everything that ever was in it."""
        return self.commands if is_cmd else self.chat

    def kept(self, is_cmd: bool) -> list[Stored]:
        return self.log(is_cmd)[self.retired[is_cmd] :]


@dataclass
class Lane:
    """A lane of a message's events; its content is a text with what its snapshot had besides it, or JSON."""

    status: str = ""
    seq: int = 0
    event_id: str = ""
    event_type: str = ""
    visibility: str = ""
    occurred_at: int = 0
    end_reason: int = 0
    error: str = ""
    text: str = ""
    shape: bytes = b""
    json: bytes = b""

    @property
    def ended(self) -> bool:
        return self.status in ("closed", "error", "cancelled")

    @property
    def content(self) -> tuple[bool, bytes, bytes] | None:
        if self.json:
            return False, self.json, b""
        return (True, self.text.encode(), self.shape) if self.text or self.shape else None


@dataclass
class Thread:
    """The events of one message."""

    seq: int = 0
    finished: bool = False
    from_uid: str = ""
    message_id: int = 0
    lanes: dict[str, Lane] = field(default_factory=dict)


@dataclass
class Device:
    """A live session."""

    uid: str
    node: int
    incarnation: int
    session: int
    flag: int
    level: int
    device_id: str
    since_ms: int


@dataclass
class Event:
    """What the application is to be told. recipients: decided at the message's position. online: who was, as it was
    first said."""

    id: int
    at_ms: int
    kinds: frozenset[int]
    channel: ChannelId | None = None
    is_cmd: bool = False
    message: Message | None = None
    recipients: frozenset[str] = frozenset()
    entries: list[str] = field(default_factory=list)
    online: list[str] | None = None


@dataclass
class Remembered:
    """The newest message under a (channel, sender, client_msg_no). until_ms: for one that is not stored, when it is
    forgotten; a stored one is judged by its age and the settings of the day."""

    payload: bytes
    reply: Reply
    until_ms: int | None


class Model:
    """One slot. `position` counts log indexes; `now_ms` is the log's time."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.settings = Settings()
        self.settings_version = -1
        self.channels: dict[ChannelId, Channel] = {}
        self.numbers: dict[tuple[ChannelId, bool, str, str], Remembered] = {}
        self.system_uids: list[str] = []
        self.system_uids_version = -1
        self.authority_uids: list[str] = []
        self.named_uids: list[str] = []
        self.send_banned: dict[str, tuple[int, bool]] = {}
        self.pairs: dict[tuple[str, str], tuple[int, bool, bool]] = {}
        self.tokens: dict[tuple[str, int], tuple[bytes, int]] = {}
        self.devices: list[Device] = []
        self.incarnations: dict[int, int] = {}
        self.over: set[tuple[int, int]] = set()
        self.nodes: dict[int, NodeRow] = {}
        self.threads: dict[tuple[ChannelId, str], Thread] = {}
        self.policies: dict[ChannelId, RetentionPolicy | None] = {}
        self.handed_out: dict[str, list[tuple[ChannelId, int]]] = {}
        self.staged: dict[ChannelId, dict[int, list[StageMembers]]] = {}
        self.owed: dict[int, tuple[int, str, Command]] = {}
        self.outbox = 0
        self.version = 0
        self.last_id = 0
        self.position = 0
        self.now_ms = 0
        self.node = 0
        self.incarnation = 0
        self.events: list[Event] = []
        self.told = dict.fromkeys(EVENTS.values(), 0)
        self.given_up = 0
        self.woken: set[int] = set()
        # Sessions whose end nobody reported: they died with their node. sweep: where it goes on, None: nowhere.
        self.dead: list[Device] = []
        self.sweep: tuple[object, ...] | None = None
        self._seen: list[Seen] = []
        self._given = Reply()

    # -- the log --

    def take_incarnation(self, node: int, incarnation: int) -> None:
        """A new life of a node: whatever its older lives held is gone."""
        before = self.incarnations.get(node)
        if before != incarnation:
            self.incarnations[node] = incarnation
            if before is not None and (node, before) not in self.over:
                self._node_ended(node)

    def apply(self, position: int, node: int, now_ms: int, command: Command, given: Reply) -> tuple[Reply, list[Seen]]:
        """What the reply and the effects must be, in order. given: the machine's reply, for what it may choose.

        push channel is_cmd message recipients node session | members channel added removed
        started uid node incarnation session flag level | ended uid node incarnation session kicked reason text close_ms
        gone node incarnation | copy version target command
        """
        self.position = position
        self.now_ms = max(self.now_ms, now_ms)
        self.node, self.incarnation = node, self.incarnations[node]
        self._given = given
        self._seen = []
        reply = getattr(self, "_on_" + type(command).__name__)(command)
        return reply, self._seen

    def channel(self, channel: ChannelId) -> Channel:
        """The channel, empty if nobody used it: in the slow way there is no difference between the two."""
        return self.channels.setdefault(channel, Channel(channel))

    # -- permission: behaviour.md 5.1 row 1, 5.2, 5.3, in their order --

    def is_system(self, uid: str) -> bool:
        return uid == self.settings.system_uid or uid in self.system_uids

    def permission(self, channel: Channel, uid: str, *, is_cmd: bool, trusted: bool) -> int:
        if not trusted and self.send_banned.get(uid, (0, False))[1]:
            return SEND_BAN
        info = channel.info
        if channel.id.type not in (CUSTOMER_SERVICE, INFO, VISITORS, AGENT) and info is not None and not is_cmd:
            if info.ban:
                return BAN
            if info.disband:
                return DISBANDED
            if info.send_ban and not trusted and not self.is_system(uid):
                return SEND_BAN
        return self.sender_permission(channel, uid, trusted=trusted)

    def sender_permission(self, channel: Channel, uid: str, *, trusted: bool) -> int:
        kind = channel.id.type
        rows = [
            (kind in (INFO, CUSTOMER_SERVICE), OK),
            (kind == AGENT and uid in channel.implicit(), OK),
            (kind == VISITORS and uid == channel.id.id, OK),
            (trusted, OK),
            (self.is_system(uid), OK),
        ]
        for holds, result in rows:
            if holds:
                return result
        if kind == PERSON:
            first, second = channel.id.id.split("@", 1)
            return self.person_permission(channel.id.id, uid, second if uid == first else first)
        if uid in channel.deny:
            return DENIED
        if uid not in channel.members():
            return NOT_MEMBER
        if channel.allow and uid not in channel.allow:
            return NOT_ALLOWED
        return OK

    def person_permission(self, pair: str, sender: str, receiver: str) -> int:
        _, denied, allowed = self.pairs.get((pair, receiver), (0, False, False))
        if self.is_system(receiver):
            return OK
        if denied:
            return DENIED
        if not self.settings.whitelist_off_of_person and not allowed:
            return NOT_ALLOWED
        return OK

    # -- messages: behaviour.md 5.4, 7, 8.1, 12 --

    def _on_Append(self, command: Append) -> Reply:
        channel = self.channel(command.channel)
        key = (command.channel, command.is_cmd, command.from_uid, command.client_msg_no)
        known = self.numbers.get(key) if command.client_msg_no else None
        answers = known is not None and (known.reply.message_seq > 0 or bool(command.flags & NO_PERSIST))
        if known is not None and answers and known.payload == command.payload and not self._forgotten(known):
            return msgspec.structs.replace(known.reply, duplicate=True)
        message_id = self._new_id()
        reason = self.permission(channel, command.from_uid, is_cmd=command.is_cmd, trusted=command.trusted)
        if reason != OK:
            return Reply(reason, message_id)
        stored = not command.flags & NO_PERSIST
        log = channel.log(command.is_cmd)
        seq = len(log) + 1 if stored else 0
        message = Message(
            message_id,
            seq,
            command.flags,
            command.setting,
            command.from_uid,
            command.client_msg_no,
            self._second(log),
            command.payload,
            command.expire,
            command.topic,
            command.recipients,
        )
        recipients = self._recipients(channel, command)
        if stored:
            log.append(Stored(message, recipients, frozenset(channel.members() | set(channel.implicit()))))
            if seq == 1 and not command.is_cmd:
                self._first_message(channel, command.from_uid)
        reply = Reply(OK, message_id, seq, message.timestamp)
        if command.client_msg_no:
            until_ms = None if stored else self.now_ms + self.settings.no_persist_idempotency_retention_ms
            self.numbers[key] = Remembered(command.payload, reply, until_ms)
        self._seen.append(("push", command.channel, command.is_cmd, message, recipients, self.node, command.session))
        self._note_message(command, message, recipients)
        return reply

    def _second(self, log: list[Stored]) -> int:
        """Of a message behind the log: not before one that is in it, and an imported one may be ahead."""
        return max([self.now_ms // 1000, *(stored.message.timestamp for stored in log)])

    def _forgotten(self, known: Remembered) -> bool:
        if known.until_ms is None:
            return known.reply.timestamp * 1000 + self.settings.idempotency_retention_ms < self.now_ms
        return known.until_ms <= self.now_ms

    def _new_id(self) -> int:
        """41 bits of milliseconds since 2010-11-04, 10 of slot, 12 of step: above every id of the slot before."""
        message_id = self._given.message_id
        assert message_id > self.last_id, "message ids rise in a slot"
        assert message_id >> 12 & 1023 == self.slot, "the slot is in the id"
        assert message_id >> 22 >= self.now_ms - 1288834974657, "the id is not older than the message"
        self.last_id = message_id
        return message_id

    def _recipients(self, channel: Channel, command: Append) -> frozenset[str]:
        if command.recipients is not None:
            return frozenset(command.recipients)
        return frozenset(channel.members() | set(channel.implicit()))

    def _first_message(self, channel: Channel, sender: str) -> None:
        if channel.id.type == PERSON and not self.settings.whitelist_off_of_person:
            return
        if channel.id.type in (PERSON, CUSTOMER_SERVICE):
            for uid in channel.implicit():
                if uid != self.settings.system_uid and uid not in channel.talks:
                    channel.talks[uid] = Talk(read=1 if uid == sender else 0, touched_ms=self.now_ms)

    # -- imports: docs/migration.md --

    def _on_ImportMessages(self, command: ImportMessages) -> Reply:
        channel = self.channel(command.channel)
        log = channel.log(command.is_cmd)
        imported = channel.imported.get(command.is_cmd, 0)
        if command.messages[0].message_seq > len(log) + 1:
            return Reply(1001, message_seq=len(log))
        known = [message for message in command.messages if message.message_seq <= len(log)]
        fresh = command.messages[len(known) :]
        for message in known:
            stored = log[message.message_seq - 1].message
            if message.message_seq <= channel.retired[command.is_cmd] or stored.flags & ERASED:
                continue
            if stored != message:
                return Reply(1002, message_seq=message.message_seq)
        if fresh and imported < len(log):
            return Reply(1002, message_seq=imported + 1)
        for message in fresh:
            members = frozenset(channel.members() | set(channel.implicit()))
            log.append(Stored(message, members, members))
            channel.imported[command.is_cmd] = len(log)
            self.last_id = max(self.last_id, message.message_id)
            if message.client_msg_no:
                key = (command.channel, command.is_cmd, message.from_uid, message.client_msg_no)
                reply = Reply(OK, message.message_id, message.message_seq, message.timestamp)
                self.numbers[key] = Remembered(message.payload, reply, None)
        return Reply(message_seq=len(log))

    def _on_ImportMembers(self, command: ImportMembers) -> Reply:
        channel = self.channel(command.channel)
        channel.info = channel.info or ChannelInfo()
        added = [u for u in dict.fromkeys(command.uids) if u.strip() and u not in channel.members()]
        for uid in added:
            self._joined(channel, uid, makes_talk=False)
        if added:
            self._seen.append(("members", command.channel, frozenset(added), frozenset()))
        return Reply()

    def _on_ImportChats(self, command: ImportChats) -> Reply:
        channel = self.channel(command.channel)
        last = len(channel.chat)
        for chat in command.chats:
            if chat.uid.strip():
                talk = channel.talks.setdefault(chat.uid, Talk())
                talk.read = max(talk.read, min(chat.read_seq, last))
                talk.deleted = max(talk.deleted, min(chat.deleted_seq, last))
                talk.touched_ms = self.now_ms
                if chat.uid not in channel.members() and chat.uid not in channel.implicit():
                    talk.ends_at = last
        return Reply()

    # -- retention: docs/retention.md --

    def _on_PutRetention(self, command: PutRetention) -> Reply:
        self.policies[command.channel] = command.policy
        return Reply()

    def _on_Retire(self, command: Retire) -> Reply:
        channel, is_cmd = self.channel(command.channel), command.is_cmd
        begun, upto = channel.retired[is_cmd], min(command.upto, len(channel.log(is_cmd)))
        if upto <= begun:
            return Reply(message_seq=begun)
        # How far one command gets is the machine's choice, but it gets somewhere.
        done = self._given.message_seq
        assert begun < done <= upto and done - begun <= retention.MESSAGES_PER_COMMAND
        gone = [stored.message for stored in channel.log(is_cmd)[begun:done]]
        for message in gone:
            channel.retired[is_cmd] = message.message_seq
            self._forget_number(channel, is_cmd, message)
        self._seen.append(("freed", command.channel, is_cmd, begun + 1, done, sum(map(_size, gone)), False))
        return Reply(message_seq=done)

    def _on_Erase(self, command: Erase) -> Reply:
        channel, is_cmd = self.channel(command.channel), command.is_cmd
        gone = []
        for stored in channel.kept(is_cmd):
            message = stored.message
            if message.message_seq in command.seqs and message.from_uid == command.uid and not message.flags & ERASED:
                gone.append(message)
                named = self._of_number(channel, is_cmd, message.client_msg_no, message.from_uid)
                if named and named[-1] == message:
                    channel.unfindable |= {(is_cmd, older.message_seq) for older in named}
                empty = {"setting": 0, "client_msg_no": "", "payload": b'{"type":0}', "topic": ""}
                stored.message = msgspec.structs.replace(message, flags=message.flags | ERASED, **empty)
                self._forget_number(channel, is_cmd, message)
        if gone:
            first, last = gone[0].message_seq, gone[-1].message_seq
            self._seen.append(("freed", command.channel, is_cmd, first, last, sum(map(_size, gone)), True))
        return Reply(message_seq=len(gone))

    def _of_number(self, channel: Channel, is_cmd: bool, number: str, uid: str) -> list[Message]:
        found = [stored.message for stored in channel.kept(is_cmd)]
        return [
            m
            for m in found
            if (m.client_msg_no, m.from_uid) == (number, uid) and (is_cmd, m.message_seq) not in channel.unfindable
        ]

    def _forget_number(self, channel: Channel, is_cmd: bool, message: Message) -> None:
        number = message.client_msg_no
        key = (channel.id, is_cmd, message.from_uid, number)
        if number and key in self.numbers and self.numbers[key].reply.message_seq == message.message_seq:
            del self.numbers[key]
        if number and not is_cmd and self.by_number(channel.id, number, False) is None:
            self.threads.pop((channel.id, number), None)

    # -- events: http-api.md 10, docs/design/events.md --

    def _on_PostEvent(self, command: PostEvent) -> Reply:
        thread = self.threads.get((command.channel, command.client_msg_no), Thread())
        known = thread.lanes.get(command.event_key)
        lane = known or Lane()
        is_delta = command.kind == 2
        if is_delta and (thread.finished or lane.ended):
            return Reply(256)
        is_full = len(set(thread.lanes) - {"__finish__"}) >= limits.MAX_EVENT_LANES
        if known is None and command.event_key != "__finish__" and is_full:
            return Reply(258)
        again = not is_delta and (lane.ended or (lane.seq > 0 and lane.event_id == command.event_id))
        if not again:
            changed = self._with_content(replace(lane), command)
            if len(changed.text.encode()) > limits.MAX_EVENT_LANE_BYTES:
                return Reply(257)
            lane = thread.lanes[command.event_key] = changed
            self._take_event(thread, lane, command)
        self.threads[command.channel, command.client_msg_no] = thread
        thread.from_uid = command.from_uid or thread.from_uid
        thread.message_id = command.message_id or thread.message_id
        message = self.by_number(command.channel, command.client_msg_no, False)
        if message is not None:
            thread.from_uid = thread.from_uid or message.from_uid
            thread.message_id = thread.message_id or message.message_id
        author = thread.from_uid or self.settings.system_uid, thread.message_id
        channel = self.channel(command.channel)
        to = frozenset(channel.members() | set(channel.implicit()))
        facts = (command.client_msg_no, command.event_key, command.event_id, command.event_type, *author)
        as_given = (command.shown_id, command.visibility, command.occurred_at, command.payload)
        self._seen.append(("event", command.channel, to, *facts, lane.seq, lane.status, *as_given))
        return Reply(duplicate=again, event=PostedEvent(lane.seq, lane.status, *author))

    def _with_content(self, lane: Lane, command: PostEvent) -> Lane:
        text, own = command.text, command.content
        ends = command.kind in (4, 5, 6, 7)
        if command.kind == 2 and text is not None and not (lane.json and not text):
            lane.text, lane.shape, lane.json = ("" if lane.json else lane.text) + text, lane.shape, b""
        elif command.kind == 2 and text is None and not lane.text and command.payload:
            lane.text, lane.shape, lane.json = "", b"", command.payload
        elif command.kind == 3 or (ends and lane.content is None):
            data = own or (b"" if ends else command.payload)
            if text is not None:
                lane.text, lane.shape, lane.json = text, own, b""
            elif data:
                lane.text, lane.shape, lane.json = "", b"", data
        return lane

    def _take_event(self, thread: Thread, lane: Lane, command: PostEvent) -> None:
        if command.kind == 2:
            lane.status = "open"
            return
        thread.seq += 1
        lane.seq, lane.event_id, lane.event_type = thread.seq, command.event_id, command.event_type.strip().lower()
        lane.visibility, lane.occurred_at = command.visibility, command.occurred_at or self.now_ms
        lane.status = {1: "open", 4: "closed", 5: "error", 6: "cancelled", 7: "closed"}.get(command.kind, lane.status)
        if lane.ended:
            lane.end_reason, lane.error = command.end_reason, command.error
        thread.finished = thread.finished or command.kind == 7

    # -- channels and members: behaviour.md 9, D-10, D-12 --

    def _on_PutChannel(self, command: PutChannel) -> Reply:
        channel = self.channel(command.channel)
        staged = self.staged.setdefault(command.channel, {})
        if command.reset and command.staged and command.parts:
            there = {stage.part for stage in staged.get(command.staged, ()) if stage.part}
            if there != set(range(1, command.parts + 1)):
                staged.pop(command.staged, None)
                return Reply(REFUSED)
        before = channel.info or ChannelInfo()
        channel.info = command.info or before
        version = 0
        if channel.info.send_ban:
            channel.ever_send_banned = True
        if command.channel.type == PERSON and command.info is not None and channel.ever_send_banned:
            bits = bytes([1 if channel.info.send_ban else 0])
            version = self._copy("", COPY_USER, [command.channel.id], bits)
        listed = list(command.add)
        present = channel.members()
        removed: set[str] = set()
        if command.reset:
            if command.staged:
                for stage in staged.get(command.staged, ()):
                    listed += stage.uids
                self.staged[command.channel] = {n: uids for n, uids in staged.items() if n > command.staged}
            removed = present - set(listed)
            for uid in removed:
                self._left(channel, uid)
        added = []
        for uid in dict.fromkeys(listed):
            if uid.strip() and uid not in present:
                self._joined(channel, uid, makes_talk=command.chats and command.channel.type != LIVE)
                added.append(uid)
        if added or removed:
            self._seen.append(("members", command.channel, frozenset(added), frozenset(removed)))
        return Reply(version=version)

    def _joined(self, channel: Channel, uid: str, *, makes_talk: bool) -> None:
        channel.history.append((self.position, uid, True))
        if makes_talk:
            talk = channel.talks.setdefault(uid, Talk())
            talk.read = max(talk.read, len(channel.chat))
        if uid in channel.talks:
            channel.talks[uid].ends_at = None
            channel.talks[uid].touched_ms = self.now_ms

    def _left(self, channel: Channel, uid: str) -> None:
        channel.history.append((self.position, uid, False))
        talk = channel.talks.get(uid)
        if talk is not None:
            talk.touched_ms = self.now_ms
            if uid not in channel.implicit():
                talk.ends_at = len(channel.chat)

    def _on_StageMembers(self, command: StageMembers) -> Reply:
        self.staged.setdefault(command.channel, {}).setdefault(command.staged, []).append(command)
        return Reply()

    def _on_RemoveMembers(self, command: RemoveMembers) -> Reply:
        channel = self.channel(command.channel)
        removed = set(command.uids) & channel.members()
        for uid in removed:
            self._left(channel, uid)
        if command.channel.type != LIVE:
            for uid in set(command.uids) - set(channel.implicit()):
                channel.talks.pop(uid, None)
        if removed:
            self._seen.append(("members", command.channel, frozenset(), frozenset(removed)))
        return Reply()

    def _on_RemoveAllMembers(self, command: RemoveAllMembers) -> Reply:
        channel = self.channel(command.channel)
        removed = channel.members()
        for uid in removed:
            self._left(channel, uid)
        if removed:
            self._seen.append(("members", command.channel, frozenset(), frozenset(removed)))
        return Reply()

    def _on_Disband(self, command: Disband) -> Reply:
        channel = self.channel(command.channel)
        if channel.info is not None:
            channel.info = msgspec.structs.replace(channel.info, disband=True)
        return Reply()

    # -- lists: behaviour.md 5.3, 9, D-11; http-api.md 8.9, 8.10 --

    def _on_UpdateList(self, command: UpdateList) -> Reply:
        channel = self.channel(command.channel)
        listed = channel.deny if command.which == DENY else channel.allow
        named = [uid for uid in dict.fromkeys(command.uids) if uid.strip()]
        touched = list(named)
        if command.op in (SET, CLEAR):
            touched += sorted(listed - set(named), key=str.encode)
            listed.clear()
        if command.op in (ADD, SET):
            listed.update(named)
        if command.op == REMOVE:
            listed.difference_update(named)
        if command.channel.type == PERSON:
            return Reply(version=self._copy_lists(channel, command, touched) or (self.version if self.owed else 0))
        if command.which == DENY and command.channel.type != LIVE:
            for uid in touched:
                if uid in listed:
                    if uid in named:
                        channel.talks.pop(uid, None)
                else:
                    self._restore_talk(channel, uid)
        return Reply()

    def _restore_talk(self, channel: Channel, uid: str) -> None:
        by_message = channel.id.type == CUSTOMER_SERVICE and uid in channel.implicit() and channel.chat
        if uid not in channel.talks and (uid in channel.members() or (by_message and uid != self.settings.system_uid)):
            channel.talks[uid] = Talk(read=len(channel.chat), touched_ms=self.now_ms)

    def _copy_lists(self, owner: Channel, command: UpdateList, touched: list[str]) -> int:
        version = 0
        for uid in touched:
            version = version or self._next_version()
            pair = joined(owner.id.id, uid)
            new_talk = command.which != DENY and command.op == ADD and uid != owner.id.id
            bits = (1 if uid in owner.deny else 0) + (2 if uid in owner.allow else 0)
            key = [pair, owner.id.id, uid if new_talk else ""]
            self._owe(version, pair, PutCopy(COPY_PAIR, version, key, bytes([bits])))
        return version

    # -- copies: architecture.md 4 --

    def _next_version(self) -> int:
        self.version += 1
        return self.version

    def _owe(self, version: int, target: str, command: Command) -> None:
        self.outbox += 1
        self.owed[self.outbox] = (version, target, command)
        self._seen.append(("copy", version, target, command))

    def _copy(self, target: str, kind: int, key: list[str], value: bytes) -> int:
        version = self._next_version()
        self._owe(version, target, PutCopy(kind, version, key, value))
        return version

    def _on_ForgetOutbox(self, command: ForgetOutbox) -> Reply:
        for outbox_id in command.ids:
            self.owed.pop(outbox_id, None)
        return Reply()

    def _on_PutSettings(self, command: PutSettings) -> Reply:
        decided = [version for version, _, copy in self.owed.values() if getattr(copy, "kind", 0) == COPY_SETTINGS]
        decided.append(self.settings_version)
        if command.initial and max(decided) > 0:
            return Reply(version=max(decided), duplicate=True)
        return Reply(version=self._copy("", COPY_SETTINGS, [], command.settings))

    def _on_UpdateSystemUids(self, command: UpdateSystemUids) -> Reply:
        if command.from_datasource:
            self.named_uids = sorted(set(command.uids), key=command.uids.index)
        for uid in command.uids if not command.from_datasource else ():
            if command.op == REMOVE and uid in self.authority_uids:
                self.authority_uids.remove(uid)
            if command.op == ADD and uid not in self.authority_uids:
                self.authority_uids.append(uid)
        more = [uid for uid in self.named_uids if uid not in self.authority_uids]
        value = msgspec.msgpack.encode(self.authority_uids + more)
        return Reply(version=self._copy("", COPY_SYSTEM_UIDS, [], value))

    def _on_PutCopy(self, command: PutCopy) -> Reply:
        version, value = command.version, command.value
        if command.kind == COPY_SETTINGS and version > self.settings_version:
            self.settings_version = version
            self.settings = msgspec.msgpack.decode(value, type=Settings)
        if command.kind == COPY_SYSTEM_UIDS and version > self.system_uids_version:
            self.system_uids_version = version
            self.system_uids = msgspec.msgpack.decode(value)
        if command.kind == COPY_USER:
            (uid,) = command.key
            if version > self.send_banned.get(uid, (-1, False))[0]:
                self.send_banned[uid] = (version, value == b"\x01")
        if command.kind == COPY_PAIR:
            pair, owner, new_talk = command.key
            if version > self.pairs.get((pair, owner), (-1, False, False))[0]:
                self.pairs[pair, owner] = (version, bool(value[0] & 1), bool(value[0] & 2))
            if new_talk:
                talks = self.channel(ChannelId(PERSON, pair)).talks
                talks.setdefault(new_talk, Talk(touched_ms=self.now_ms))
        return Reply()

    # -- nodes: cluster.md 2, 4 --

    def _on_NodeGone(self, command: NodeGone) -> Reply:
        life = command.node, command.incarnation
        if self.incarnations.get(command.node) == command.incarnation and life not in self.over:
            self.over.add(life)
            self._node_ended(command.node)
            self._seen.append(("gone", *life))
        return Reply()

    def _on_PutNode(self, command: PutNode) -> Reply:
        old = self.nodes.get(command.node)
        stays_leaving = old is not None and old.leaving and command.row.disk != 0
        self.nodes[command.node] = msgspec.structs.replace(command.row, leaving=command.row.leaving or stays_leaving)
        return Reply()

    def _on_DropNode(self, command: DropNode) -> Reply:
        if command.node in self.nodes:
            self.nodes[command.node] = msgspec.structs.replace(self.nodes[command.node], leaving=True)
        return Reply()

    def _on_ForgetNode(self, command: ForgetNode) -> Reply:
        if command.node in self.nodes and self.nodes[command.node].leaving:
            del self.nodes[command.node]
        return Reply()

    # -- conversations and commands: behaviour.md 10.4, 12 --

    def _on_UpdateChat(self, command: UpdateChat) -> Reply:
        channel = self.channel(command.channel)
        last = len(channel.chat)
        talk = channel.talks.get(command.uid)
        if command.op == DELETE_CHAT:
            if talk is not None:
                talk.deleted, talk.touched_ms = last, self.now_ms
            return Reply()
        if talk is not None and talk.ends_at is not None:
            last = talk.ends_at
        if last == 0:
            return Reply()
        if talk is None:
            stays = command.uid in channel.members() or command.uid in channel.implicit()
            talk = channel.talks[command.uid] = Talk(ends_at=None if stays else last)
        if command.op == CLEAR_UNREAD or command.unread == 0:
            wanted = last
        elif 0 < command.unread <= last:
            wanted = last - command.unread
        else:
            wanted = last - 1
        talk.read, talk.touched_ms = max(talk.read, wanted), self.now_ms
        return Reply()

    def _on_AdvanceCommands(self, command: AdvanceCommands) -> Reply:
        channel = self.channel(command.channel)
        seq = min(command.seq, len(channel.commands))
        if command.contiguous and not self._is_next(channel, command.uid, seq):
            return Reply()
        channel.confirmed[command.uid] = max(seq, channel.confirmed.get(command.uid, 0))
        return Reply()

    def _is_next(self, channel: Channel, uid: str, seq: int) -> bool:
        """Whether nothing unconfirmed below seq is for the user; where more than 64 commands lie between, it is not
        looked for."""
        before = [s for s in channel.kept(True) if channel.confirmed.get(uid, 0) < s.message.message_seq < seq]
        return not any(uid in s.recipients for s in before) and sum(uid in s.members for s in before) <= 64

    def _on_RememberSync(self, command: RememberSync) -> Reply:
        self.handed_out[command.uid] = command.positions
        return Reply()

    def _on_TakeSync(self, command: TakeSync) -> Reply:
        return Reply(positions=self.handed_out.pop(command.uid, []))

    # -- users: behaviour.md 4.2, 4.3 --

    def _on_Hello(self, command: Hello) -> Reply:
        return Reply()

    def _user_info(self, uid: str) -> ChannelInfo:
        return self.channel(ChannelId(PERSON, uid)).info or ChannelInfo()

    def _on_SetToken(self, command: SetToken) -> Reply:
        info = self._user_info(command.uid)
        if info.ban:
            return Reply(BAN)
        if info.disband:
            return Reply(DISBANDED)
        self.tokens[command.uid, command.device_flag] = (command.token_hash, command.level)
        if command.level == MASTER:
            for device in self.sessions_of(command.uid, command.device_flag):
                # Connected until its socket is closed, ten seconds later: a login until then kicks it once more.
                self._say_ended(device, True, "账号在其他设备上登录", 10_000)
        return Reply()

    def _on_QuitDevices(self, command: QuitDevices) -> Reply:
        entries = self._bury(command.uid) if self.wants(ONLINE) else []
        for flag in command.device_flags:
            if (command.uid, flag) in self.tokens:
                self.tokens[command.uid, flag] = (b"", MASTER)
                for device in self.sessions_of(command.uid, flag):
                    self._end(device, True, "", 2_000, entries)
        self._note_statuses(entries)
        return Reply()

    def _on_OpenSession(self, command: OpenSession) -> Reply:
        visitor = self.settings.visitors_on and command.uid.endswith(self.settings.visitors_suffix)
        level = SLAVE
        if self.settings.token_auth_on and not command.trusted and not visitor:
            token, level = self.tokens.get((command.uid, command.device_flag), (b"", SLAVE))
            if not token or token != command.token_hash:
                return Reply(AUTH_FAIL)
        if self._user_info(command.uid).ban:
            return Reply(BAN)
        entries = self._bury(command.uid)
        for device in self.sessions_of(command.uid, command.device_flag):
            if device.device_id == command.device_id:
                self._end(device, False, "", 2_000, entries)
            elif level == MASTER:
                self._end(device, True, "login in other device", 2_000, entries)
        flag, session = command.device_flag, command.session
        device = Device(command.uid, self.node, self.incarnation, session, flag, level, command.device_id, self.now_ms)
        self.devices.append(device)
        entries.append(self._status(device, 1))
        self._note_statuses(entries)
        self._seen.append(("started", command.uid, self.node, self.incarnation, session, flag, level))
        return Reply(level=level)

    def _on_CloseSession(self, command: CloseSession) -> Reply:
        for device in self.sessions_of(command.uid):
            if (device.node, device.session) == (self.node, command.session):
                entries = self._bury(command.uid) if self.wants(ONLINE) else []
                self.devices.remove(device)
                self._note_statuses([*entries, self._status(device, 0)])
                self._seen.append(("ended", command.uid, self.node, self.incarnation, command.session, False, 0, "", 0))
        return Reply()

    def _end(self, device: Device, kicked: bool, text: str, close_ms: int, entries: list[str]) -> None:
        self.devices.remove(device)
        entries.append(self._status(device, 0))
        self._say_ended(device, kicked, text, close_ms)

    def _say_ended(self, device: Device, kicked: bool, text: str, close_ms: int) -> None:
        reason = KICK if kicked else 0
        where = (device.uid, device.node, device.incarnation, device.session)
        self._seen.append(("ended", *where, kicked, reason, text, close_ms))

    # -- webhooks: behaviour.md 13 --

    def wants(self, kind: int) -> bool:
        events = self.settings.webhook_events or list(EVENTS)
        return self.settings.webhook_on and kind in map(EVENTS.get, events)

    def _note(self, kinds: set[int], **facts: Any) -> None:
        kinds = set(filter(self.wants, kinds))
        if kinds:
            self.events.append(Event(len(self.events) + 1, self.now_ms, frozenset(kinds), **facts))
            self.woken |= kinds

    def _note_message(self, command: Append, message: Message, recipients: frozenset[str]) -> None:
        kinds = {NOTIFY} if message.message_seq else set()
        if command.channel.type != AGENT:
            kinds.add(OFFLINE)
        told = recipients - {"", command.from_uid, self.settings.system_uid}
        self._note(kinds, channel=command.channel, is_cmd=command.is_cmd, message=message, recipients=told)

    def _note_statuses(self, entries: list[str]) -> None:
        if entries:
            self._note({ONLINE}, entries=list(entries))

    def _status(self, device: Device, online: int) -> str:
        """After the change. Who is dead counts until it is said."""
        flags = [other.flag for other in self.devices + self.dead if other.uid == device.uid]
        counts = f"{flags.count(device.flag)}-{len(flags)}"
        return f"{device.uid}-{device.flag}-{online}-{device.session}-{counts}"

    def _bury(self, uid: str) -> list[str]:
        entries = []
        for device in sorted((d for d in self.dead if d.uid == uid), key=_place):
            self.dead.remove(device)
            entries.append(self._status(device, 0))
        return entries

    def _node_ended(self, node: int) -> None:
        self.dead += [device for device in self.devices if device.node == node]
        self.devices = [device for device in self.devices if device.node != node]
        if self.wants(ONLINE):
            self.sweep = ()
            self.woken.add(ONLINE)

    def _on_SweepSessions(self, command: SweepSessions) -> Reply:
        if self.sweep is not None:
            looked_at = sorted((d for d in self.devices + self.dead if _place(d) > self.sweep), key=_place)
            looked_at = looked_at[: presence.SWEEP_ROWS]
            for uid in dict.fromkeys(device.uid for device in looked_at if device in self.dead):
                self._note_statuses(self._bury(uid))
            self.sweep = _place(looked_at[-1]) if len(looked_at) == presence.SWEEP_ROWS else None
        return Reply()

    def _on_AdvanceWebhooks(self, command: AdvanceWebhooks) -> Reply:
        kind, limit = command.kind, webhooks.ROWS_PER_COMMAND
        passed = [event.id for event in self.waiting(kind) if event.id <= command.upto][:limit]
        upto = passed[-1] if len(passed) == limit else min(command.upto, len(self.events))
        self.told[kind] = max(self.told[kind], upto)
        if command.dropped:
            self.given_up += len(passed)
        return Reply()

    def _on_FreezeOffline(self, command: FreezeOffline) -> Reply:
        for event in self.waiting(OFFLINE):
            if event.id in command.ids and event.online is None:
                event.online = command.online
        return Reply()

    def waiting(self, kind: int) -> list[Event]:
        return [event for event in self.events if kind in event.kinds and event.id > self.told[kind]]

    # -- reading --

    def sessions_of(self, uid: str, flag: int | None = None) -> list[Device]:
        found = [d for d in self.devices if d.uid == uid and flag in (None, d.flag)]
        return sorted(found, key=lambda d: (d.node, d.incarnation, d.session))

    def pending(self, uid: str) -> dict[ChannelId, list[Message]]:
        """Commands the user should have and has not confirmed, per channel, ascending."""
        found = {}
        for channel in self.channels.values():
            done = channel.confirmed.get(uid, 0)
            mine = [s.message for s in channel.kept(True) if uid in s.recipients and s.message.message_seq > done]
            if mine:
                found[channel.id] = mine
        return found

    def conversations_of(self, uid: str) -> set[tuple[int, ChannelId]]:
        found = set()
        for channel in self.channels.values():
            talk = channel.talks.get(uid)
            if talk is not None:
                seconds = [s.message.timestamp for s in channel.chat] or [talk.touched_ms // 1000]
                found.add((max(seconds), channel.id))
        return found

    def conversation(
        self, channel_id: ChannelId, uid: str, *, after_seq: int, unread_only: bool, count: int, hidden: bool
    ) -> Conversation | None:
        """behaviour.md 10.2 step 4 and its arithmetic; hidden: 10.3, the whole channel also without a conversation."""
        channel = self.channel(channel_id)
        talk = channel.talks.get(uid)
        if talk is None and not hidden:
            return None
        talk = replace(talk) if talk is not None else Talk()
        if hidden:
            talk.deleted, talk.ends_at = 0, None
        last = len(channel.chat) if talk.ends_at is None else talk.ends_at
        shown = [s.message for s in channel.kept(False) if talk.deleted < s.message.message_seq <= last]
        if after_seq > 0:
            shown = [m for m in shown if m.message_seq > after_seq]
        elif unread_only:
            shown = [m for m in shown if m.message_seq > talk.read]
        recents = shown[::-1][:count]
        # What is gone cannot be read.
        read = max(talk.read, min(channel.retired[False], last))
        unread = max(0, last - read)
        own = max((s.message.message_seq for s in channel.kept(False) if s.message.from_uid == uid), default=0)
        if recents and recents[0].from_uid == uid:
            unread, read = 0, recents[0].message_seq
        elif own <= last and own > read and last - own < unread:
            unread, read = last - own, own
        return Conversation(channel_id, unread, read, last, recents)

    def by_number(self, channel_id: ChannelId, number: str, is_cmd: bool) -> Message | None:
        channel = self.channel(channel_id)
        found = [s.message for s in channel.kept(is_cmd) if s.message.client_msg_no == number]
        found = [message for message in found if (is_cmd, message.message_seq) not in channel.unfindable]
        return found[-1] if found else None

    def told_message(self, event: Event) -> Message | None:
        """The message of an event as it is now; None: there is none, or no more."""
        if event.message is None or event.channel is None or not event.message.message_seq:
            return event.message
        channel, seq = self.channel(event.channel), event.message.message_seq
        return None if seq <= channel.retired[event.is_cmd] else channel.log(event.is_cmd)[seq - 1].message


def _size(message: Message) -> int:
    return sum(map(len, (message.payload, message.client_msg_no, message.from_uid, message.topic)))


def _place(device: Device) -> tuple[object, ...]:
    """Where a session is among all."""
    raw = device.uid.encode()
    return len(raw), raw, device.node, device.incarnation, device.session


@cache
def crc32(text: str) -> int:
    """CRC-32 (IEEE) of the text's bytes, bit by bit."""
    register = 0xFFFFFFFF
    for byte in text.encode():
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def joined(a: str, b: str) -> str:
    """The stored id of a person channel: behaviour.md 2, http-api.md 3.3."""
    return "@".join(sorted((a, b), key=lambda uid: (crc32(uid), uid), reverse=True))
