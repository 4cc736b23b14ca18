"""Why a user got a message, or did not. docs/explain.md.

Two sources, kept apart in the answer. The log's state says who was to get it: intervals of membership, names, what
follows from the channel's id; every node has it, so it is read here behind a barrier. What happened on the way to a
device is known to the node that held the session alone, in memory (dispatch/deliveries.py): all nodes are asked, and
whatever none of them knows any more is said to be unknown. Nothing here decides anything.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from wukong.channel import permissions
from wukong.channel.effects import Message
from wukong.channel.ids import AGENT, PERSON, ChannelId, implicit_members, peer_of, person_id, stored_channel
from wukong.channel.messages import SNOWFLAKE_EPOCH_MS, imported_seq, message_by_id, stored_message
from wukong.channel.nodes import table
from wukong.channel.presence import Session, ended_sessions_of, sessions_of
from wukong.channel.state import (
    Interval,
    State,
    UserRow,
    _decode_copy,
    _decode_user,
    after,
    channel_part,
    named_prefix,
    seq_part,
)
from wukong.clock import Clock, SystemClock
from wukong.dispatch.deliveries import Deliveries, Push, marked_as
from wukong.errors import RequestRefused, Unavailable
from wukong.service.messages import Twin, without_suffix
from wukong.service.other_nodes import Nodes
from wukong.service.replica import Pace, Replica, check_id
from wukong.session.registry import Registry

QUESTION = "deliveries"
"""The name of the question to other nodes."""

DEFAULT_LIMIT = 100
MAX_LIMIT = 100
"""Users of one answer."""
TIMEOUT_S = 2.0
"""How long other nodes are waited for."""
ROWS_LIMIT_COUNT = 100_000
"""Users of a channel that are counted; a channel with more has no counts."""
RECEIVERS_LIMIT_COUNT = 5_000
"""Users whom a node names as receivers of one message; where there were more, there are no counts."""
RUNNING_LIMIT_COUNT = 8
"""Explanations under way; a further one is Unavailable. Each may read all of a channel's users."""
ENDED_PER_USER = 3
"""Sessions that ended before the message came, of one user: the newest."""

_SLICE = 256


# -- what a node knows of its own pushes --


class SessionFacts(msgspec.Struct, kw_only=True):
    """One device's session, and what became of the message there. Times in unix ms, 0 for what did not happen.

    state: connected, ended, or lost (its node ended or restarted since). why: see dispatch/deliveries.py, for a lost
    one `node_ended`. known: whether the node that held it could say what it had pushed."""

    node: int
    session: int
    uid: str = ""
    device_flag: int = 0
    device_id: str = ""
    state: str = "connected"
    known: bool = True
    opened_ms: int = 0
    pushed_ms: int = 0
    repeated_ms: list[int] = []
    acknowledged_ms: int = 0
    ended_ms: int = 0
    why: str = ""
    text: str = ""


class NodeFacts(msgspec.Struct, kw_only=True):
    """What one node remembers. since_ms: when its process began; forgotten_ms: what it had pushed up to then it does
    not know any more, 0: all is known.

    pushed: whether it has pushed this message to anybody. nameless: sessions among those about which nothing is known
    any more. receivers, confirmers: uids, cut at RECEIVERS_LIMIT_COUNT."""

    node: int
    recording: bool = True
    since_ms: int = 0
    forgotten_ms: int = 0
    pushed: bool = False
    nameless: int = 0
    receivers: list[str] = []
    confirmers: list[str] = []
    cut: bool = False
    sessions: list[SessionFacts] = []


class Pushes:
    """The memory of this node, told in the words of the answer. deliveries: None for a node that remembers nothing."""

    def __init__(self, *, node_id: int, deliveries: Deliveries | None, registry: Registry, clock: Clock) -> None:
        self.node_id = node_id
        self._deliveries = deliveries
        self._registry = registry
        self._clock = clock
        self._since_ms = clock.now_ms()

    @classmethod
    def none(cls, node_id: int) -> "Pushes":
        return cls(node_id=node_id, deliveries=None, registry=Registry(), clock=SystemClock())

    async def facts(self, channel: ChannelId, message_id: int, uids: Iterable[str]) -> NodeFacts:
        """Of a message: who got it here; of these users: their sessions here, and what became of it there."""
        deliveries = self._deliveries
        if deliveries is None:
            return NodeFacts(node=self.node_id, recording=False, since_ms=self._since_ms)
        found = await _find(deliveries, channel, message_id)
        facts = NodeFacts(
            node=self.node_id,
            since_ms=self._since_ms,
            forgotten_ms=self._unix(deliveries.forgotten_ms),
            pushed=bool(found.pushes),
        )
        users: dict[str, list[SessionFacts]] = {uid: [] for uid in uids}
        known: dict[int, str] = {}
        sessions: dict[int, SessionFacts] = {}
        for ended in deliveries.ended_sessions():
            known[ended.number] = ended.uid
            if ended.uid in users:
                users[ended.uid].append(
                    SessionFacts(
                        node=self.node_id,
                        session=ended.number,
                        uid=ended.uid,
                        device_flag=ended.device_flag,
                        device_id=ended.device_id,
                        state="ended",
                        opened_ms=ended.opened_ms,
                        ended_ms=self._unix(ended.ended_ms),
                        why=ended.why,
                        text=ended.text,
                    )
                )
        for uid, mine in users.items():
            ended_numbers = {each.session for each in mine}
            for session in self._registry.of(uid):
                if session.number not in ended_numbers:
                    mine.append(
                        SessionFacts(
                            node=self.node_id,
                            session=session.number,
                            uid=uid,
                            device_flag=session.device_flag,
                            device_id=session.device_id,
                            opened_ms=session.opened_ms,
                        )
                    )
            sessions.update((each.session, each) for each in mine)
        await self._tell(facts, found, sessions, known)
        for mine in users.values():
            facts.sessions += _worth_telling(mine)
        return facts

    async def _tell(
        self, facts: NodeFacts, found: "_Found", sessions: dict[int, SessionFacts], ended: dict[int, str]
    ) -> None:
        """Enter what is known of the message."""
        by_number = self._registry.by_number
        receivers: dict[str, None] = {}
        confirmers: dict[str, None] = {}
        pace = Pace()
        for push in found.pushes:
            at_ms = self._unix(push.at_ms)
            for number in push.sessions:
                session = by_number.get(number)
                uid = ended.get(number, "") if session is None else session.uid
                confirmed = found.acknowledged.get(marked_as(number))
                if uid:
                    receivers[uid] = None
                    if confirmed:
                        confirmers[uid] = None
                else:
                    facts.nameless += 1
                told = sessions.get(number)
                if told is not None:
                    told.pushed_ms = at_ms
                    told.acknowledged_ms = self._unix(confirmed[0]) if confirmed else 0
                    told.repeated_ms = [self._unix(ms) for ms in found.repeated.get(marked_as(number), ())]
                await pace.step()
        facts.cut = len(receivers) > RECEIVERS_LIMIT_COUNT
        if not facts.cut:
            facts.receivers, facts.confirmers = list(receivers), list(confirmers)

    def _unix(self, monotonic_ms: int) -> int:
        """By the clock as it is now; 0 for what is not there."""
        if monotonic_ms < 0:
            return 0
        return self._clock.now_ms() - int(self._clock.monotonic() * 1000) + monotonic_ms


class _Found(NamedTuple):
    """pushes of the message; when each session confirmed it, and when it got it again, by `marked_as`."""

    pushes: list[Push]
    acknowledged: dict[int, list[int]]
    repeated: dict[int, list[int]]


async def _find(deliveries: Deliveries, channel: ChannelId, message_id: int) -> _Found:
    found = _Found([], {}, {})
    pace = Pace()
    for page in deliveries.pages():
        found.pushes.extend(push for push in page.pushes_of(message_id) if push.channel == channel)
        if found.pushes:
            for mark in page.acknowledged_of(message_id):
                found.acknowledged.setdefault(mark.session, []).append(mark.at_ms)
            for mark in page.repeated_of(message_id):
                found.repeated.setdefault(mark.session, []).append(mark.at_ms)
        await pace.step()
    return found


def _worth_telling(sessions: list[SessionFacts]) -> list[SessionFacts]:
    """All that are connected or got the message, and the last of the others."""
    idle = [each for each in sessions if each.state == "ended" and not each.pushed_ms]
    dropped = {id(each) for each in idle[:-ENDED_PER_USER]}
    return [each for each in sessions if id(each) not in dropped]


# -- what is asked and answered --


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A message, by seq or by id. uid: only of this user; else a page of users in the order of their uids, from
    `start` on. channel: the stored one."""

    twin: Twin
    message_seq: int = 0
    message_id: int = 0
    uid: str = ""
    start: str = ""
    limit: int = DEFAULT_LIMIT


class MessageFacts(msgspec.Struct, kw_only=True):
    """message_idstr: the id for readers whose numbers are too small for it. sent_ms: when the log took it, from its id;
    of an imported one its timestamp. message_seq 0: it is not stored, and only what nodes remember of it is known;
    from_uid and client_msg_no are empty then."""

    message_id: int
    message_seq: int
    stored: bool
    sent_ms: int
    message_idstr: str = ""
    from_uid: str = ""
    client_msg_no: str = ""


class Membership(msgspec.Struct, kw_only=True):
    """The time as a member that covers the message, or the one that tells why none does. seq: of the log that the
    message is in; a message is his if from_seq < seq <= until_seq. log_index: of the slot's log.

    from_ms, until_ms: [not before, not after] in unix ms as far as rows and messages around tell, 0 for no bound;
    until_*: absent while he is a member."""

    from_log_index: int
    from_seq: int
    from_ms: tuple[int, int]
    until_log_index: int | msgspec.UnsetType = msgspec.UNSET
    until_seq: int | msgspec.UnsetType = msgspec.UNSET
    until_ms: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET


class Sync(msgspec.Struct, kw_only=True):
    """How the message comes to a device that did not get it. way: conversation (/conversation/sync shows that there is
    something, /channel/messagesync brings it), history (/channel/messagesync alone: he has no conversation there),
    command (/message/sync), none (it is not stored). from_seq: of the first that he has not read or confirmed. done:
    he has read or confirmed it."""

    way: str
    from_seq: int = 0
    done: bool = False


class UserFacts(msgspec.Struct, kw_only=True):
    """recipient: null if it cannot be known any more. why:

    member           a member when it was sent
    implicit         a member by the channel's id: of a chat of two, a visitor, an agent's user
    named            the sender named the recipients, and him among them; not_named: not among them
    joined_later     became a member after it; whether he had been one before is not kept
    removed_before   was no member any more
    no_member        no membership is known: he never was a member, or was one once and nothing of it is kept
    pushed           a node pushed it to him; his membership of then is not kept
    not_kept         the message is not stored, and so is not known who was a member then
    system_account   the system account: nothing is ever pushed to it

    certain: false where the answer goes by the memberships that are kept. One that is over is kept while commands of
    its time are unconfirmed or webhook records wait, and then is forgotten; so he may have been a member after all.

    denied: on the deny list now: may not send, and still receives. sender: he sent it; his sending session gets none.
    membership: see there; earlier: with joined_later the one before, if it is kept.
    """

    uid: str
    recipient: bool | None
    why: str
    certain: bool = True
    sender: bool = False
    denied: bool = False
    system: bool = False
    connected: bool = False
    membership: Membership | None = None
    earlier: Membership | None = None
    sessions: list[SessionFacts] = []
    sync: Sync | None = None


class Counts(msgspec.Struct, kw_only=True):
    """Users, without the sender. exact: no node's memory is missing, so `by_sync` got no push for certain; else it is
    at most that."""

    recipients: int
    pushed: int
    acknowledged: int
    by_sync: int
    exact: bool


class NodeShape(msgspec.Struct, kw_only=True):
    """answered: within TIMEOUT_S. covers: it remembers all that it pushed when the message was sent. Times in unix ms:
    since_ms: when its process began, forgotten_ms: it has forgotten its pushes up to then; 0 for none."""

    node: int
    answered: bool = True
    recording: bool = True
    covers: bool = False
    since_ms: int = 0
    forgotten_ms: int = 0
    pushed: bool = False
    nameless: int = 0


class Explanation(msgspec.Struct, kw_only=True):
    """next: the `start` of the following page, empty after the last. counts: with the first page only."""

    channel_id: str
    channel_type: int
    command: bool
    message: MessageFacts
    nodes: list[NodeShape]
    counts: Counts | None
    users: list[UserFacts]
    next: str = ""


class _Verdict(NamedTuple):
    recipient: bool | None
    why: str
    interval: Interval | None = None
    earlier: Interval | None = None


class Explain:
    """pushes: of this node."""

    def __init__(self, replica: Replica, pushes: Pushes) -> None:
        self._replica = replica
        self.pushes = pushes
        self._running = 0

    def named(self, channel_id: str, channel_type: int, login_uid: str, *, is_cmd: bool) -> Twin:
        """The log that is meant. A chat of two is named by the other's uid and login_uid, or by both uids with @
        between them. Raises RequestRefused."""
        plain, suffixed = without_suffix(channel_id, channel_type, self._replica.settings.cmd_suffix)
        if channel_type in (PERSON, AGENT) and "@" not in plain and not login_uid:
            raise RequestRefused(
                f"a chat of two needs both: channel_id={plain}&login_uid=UID, or channel_id={plain}@UID"
            )
        if channel_type == PERSON and "@" in plain:
            channel = ChannelId(PERSON, person_id(*plain.split("@", 1)))
        elif channel_type in (PERSON, AGENT) and "@" not in plain:
            channel = stored_channel(plain, channel_type, login_uid)
        else:
            channel = ChannelId(channel_type, plain)
        check_id(channel.id)
        return Twin(channel, is_cmd or suffixed)

    async def explain(self, query: Query, nodes: Nodes) -> Explanation:
        """Raises RequestRefused for a message that is not there, Unavailable when this node cannot read up to date or
        explains too much at once."""
        if self._running >= RUNNING_LIMIT_COUNT:
            raise Unavailable("too many messages are being explained at once; try again")
        self._running += 1
        try:
            return await self._explain(query, nodes)
        finally:
            self._running -= 1

    async def _explain(self, query: Query, nodes: Nodes) -> Explanation:
        channel, is_cmd = query.twin
        message, facts = self._message(await self._replica.read(channel.id), query)
        case = _Case(channel, channel_part(channel), is_cmd, message, facts)
        page = _Page([check_id(query.uid)], None, "")
        silent: list[int] = []
        if not query.uid:
            # Who got it may be no member any more.
            heard = await self._ask(nodes, case, [])
            silent = [node for node, answer in heard.items() if answer is None]
            page = await self._page(case, _receivers(heard), query)
        answers = await self._ask(nodes, case, page.uids, silent)
        await self._replica.catch_up([channel.id, *page.uids])
        pace = Pace()
        users = []
        for uid in page.uids:
            users.append(self._user(case, uid, answers))
            await pace.step()
        return Explanation(
            channel_id=channel.id,
            channel_type=channel.type,
            command=is_cmd,
            message=facts,
            nodes=[_shape(node, answer, facts.sent_ms) for node, answer in sorted(answers.items())],
            counts=None if page.recipients is None else _counts(page.recipients, answers, facts),
            users=users,
            next=page.next,
        )

    async def serve(self, args: dict[str, Any]) -> bytes:
        """The question of another node. Any: as it came over the link."""
        uids = args["uids"]
        if not isinstance(uids, list) or len(uids) > MAX_LIMIT:
            raise RequestRefused("too many users at once")
        channel = ChannelId(int(args["channel_type"]), str(args["channel_id"]))
        facts = await self.pushes.facts(channel, int(args["message_id"]), [str(uid) for uid in uids])
        return msgspec.json.encode(facts)

    # -- the message --

    def _message(self, state: State, query: Query) -> tuple[Message | None, MessageFacts]:
        channel, is_cmd = query.twin
        part = channel_part(channel)
        head = state.head(part)
        message = None
        if query.message_seq > 0:
            message = stored_message(state, part, is_cmd, query.message_seq)
        elif query.message_id > 0:
            message = message_by_id(state, part, query.message_id, is_cmd=is_cmd)
        if message is not None:
            old = message.message_seq <= imported_seq(state, part, is_cmd=is_cmd)
            sent_ms = message.timestamp * 1000 if old else _id_ms(message.message_id)
            return message, MessageFacts(
                message_id=message.message_id,
                message_idstr=str(message.message_id),
                message_seq=message.message_seq,
                stored=True,
                sent_ms=sent_ms,
                from_uid=message.from_uid,
                client_msg_no=message.client_msg_no,
            )
        kind = "command" if is_cmd else "message"
        if query.message_seq > 0:
            last = 0 if head is None else head.cmd_seq if is_cmd else head.last_seq
            has = f"its last {kind} is {last}" if last else f"it has no {kind}s"
            if query.message_seq <= last:
                has = "it had one, which is not kept any more"
            raise RequestRefused(
                f"channel {channel.id} of type {channel.type} has no {kind} {query.message_seq}; {has}"
            )
        if query.message_id >> 12 & 1023 != state.slot & 1023 or not 0 < _id_ms(query.message_id) <= state.now_ms:
            raise RequestRefused(f"no message of channel {channel.id} of type {channel.type} has this id")
        return None, MessageFacts(
            message_id=query.message_id,
            message_idstr=str(query.message_id),
            message_seq=0,
            stored=False,
            sent_ms=_id_ms(query.message_id),
        )

    # -- users --

    async def _page(self, case: "_Case", receivers: set[str], query: Query) -> "_Page":
        limit = min(query.limit, MAX_LIMIT) if query.limit > 0 else DEFAULT_LIMIT
        message = case.message
        if message is not None and message.recipients is not None:
            everybody = sorted(set(message.recipients))
            found = [uid for uid in everybody if uid >= query.start][: limit + 1]
            return _Page(found[:limit], None if query.start else everybody, found[limit] if len(found) > limit else "")
        recipients: list[str] | None = None if query.start or message is None else []
        found = []
        looked_at = 0
        async for uid, row in self._rows(case, receivers, query.start):
            looked_at += 1
            if looked_at > ROWS_LIMIT_COUNT:
                recipients = None
            if len(found) <= limit:
                found.append(uid)
            elif recipients is None:
                break
            if recipients is not None and _verdict(self._replica.now(case.channel.id), case, uid, row).recipient:
                recipients.append(uid)
        return _Page(found[:limit], recipients, found[limit] if len(found) > limit else "")

    async def _rows(self, case: "_Case", others: set[str], start: str) -> AsyncIterator[tuple[str, UserRow | None]]:
        """Everybody with a row in the channel, its implicit members and these others, in the order of their uids."""
        more = sorted(uid for uid in others | set(implicit_members(case.channel)) if uid >= start)
        more.reverse()
        prefix = b"m" + case.part
        key = prefix + start.encode()
        pace = Pace()
        while True:
            rows = self._replica.now(case.channel.id).scan(key, after(prefix), limit=_SLICE)
            for row_key, row in rows:
                uid = row_key[len(prefix) :].decode()
                while more and more[-1] < uid:
                    yield more.pop(), None
                if more and more[-1] == uid:
                    more.pop()
                yield uid, _decode_user(row)
            if len(rows) < _SLICE:
                break
            key = rows[-1][0] + b"\x00"
            await pace.step()
        while more:
            yield more.pop(), None

    def _user(self, case: "_Case", uid: str, answers: "Answers") -> UserFacts:
        channel = case.channel
        state = self._replica.now(channel.id)
        row = state.user(case.part, uid)
        home = self._replica.now(uid)
        sessions = _sessions(sessions_of(home, uid), ended_sessions_of(home, uid), uid, answers)
        was_pushed = any(each.pushed_ms for each in sessions) or any(
            uid in answer.receivers for answer in answers.values() if answer is not None
        )
        verdict = _verdict(state, case, uid, row, was_pushed=was_pushed)
        return UserFacts(
            uid=uid,
            recipient=verdict.recipient,
            why=verdict.why,
            certain=verdict.why not in _AS_FAR_AS_KEPT,
            sender=case.message is not None and case.message.from_uid == uid,
            denied=_is_denied(state, case, uid),
            system=permissions.is_system(state, uid),
            connected=any(each.state == "connected" for each in sessions),
            membership=None if verdict.interval is None else _membership(state, case, row, verdict.interval),
            earlier=None if verdict.earlier is None else _membership(state, case, row, verdict.earlier),
            sessions=sessions,
            sync=_sync(state, case, uid, row) if verdict.recipient else None,
        )

    # -- other nodes --

    async def _ask(self, nodes: Nodes, case: "_Case", uids: list[str], silent: Collection[int] = ()) -> "Answers":
        """What each node of the table remembers; None for one that does not answer in time. silent: not asked again."""
        channel, message_id = case.channel, case.facts.message_id
        wanted = [node for node in table(self._replica.slot_now(0)) if node != self.pushes.node_id]
        others = [node for node in wanted if node not in silent]
        args = {
            "channel_id": channel.id,
            "channel_type": channel.type,
            "message_id": message_id,
            "uids": uids,
        }
        own, *answers = await asyncio.gather(
            self.pushes.facts(channel, message_id, uids), *(_ask_one(nodes, node, args) for node in others)
        )
        return {**dict.fromkeys(wanted), **dict(zip(others, answers, strict=True)), self.pushes.node_id: own}


Answers = dict[int, NodeFacts | None]


class _Case(NamedTuple):
    """What is asked about."""

    channel: ChannelId
    part: bytes
    is_cmd: bool
    message: Message | None
    facts: MessageFacts


class _Page(NamedTuple):
    """recipients: all of them, None if they are not known or not asked for. next: the start of the next page."""

    uids: list[str]
    recipients: list[str] | None
    next: str


async def _ask_one(nodes: Nodes, node: int, args: dict[str, object]) -> NodeFacts | None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return _decode_facts(await nodes.ask(node, QUESTION, args))
    except (TimeoutError, Unavailable, RequestRefused, msgspec.DecodeError):
        # Gone, too busy, or of a version that does not know the question.
        return None


_decode_facts = msgspec.json.Decoder(NodeFacts).decode


# -- who was to get it --


def _verdict(state: State, case: _Case, uid: str, row: UserRow | None, *, was_pushed: bool = False) -> _Verdict:
    verdict = _by_rows(state, case, uid, row)
    if was_pushed and not verdict.recipient and verdict.why in _AS_FAR_AS_KEPT:
        # A time of membership that is over need not be kept, and he was in it.
        return _Verdict(True, "pushed", verdict.interval, verdict.earlier)
    return verdict


def _by_rows(state: State, case: _Case, uid: str, row: UserRow | None) -> _Verdict:
    if uid == state.settings.system_uid:
        return _Verdict(False, "system_account")
    channel, message = case.channel, case.message
    if message is not None and message.recipients is not None:
        named = uid in message.recipients
        return _Verdict(named, "named" if named else "not_named")
    if uid in implicit_members(channel):
        return _Verdict(True, "implicit")
    intervals = [] if row is None or channel.type in (PERSON, AGENT) else row.intervals
    if message is None:
        return _of_unstored(case, row, intervals)
    seq = message.message_seq
    over = None
    for interval in intervals:
        first, last = _ends(case, interval)
        if seq <= first:
            return _Verdict(False, "joined_later", interval, over)
        if interval.open or seq <= last:
            return _Verdict(True, "member", interval)
        over = interval
    return _Verdict(False, "removed_before", over) if over is not None else _Verdict(False, "no_member")


_AS_FAR_AS_KEPT = frozenset(("joined_later", "removed_before", "no_member", "not_kept"))


def _of_unstored(case: _Case, row: UserRow | None, intervals: list[Interval]) -> _Verdict:
    """It has no seq, so only times tell, and not always. A user's row is as old as his first joining, at most, and was
    changed by his last one."""
    sent_ms = case.facts.sent_ms
    if row is None or not intervals:
        # Nobody whose row there was then would be in it.
        return _Verdict(None, "not_kept")
    if row.created_ms > sent_ms:
        return _Verdict(False, "joined_later", intervals[0])
    if intervals[-1].open and row.updated_ms < sent_ms:
        return _Verdict(True, "member", intervals[-1])
    return _Verdict(None, "not_kept")


def _ends(case: _Case, interval: Interval) -> tuple[int, int]:
    if case.is_cmd:
        return interval.from_cmd, interval.until_cmd
    return interval.from_seq, interval.until_seq


def _membership(state: State, case: _Case, row: UserRow | None, interval: Interval) -> Membership:
    first, last = _ends(case, interval)
    created_ms, updated_ms = (0, 0) if row is None else (row.created_ms, row.updated_ms)
    found = Membership(
        from_log_index=interval.from_index,
        from_seq=first,
        # A row is made with the first joining or before, and changed by every one.
        from_ms=_between(state, case, first, created_ms, updated_ms),
    )
    if not interval.open:
        found.until_log_index, found.until_seq = interval.until_index, last
        found.until_ms = _between(state, case, last, found.from_ms[0], updated_ms)
    return found


def _between(state: State, case: _Case, seq: int, low_ms: int, high_ms: int) -> tuple[int, int]:
    """When that happened which lies behind message `seq` in the log: not before and not after."""
    if low_ms == high_ms:
        return low_ms, high_ms
    before = stored_message(state, case.part, case.is_cmd, seq) if seq else None
    behind = stored_message(state, case.part, case.is_cmd, seq + 1)
    if before is not None:
        low_ms = max(low_ms, before.timestamp * 1000)
    if behind is not None:
        high_ms = min(high_ms, behind.timestamp * 1000 + 999)
    return low_ms, max(low_ms, high_ms)


def _is_denied(state: State, case: _Case, uid: str) -> bool:
    channel = case.channel
    if channel.type == PERSON:
        if uid not in implicit_members(channel):
            return False
        row = state.get(b"l" + case.part + peer_of(channel.id, uid).encode())
        return row is not None and bool(_decode_copy(row)[1][0] & permissions.PAIR_DENIED)
    return state.get(b"d" + case.part + uid.encode()) is not None


def _sync(state: State, case: _Case, uid: str, row: UserRow | None) -> Sync:
    message = case.message
    if message is None:
        return Sync(way="none")
    seq = message.message_seq
    if case.is_cmd:
        if message.recipients is not None:
            # The row goes when he confirms it.
            waiting = state.get(named_prefix(case.part, uid) + seq_part(seq)) is not None
            return Sync(way="command", from_seq=seq, done=not waiting)
        read = 0 if row is None else row.cmd_read
        return Sync(way="command", from_seq=read + 1, done=read >= seq)
    read = 0 if row is None else row.read_seq
    shown = row is not None and row.chat and row.deleted_seq < seq and (row.until_seq < 0 or seq <= row.until_seq)
    return Sync(way="conversation" if shown else "history", from_seq=read + 1, done=shown and read >= seq)


# -- what happened on the way --


def _sessions(live: list[Session], dead: list[Session], uid: str, answers: Answers) -> list[SessionFacts]:
    """What nodes told of their sessions, and what the log knows of those about which none could tell."""
    told = {
        (each.node, each.session): each
        for answer in answers.values()
        if answer is not None
        for each in answer.sessions
        if each.uid == uid
    }
    for session in live:
        if (session.node, session.session) not in told:
            told[session.node, session.session] = _as_logged(session, "connected", answers)
    found = list(told.values())
    # The number of a session of an earlier life of its node may be in use again.
    found += [_as_logged(session, "lost", answers) for session in dead]
    return sorted(found, key=lambda each: (each.opened_ms, each.node, each.session))


def _as_logged(session: Session, state: str, answers: Answers) -> SessionFacts:
    answer = answers.get(session.node)
    return SessionFacts(
        node=session.node,
        session=session.session,
        uid=session.uid,
        device_flag=session.device_flag,
        device_id=session.device_id,
        state=state,
        known=state == "connected" and answer is not None and answer.recording,
        opened_ms=session.since_ms,
        why="node_ended" if state == "lost" else "",
    )


def _covers(answer: NodeFacts | None, sent_ms: int) -> bool:
    """Whether the node remembers whatever it pushed of a message of this time. Clocks of two nodes may differ a
    little."""
    return (
        answer is not None
        and answer.recording
        and not answer.cut
        and not answer.nameless
        and (answer.pushed or (answer.since_ms <= sent_ms and answer.forgotten_ms < sent_ms))
    )


def _shape(node: int, answer: NodeFacts | None, sent_ms: int) -> NodeShape:
    if answer is None:
        return NodeShape(node=node, answered=False, recording=False)
    return NodeShape(
        node=node,
        recording=answer.recording,
        covers=_covers(answer, sent_ms),
        since_ms=answer.since_ms,
        forgotten_ms=answer.forgotten_ms,
        pushed=answer.pushed,
        nameless=answer.nameless,
    )


def _receivers(answers: Answers) -> set[str]:
    return {uid for answer in answers.values() if answer is not None for uid in answer.receivers}


def _counts(recipients: list[str], answers: Answers, facts: MessageFacts) -> Counts:
    sender = {facts.from_uid}
    receivers = _receivers(answers) - sender
    confirmers = {uid for answer in answers.values() if answer is not None for uid in answer.confirmers} - sender
    everybody = receivers.union(recipients) - sender
    return Counts(
        recipients=len(everybody),
        pushed=len(receivers),
        acknowledged=len(confirmers),
        by_sync=len(everybody - receivers),
        exact=all(_covers(answer, facts.sent_ms) for answer in answers.values()),
    )


def _id_ms(message_id: int) -> int:
    return (message_id >> 22) + SNOWFLAKE_EPOCH_MS
