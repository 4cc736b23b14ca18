"""Sending for the back end, and reading messages. http-api.md section 9, behaviour.md sections 6, 7, 11.

A send is answered when it is stored and applied here (D-5); the back end passes the sender's permission checks, not a
channel's ban.
"""

import asyncio
import contextlib
import uuid
from typing import NamedTuple

import msgspec

from wukong.channel.commands import Append, Reply
from wukong.channel.effects import Message
from wukong.channel.ids import AGENT, PERSON, TEMP, ChannelId, has_special, stored_channel
from wukong.channel.messages import (
    message_by_id,
    message_by_number,
    messages_between,
    stored_message,
)
from wukong.channel.permissions import BAN, DISBAND, SEND_BAN, SUCCESS
from wukong.channel.state import State, channel_part
from wukong.dispatch.probes import Probe, Probes
from wukong.errors import RequestRefused
from wukong.limits import MAX_HISTORY_MESSAGES, MAX_PAYLOAD_BYTES, MIB
from wukong.service.replica import Pace, Replica, check_id, chunks, distinct

NO_PERSIST = 1
RED_DOT = 2
SYNC_ONCE = 4

STREAM_SETTING = 0x02

# Payloads of one answer; a page ends before it, with `more`.
PAGE_BYTES = 32 * MIB

BAD_CHANNEL_ID = "频道ID不合法！"

_REFUSALS = {BAN: "the channel is banned", DISBAND: "the channel is disbanded", SEND_BAN: "sending is banned"}

TRACE_TIMEOUT_S = 1.0

_SLICE = 256
_BATCH_WINDOW = 64
# Hashing is a loop over bytes; a longer text goes to a thread, where it cannot hold the loop.
_HASH_BYTES_ON_LOOP = 32 * 1024


class Trace(msgspec.Struct, frozen=True):
    """When a message reached its stages on this node, in ms after its request came; None for one that did not come:
    nobody gets a repeated message again, and nothing is written where nobody is connected. See dispatch/probes.py.
    sessions: RECVs queued on this node; other nodes push to theirs on their own."""

    received_ms: float
    proposed_ms: float
    applied_ms: float | None
    fanned_out_ms: float | None
    written_ms: float | None
    answered_ms: float
    sessions: int


class Sent(NamedTuple):
    """trace: if it was asked for."""

    message_id: int
    message_seq: int
    client_msg_no: str
    trace: Trace | None = None


class Failure(NamedTuple):
    """Who did not get a message sent to many, and why."""

    uid: str
    reason: str


class Twin(NamedTuple):
    """A channel's log as somebody names it: of its messages, or of its commands."""

    channel: ChannelId
    is_cmd: bool


class Page(NamedTuple):
    """Messages of a channel, ascending. more: there may be others beyond."""

    twin: Twin
    messages: list[Message]
    more: bool


def new_client_msg_no() -> str:
    return uuid.uuid4().hex + "0"


def fnv1a_64(data: bytes) -> int:
    """FNV-1a: what upstream hashes lists and names with."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def without_suffix(channel_id: str, channel_type: int, suffix: str) -> tuple[str, bool]:
    """The channel's own id, and whether the id named its commands. A person may be called like that."""
    if channel_type in (PERSON, AGENT) or not channel_id.endswith(suffix):
        return channel_id, False
    return channel_id.removesuffix(suffix), True


class Messages:
    """probes: those of the dispatcher of this node; without them nothing is traced."""

    def __init__(self, replica: Replica, probes: Probes | None = None) -> None:
        self._replica = replica
        self._probes = probes
        self.sent = 0
        """Messages appended for the back end."""

    def named(self, channel_id: str, channel_type: int, uid: str) -> Twin:
        """The log that a user means by a channel id. The command suffix names the commands, but a person may be called
        like that; an agent channel may be given by the agent or as stored. Raises RequestRefused for an id that is too
        long."""
        plain, is_cmd = without_suffix(channel_id, channel_type, self._replica.settings.cmd_suffix)
        if channel_type == AGENT and "@" in plain:
            channel = ChannelId(AGENT, plain)
        else:
            channel = stored_channel(plain, channel_type, uid)
        check_id(channel.id)
        return Twin(channel, is_cmd)

    def stored(self, channel_id: str, channel_type: int) -> Twin:
        """The log of a channel given by its stored id; the command suffix as in `named`."""
        plain, is_cmd = without_suffix(channel_id, channel_type, self._replica.settings.cmd_suffix)
        return Twin(ChannelId(channel_type, check_id(plain)), is_cmd)

    async def _exists(self, channel: ChannelId) -> bool:
        # Behind a barrier: which log a message goes to must not depend on how far this node has applied.
        head = (await self._replica.read(channel.id)).head(channel_part(channel))
        return head is not None and head.known

    # -- sending --

    async def send(
        self,
        *,
        channel_id: str,
        channel_type: int,
        from_uid: str,
        payload: bytes,
        flags: int,
        client_msg_no: str = "",
        expire: int = 0,
        setting: int = 0,
        traced: bool = False,
    ) -> Sent:
        """One message to a channel. expire in seconds. traced: tell the times of its stages; waits at most
        TRACE_TIMEOUT_S for its RECVs. Raises RequestRefused: the channel is banned or disbanded, an id or the payload
        cannot be."""
        received_at = self._probes.monotonic() if traced and self._probes is not None else 0.0
        if has_special(channel_id) or (channel_type in (PERSON, AGENT) and has_special(from_uid)):
            raise RequestRefused(BAD_CHANNEL_ID)
        twin = self.named(channel_id, channel_type, from_uid)
        if twin.is_cmd and await self._exists(ChannelId(channel_type, channel_id)):
            # A group that is really called like that: its own members are meant, not those of another one.
            twin = Twin(ChannelId(channel_type, channel_id), False)
        settings = self._replica.settings
        is_command = flags & SYNC_ONCE and channel_type != TEMP and channel_id != settings.online_cmd_channel_id
        number = client_msg_no if client_msg_no.strip() else new_client_msg_no()
        command = Append(
            twin.channel,
            twin.is_cmd or bool(is_command),
            check_id(from_uid),
            _check_payload(payload),
            check_id(number),
            flags,
            setting,
            expire,
            trusted=True,
        )
        if self._probes is not None and traced:
            reply, trace = await self._append_traced(command, self._probes, received_at)
            return Sent(reply.message_id, reply.message_seq, number, trace)
        reply = await self._append(command)
        return Sent(reply.message_id, reply.message_seq, number)

    async def _append_traced(self, command: Append, probes: Probes, received_at: float) -> tuple[Reply, Trace | None]:
        probe = probes.begin(0, command.client_msg_no, received_at)
        if probe is None:
            return await self._append(command), None
        written = asyncio.Event()
        probe.on_written = written.set
        answered = False
        try:
            reply = await self._append(command)
            answered = True
        finally:
            probes.end(probe, answered=answered)
        if probe.sessions:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRACE_TIMEOUT_S):
                    await written.wait()
        return reply, _trace_of(probe)

    async def send_to(self, uids: list[str], *, from_uid: str, payload: bytes, flags: int, expire: int = 0) -> None:
        """A command to exactly these uids: stored ones find it by sync, unstored ones reach who is connected. A long
        list becomes several messages; an error in between leaves some of them sent."""
        check_id(from_uid)
        _check_payload(payload)
        if flags & NO_PERSIST:
            channel, is_cmd = ChannelId(TEMP, self._replica.settings.online_cmd_channel_id), False
        else:
            channel, is_cmd = ChannelId(TEMP, str(await _hash(",".join(uids).encode()))), True
        for part in chunks(await distinct(uids), self._replica.settings.members_per_command):
            await self._append(
                Append(
                    channel,
                    is_cmd,
                    from_uid,
                    payload,
                    # Its own for each part: equal ones would count as the same message.
                    new_client_msg_no(),
                    flags,
                    expire=expire,
                    trusted=True,
                    recipients=part,
                )
            )

    async def send_to_each(self, uids: list[str], *, from_uid: str, payload: bytes, flags: int) -> list[Failure]:
        """One person message to each uid, as often as it is listed. Raises Unavailable when the outcome of one is not
        known; others may have been sent."""
        _check_payload(payload)
        failures: list[Failure] = []
        for start in range(0, len(uids), _BATCH_WINDOW):
            window = uids[start : start + _BATCH_WINDOW]
            results = await asyncio.gather(
                *(self._send_to_person(uid, from_uid, payload, flags) for uid in window), return_exceptions=True
            )
            for uid, result in zip(window, results, strict=True):
                if isinstance(result, RequestRefused):
                    failures.append(Failure(uid, result.text))
                elif isinstance(result, BaseException):
                    raise result
        return failures

    async def _send_to_person(self, uid: str, from_uid: str, payload: bytes, flags: int) -> None:
        if not uid.strip():
            raise RequestRefused(BAD_CHANNEL_ID)
        await self.send(channel_id=uid, channel_type=PERSON, from_uid=from_uid, payload=payload, flags=flags)

    async def _append(self, command: Append) -> Reply:
        reply = await self._replica.change(command.channel.id, command)
        self.sent += 1
        if reply.reason != SUCCESS:
            why = _REFUSALS.get(reply.reason, "the message was refused")
            raise RequestRefused(f"{why} (reason {reply.reason})")
        return reply

    # -- reading --

    async def history(self, twin: Twin, *, start: int, end: int, limit: int, newer: bool) -> Page:
        """A page of a channel's log; the table is http-api.md 9.8. limit: at most MAX_HISTORY_MESSAGES; 0 means none,
        towards newer all of that. A page also ends at PAGE_BYTES of payloads."""
        state = await self._replica.read(twin.channel.id)
        newest = _newest(state, twin)
        limit = min(limit, MAX_HISTORY_MESSAGES)
        if start == 0 and end == 0:
            first, last = newest - limit + 1, newest
            newer = False
        elif newer:
            first, last = start, (min(end - 1, newest) if end else newest)
        elif end > start:
            first, last = 1, 0
        else:
            # Counted from the start downwards, also where nothing is yet.
            first, last = max(end, start - limit) + 1, min(start, newest)
        wanted = MAX_HISTORY_MESSAGES if newer and limit == 0 else limit
        messages, cut = await self._slices(twin, max(first, 1), last, wanted, newest=not newer)
        return Page(twin, messages, cut or len(messages) >= limit)

    async def _slices(
        self, twin: Twin, first: int, last: int, limit: int, *, newest: bool
    ) -> tuple[list[Message], bool]:
        """Up to limit messages between first and last, ascending, from the newest or the oldest end, and whether
        PAGE_BYTES cut them."""
        part = channel_part(twin.channel)
        pace = Pace()
        found: list[list[Message]] = []
        left, payload_bytes = limit, 0
        while left > 0 and first <= last and payload_bytes < PAGE_BYTES:
            state = self._replica.now(twin.channel.id)
            count = min(left, _SLICE)
            messages = messages_between(
                state, part, is_cmd=twin.is_cmd, first=first, last=last, limit=count, newest=newest
            )
            if not messages:
                break
            found.append(messages)
            left -= len(messages)
            payload_bytes += sum(len(message.payload) for message in messages)
            if newest:
                last = messages[0].message_seq - 1
            else:
                first = messages[-1].message_seq + 1
            await pace.step()
        if newest:
            found.reverse()
        return [message for messages in found for message in messages], left > 0 and payload_bytes >= PAGE_BYTES

    async def find(
        self, twin: Twin, *, seqs: list[int], message_ids: list[int], client_msg_nos: list[str]
    ) -> list[Message]:
        """The messages asked for, by seq, then by id, then by number, each in the order asked; what is not there is
        left out. Raises RequestRefused for more than MAX_HISTORY_MESSAGES keys."""
        keys = len(seqs) + len(message_ids) + len(client_msg_nos)
        if keys > MAX_HISTORY_MESSAGES:
            raise RequestRefused(f"{keys} messages asked for; the limit is {MAX_HISTORY_MESSAGES}")
        channel, is_cmd = twin
        part = channel_part(channel)
        await self._replica.catch_up([channel.id])
        pace = Pace()
        found: list[Message | None] = []
        for seq in seqs:
            found.append(stored_message(self._replica.now(channel.id), part, is_cmd, seq))
            await pace.step()
        for message_id in message_ids:
            found.append(message_by_id(self._replica.now(channel.id), part, message_id, is_cmd=is_cmd))
            await pace.step()
        for number in client_msg_nos:
            found.append(_by_number(self._replica.now(channel.id), part, number, is_cmd=is_cmd))
            await pace.step()
        return [message for message in found if message is not None]

    async def last_seq(self, twin: Twin) -> int:
        """The newest seq of a log, 0 for one nobody wrote to."""
        return _newest(await self._replica.read(twin.channel.id), twin)

    async def last_message(self, twin: Twin) -> Message | None:
        state = await self._replica.read(twin.channel.id)
        return stored_message(state, channel_part(twin.channel), twin.is_cmd, _newest(state, twin))


def _trace_of(probe: Probe) -> Trace:
    def after(at: float) -> float:
        return round((at - probe.received_at) * 1000, 3)

    return Trace(
        received_ms=0.0,
        proposed_ms=after(probe.proposed_at),
        applied_ms=after(probe.applied_at) if probe.applied_at else None,
        fanned_out_ms=after(probe.fanned_out_at) if probe.fanned_out_at else None,
        written_ms=after(probe.written_at) if probe.written_at else None,
        answered_ms=after(probe.answered_at),
        sessions=probe.sessions,
    )


def _newest(state: State, twin: Twin) -> int:
    head = state.head(channel_part(twin.channel))
    if head is None:
        return 0
    return head.cmd_seq if twin.is_cmd else head.last_seq


def _by_number(state: State, part: bytes, number: str, *, is_cmd: bool) -> Message | None:
    # Nobody can have sent a longer one, and no key has room for it.
    return message_by_number(state, part, check_id(number), is_cmd=is_cmd)


def _check_payload(payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RequestRefused(f"a payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD_BYTES}")
    return payload


async def _hash(data: bytes) -> int:
    if len(data) <= _HASH_BYTES_ON_LOOP:
        return fnv1a_64(data)
    return await asyncio.to_thread(fnv1a_64, data)
