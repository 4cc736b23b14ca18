"""One channel under test: every change and message goes through it, so that the judge knows what happened when."""

import asyncio
from collections.abc import Iterable, Sequence

from tests.scenarios.judge import History, now
from tests.support.http import Api, payload_of
from tests.support.wire import GROUP, SUCCESS, Client, fence, unique
from wukong.channel.ids import ChannelId
from wukong.protocol.packets import RED_DOT, Sendack

AUDITED: dict[str, dict[ChannelId, set[str]]] = {}
"""By server: the members that the last audit of a channel found. For a look at the rows when the server has stopped."""


class Room:
    """chat, commands: what happened; both have the same changes. refused: SENDACKs with another reason than 1."""

    def __init__(self, api: Api, channel_id: str = "", *, kind: int = GROUP) -> None:
        self.api = api
        self.id = channel_id or unique("room")
        self.kind = kind
        self.chat = History()
        self.commands = History(changes=self.chat.changes)
        self.refused: list[Sendack] = []
        self._own: dict[Client, list[int]] = {}

    # -- changes

    async def create(self, uids: Iterable[str] = (), *, reset: bool = False) -> None:
        uids = list(uids)
        with self.chat.resetting(uids) if reset else self.chat.adding(uids):
            await self.api.create(self.id, uids, kind=self.kind, reset=reset)

    async def add(self, *uids: str) -> None:
        with self.chat.adding(uid for uid in uids if uid.strip()):
            await self.api.add(self.id, uids, kind=self.kind)

    async def reset(self, *uids: str) -> None:
        with self.chat.resetting(uids):
            await self.api.add(self.id, uids, kind=self.kind, reset=True)

    async def remove(self, *uids: str) -> None:
        with self.chat.removing(uids):
            await self.api.remove(self.id, uids, kind=self.kind)

    async def remove_all(self) -> None:
        with self.chat.resetting(()):
            await self.api.remove_all(self.id, kind=self.kind)

    # -- messages

    async def send(self, client: Client, payload: bytes | None = None) -> Sendack:
        """A SEND and its SENDACK, which is written down."""
        payload = unique("payload").encode() if payload is None else payload
        sent = now()
        ack = await client.send(self.id, payload, kind=self.kind, flags=RED_DOT)
        if ack.reason_code == SUCCESS:
            self.chat.sent(ack.message_seq, payload, client.uid, sent, now())
            self._own.setdefault(client, []).append(ack.message_seq)
        else:
            self.refused.append(ack)
        return ack

    async def command(self, from_uid: str, payload: bytes | None = None) -> int:
        """A stored command of the back end. Returns its seq: commands are counted, so let nobody else send any."""
        payload = unique("command").encode() if payload is None else payload
        sent = now()
        await self.api.send(from_uid, self.id, payload, kind=self.kind, sync_once=True)
        seq = len(self.commands.messages) + 1
        self.commands.sent(seq, payload, from_uid, sent, now())
        return seq

    async def keep_sending(self, client: Client, stop: asyncio.Event, *, per_second: float) -> None:
        """Pipelined SENDs at a steady rate until told to stop; returns when all are answered."""
        open_sends: list[asyncio.Task[Sendack]] = []
        started = now()
        while not stop.is_set():
            open_sends.append(asyncio.create_task(self.send(client)))
            due = started + len(open_sends) / per_second
            # Behind the schedule: no pause, but others get their turn.
            await asyncio.sleep(max(0.0, due - now()))
        await asyncio.gather(*open_sends)

    # -- judgement

    async def check(self, clients: Sequence[Client], *, members: Iterable[str] | None = None) -> None:
        """The verdict on all clients, who were connected all the time, then the audit. members: who must be one in the
        end; by default what the changes say."""
        await fence(self.api, clients)
        faults = [fault for client in clients for fault in self.faults_of(client)]
        assert not faults, f"{len(faults)} faults in {self.id}:\n" + "\n".join(faults[:20])
        await self.audit(clients, members=members)

    def faults_of(self, client: Client) -> list[str]:
        chat = {each.message_seq: each.payload for each in client.of(self.id)}
        commands = {each.message_seq: each.payload for each in client.of(self.id, commands=True)}
        faults = self.chat.judge(client.uid, chat, skip=self._own.get(client, ()))
        faults += [f"command: {fault}" for fault in self.commands.judge(client.uid, commands)]
        return faults

    async def audit(self, clients: Sequence[Client], *, members: Iterable[str] | None = None) -> None:
        """What the API lists, what the changes say, and whom a message reaches: all the same."""
        listed = await self.api.members(self.id, kind=self.kind)
        assert len(listed) == len(set(listed)), f"{self.id}: a member is listed twice"
        if members is not None:
            assert set(listed) == set(members)
        if self.chat.changes:
            is_member = self.chat.members()
            candidates = {client.uid for client in clients} | set(listed)
            in_list = set(listed)
            wrong = {uid for uid in candidates if is_member(uid) not in (None, uid in in_list)}
            assert not wrong, f"{self.id}: listed and acknowledged members differ: {sorted(wrong)[:20]}"
        await self._call_roll(clients, set(listed))
        AUDITED.setdefault(self.api.url, {})[ChannelId(self.kind, self.id)] = set(listed)

    async def _call_roll(self, clients: Sequence[Client], listed: set[str]) -> None:
        """A message that is pushed and not stored shows whom delivery takes for a member."""
        roll = unique("roll").encode()
        await self.api.send("roll-keeper", self.id, roll, kind=self.kind, no_persist=True)
        await fence(self.api, clients)
        reached = {client.uid for client in clients if any(each.payload == roll for each in client.received)}
        wrong = reached ^ ({client.uid for client in clients} & listed)
        assert not wrong, f"{self.id}: delivery and list disagree on {sorted(wrong)[:20]}"
        for client in clients:
            client.received = [each for each in client.received if each.payload != roll]


async def unread_seqs(api: Api, uid: str, channel_id: str) -> list[int]:
    """What somebody who was not connected finds as unread, by seq: his join or read position onwards."""
    conversation = (await api.conversations(uid, msg_count=1)).get(channel_id)
    if conversation is None:
        return []
    last = conversation["last_msg_seq"]
    assert last - conversation["readed_to_msg_seq"] == conversation["unread"]
    return list(range(last - conversation["unread"] + 1, last + 1))


async def commands_of(api: Api, uid: str, channel_id: str) -> dict[int, bytes]:
    """The offline commands of one channel, by seq."""
    found = await api.commands(uid)
    return {
        each["message_seq"]: payload_of(each)
        for each in found
        if each["channel_id"].removesuffix("____cmd") == channel_id
    }
