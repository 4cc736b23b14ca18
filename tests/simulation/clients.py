"""Simulated people and back ends: what they do, and exactly what they saw.

A device logs in on any node, sends, receives, confirms, and when its socket closes comes back on another node, pulls
what it missed and sends again what nobody acknowledged, under the same number. A back end changes members, sends and
reads over HTTP on any node; an unknown outcome is tried again elsewhere. All of them live in one loop of their own.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.scenarios.judge import Change, History, Sent
from tests.simulation.checkers import Connected, Post, Push
from wukong.channel.commands import ChannelInfo
from wukong.channel.ids import PERSON, ChannelId, person_id
from wukong.errors import RequestRefused, WukongError
from wukong.protocol.packets import Recvack, Send, Sendack
from wukong.protocol.recv_frame import RecvView
from wukong.service.messages import Twin
from wukong.service.sessions import Login

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import World

SYNC_ONCE = 4
GROUP = 2
CALL_TIMEOUT_S = 12.0
CONNECT_TIMEOUT_S = 12.0
IN_FLIGHT = 8
RECENTS = 1_000
READ_EVERY_S = 0.15


class Unknown(Exception):
    """A request without an answer: it may have been carried out, or be carried out later."""


class NotTaken(Exception):
    """Nobody listened: nothing was and nothing will be carried out."""


async def call(
    world: "World",
    node_id: int,
    work: Callable[["Server"], Coroutine[Any, Any, Any]],
    timeout_s: float = CALL_TIMEOUT_S,
) -> Any:
    """An HTTP request to a node. Raises Unknown, NotTaken, RequestRefused."""
    answer: asyncio.Future[Any] = world.people.create_future()
    scheduler = world.scheduler
    server = world.servers.get(node_id)
    delay_s = world.rng.uniform(0.0002, 0.002)

    def tell(result: Any, error: Exception | None) -> None:
        if not answer.done():
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def back(result: Any, error: Exception | None) -> None:
        scheduler.at(scheduler.now + delay_s, tell, result, error, loop=world.people)

    if server is None or not server.is_up:
        back(None, NotTaken())
        return await answer
    world.call_count += 1
    number = world.call_count
    server.calls[number] = lambda: back(None, Unknown())

    def begin() -> None:
        if server.state != "serving":
            server.calls.pop(number, None)
            back(None, NotTaken())
            return
        task: asyncio.Task[Any] = server.loop.create_task(work(server), name="request")
        task.add_done_callback(ended)

    def ended(task: "asyncio.Task[Any]") -> None:
        server.calls.pop(number, None)
        if task.cancelled():
            back(None, Unknown())
            return
        error = task.exception()
        if isinstance(error, RequestRefused):
            back(None, error)
        elif isinstance(error, WukongError):
            back(None, Unknown(str(error)))
        elif error is not None:
            server.loop.report(f"a request raised {error!r}", error)
            back(None, Unknown(repr(error)))
        else:
            back(task.result(), None)

    scheduler.at(scheduler.now + delay_s, begin, loop=server.loop)
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        raise Unknown("no answer in time") from None


class Wire:
    """One socket: a stream each way, until somebody closes it or a side dies."""

    def __init__(self, world: "World", server: "Server", device: "Device", login: Login) -> None:
        world.wire_count += 1
        self.serial = world.wire_count
        self.world = world
        self.server = server
        self.device = device
        self.login = login
        self.client_open = True
        self._there_at = 0.0
        self._back_at = 0.0
        world.wires[self.serial] = self

    def to_server(self, what: str, value: Any = None) -> None:
        scheduler = self.world.scheduler
        at = self._there_at = max(scheduler.now + self.world.rng.uniform(0.0002, 0.003), self._there_at + 1e-7)
        scheduler.at(at, self._there, what, value, loop=self.server.loop)

    def _there(self, what: str, value: Any) -> None:
        gateway = self.server.gateway
        if what == "connect":
            gateway.accept(self, self.login)
        elif what == "closed":
            gateway.client_closed(self)
        else:
            gateway.received(self, what, value)

    def to_client(self, what: str, value: Any = None) -> None:
        scheduler = self.world.scheduler
        at = self._back_at = max(scheduler.now + self.world.rng.uniform(0.0002, 0.003), self._back_at + 1e-7)
        scheduler.at(at, self._back, what, value, loop=self.world.people)

    def _back(self, what: str, value: Any) -> None:
        if self.client_open:
            if what == "closed":
                self.client_open = False
                self.world.wires.pop(self.serial, None)
            self.device.received(self, what, value)

    def lost(self) -> None:
        """In the people's loop: the client finds its socket dead."""
        self._back("closed", None)

    def close(self, *, told: bool) -> None:
        """The client goes. told False: its network does, and the server finds out late."""
        if self.client_open:
            self.client_open = False
            self.world.wires.pop(self.serial, None)
            if told:
                self.to_server("closed")
            else:
                late = self.world.scheduler.now + self.world.rng.uniform(0.2, 4.0)
                self.world.notice_by(late)
                self.world.scheduler.at(late, self._there, "closed", None, loop=self.server.loop)


class Device:
    """One device of one user. posts: what it sent and nobody answered yet, in order."""

    def __init__(self, world: "World", uid: str, flag: int) -> None:
        self.world = world
        self.rng = world.rng
        self.uid = uid
        self.flag = flag
        self.device_id = f"{uid}-{flag}"
        self.wire: Wire | None = None
        self.seen: Connected | None = None
        self.connections: list[Connected] = []
        self.posts: list[Post] = []
        self.synced = False
        self.busy = False
        self.wants_online = True
        self._waiting: dict[int, Post] = {}
        self._client_seq = 0
        self._event: asyncio.Event | None = None
        self._answer: asyncio.Future[Any] | None = None

    def start(self) -> None:
        self._event = asyncio.Event()
        self.world.people.create_task(self._live(), name=self.device_id)
        self.world.people.create_task(self._write(), name=f"{self.device_id} writes")

    @property
    def is_settled(self) -> bool:
        """Connected, with everything it missed, and nothing unanswered."""
        return self.seen is not None and self.synced and not self.posts

    # -- connecting

    async def _live(self) -> None:
        world, rng = self.world, self.rng
        assert self._event is not None
        await asyncio.sleep(rng.uniform(0, 1.0))
        while True:
            if not self.wants_online:
                await asyncio.sleep(0.1)
                continue
            if not await self._connect(world.any_node()):
                await asyncio.sleep(rng.uniform(0.05, 0.5))
                continue
            while self.seen is not None and not await self._pull():
                await asyncio.sleep(rng.uniform(0.05, 0.3))
            if self.seen is not None:
                self.synced = True
            while self.seen is not None:
                self._event.clear()
                await self._event.wait()
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0.01, 0.4), rng.uniform(0.1, 2.0))))

    async def _connect(self, node_id: int) -> bool:
        world = self.world
        server = world.servers.get(node_id)
        if server is None or not server.is_up:
            return False
        if self.rng.random() < 0.15:
            # Another device of this kind: the old one's session is not replaced by its login.
            world.device_count += 1
            self.device_id = f"{self.uid}-{self.flag}-{world.device_count}"
        login = Login(self.uid, self.flag, self.device_id, "", 5, False, ("198.51.100.4", 50122))
        self._answer = world.people.create_future()
        wire = self.wire = Wire(world, server, self, login)
        pending = Connected(self.uid, node_id, 0)
        self._pending = pending
        wire.to_server("connect")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                taken = await self._answer
        except TimeoutError:
            taken = None
        if taken is None:
            wire.close(told=True)
            if self.wire is wire:
                self.wire = None
            return False
        if self.wire is not wire:
            return False
        for post in self.posts:
            self._put(post)
        return True

    async def _pull(self) -> bool:
        """What a client asks for when it comes back: conversations with messages above what it has, and commands."""
        world, uid = self.world, self.uid
        known = {name: seq for name, seq in world.known[uid].items() if seq}
        got = world.got[uid]
        try:
            shapes = await call(
                world,
                world.any_node(),
                lambda server: server.use_cases.conversations.sync(uid, msg_count=RECENTS, last_seqs=known),
            )
            for shape in shapes:
                name = world.channel_name(shape.channel_id, shape.channel_type, uid)
                for message in shape.recents:
                    got[name, False].add(message.message_seq)
                    world.saw(name, False, message.message_seq, message.payload, f"{uid} by sync")
            pending = await call(
                world, world.any_node(), lambda server: server.use_cases.command_sync.sync(uid, limit=RECENTS)
            )
            for channel, messages in pending:
                seqs = [message.message_seq for message in messages]
                got[channel.id, True].update(seqs)
                world.commands_by_sync[uid, channel.id].update(seqs)
                for message in messages:
                    world.saw(channel.id, True, message.message_seq, message.payload, f"{uid} by command sync")
            if pending and self.rng.random() < 0.8:
                await call(world, world.any_node(), lambda server: server.use_cases.command_sync.acknowledge(uid))
        except (Unknown, NotTaken):
            return False
        world.counts["pull"] += 1
        return True

    # -- what the server says

    def received(self, wire: Wire, what: str, value: Any) -> None:
        if wire is not self.wire:
            return
        world = self.world
        now = world.stamp()
        if what == "connack":
            number, incarnation = value
            seen = self.seen = self._pending
            seen.number, seen.incarnation, seen.opened = number, incarnation, now
            self.connections.append(seen)
            self.synced = False
            world.counts["login"] += 1
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(True)
        elif what == "recv":
            self._recv(wire, value, now)
        elif what == "sendack":
            self._sendack(value, now)
        elif what == "refused":
            world.violations.blame("faultless", f"{self.uid} was refused with reason {value}")
        elif what == "closed":
            self._closed(now)

    def _closed(self, now: float) -> None:
        self.wire = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        if self.seen is not None:
            self.seen.closed = now
            self.seen = None
        self.synced = False
        self._waiting.clear()
        assert self._event is not None
        self._event.set()

    def leave(self, *, told: bool) -> None:
        """The app closes its socket, or its network goes."""
        if self.wire is not None:
            self.wire.close(told=told)
            self._closed(self.world.stamp())

    def _recv(self, wire: Wire, view: RecvView, now: float) -> None:
        world, seen = self.world, self.seen
        assert seen is not None
        message = view.message
        name = world.channel_name(view.channel_id, view.channel_type, self.uid)
        is_cmd = bool(view.flags & SYNC_ONCE)
        push = Push(name, is_cmd, message.message_seq, message.message_id, message.payload, now)
        seen.pushes.append(push)
        world.trace("push", seen.node, seen.number, message.message_seq)
        world.counts["push"] += 1
        world.got[self.uid][name, is_cmd].add(message.message_seq)
        world.saw(name, is_cmd, message.message_seq, message.payload, f"{self.uid} pushed")
        if self.rng.random() < 0.97:
            seen.acknowledged.setdefault(message.message_id, now)
            wire.to_server("recvack", Recvack(view.flags, message.message_id, message.message_seq))

    # -- sending

    async def _write(self) -> None:
        world, rng = self.world, self.rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / world.options.write_every_s))
            if world.gate_closed or len(self.posts) >= IN_FLIGHT or not self.wants_online:
                continue
            for _ in range(rng.choice((1, 1, 1, 3))):
                self._say()

    def _say(self) -> None:
        world, rng = self.world, self.rng
        if rng.random() < 0.2:
            peer = rng.choice([uid for uid in world.uids if uid != self.uid])
            name = person_id(self.uid, peer)
            world.person(name)
        else:
            name = rng.choice(world.groups)
        serial = world.next_serial()
        post = Post(name, False, self.uid, f"{name}|{serial}".encode(), f"{self.device_id}#{serial}", world.stamp())
        self.posts.append(post)
        world.posts.append(post)
        if self.seen is not None:
            self._put(post)

    def _put(self, post: Post) -> None:
        assert self.wire is not None and self.seen is not None
        self._client_seq += 1
        self._waiting[self._client_seq] = post
        self.seen.own.add(post.payload)
        shown, kind = post.channel, GROUP
        if "@" in post.channel:
            first, _, second = post.channel.partition("@")
            shown, kind = (second if first == self.uid else first), PERSON
        self.wire.to_server("send", Send(0, 0, self._client_seq, post.client_msg_no, shown, kind, payload=post.payload))

    def _sendack(self, ack: Sendack, now: float) -> None:
        post = self._waiting.pop(ack.client_seq, None)
        if post is None or post not in self.posts:
            return
        self.posts.remove(post)
        self.world.answered(post, ack.reason_code, ack.message_seq, ack.message_id, now)


class Backend:
    """One caller of the HTTP API. busy: a request of it is not answered yet."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.rng = world.rng
        self.number = number
        self.busy = False

    def start(self) -> None:
        self.world.people.create_task(self._work(), name=f"backend {self.number}")

    async def _work(self) -> None:
        world, rng = self.world, self.rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / world.options.backend_every_s))
            if world.gate_closed:
                continue
            self.busy = True
            try:
                await self.act()
            finally:
                self.busy = False

    async def act(self) -> None:
        rng = self.rng
        actions = (
            self.add,
            self.remove,
            self.reset,
            self.clear,
            self.send,
            self.command,
            self.read,
            self.newest,
            self.found,
            self.ban,
        )
        await rng.choices(actions, (20, 10, 5, 1, 14, 12, 16, 12, 5, 7))[0]()

    # -- members

    async def change(
        self,
        name: str,
        joins: Callable[[str], bool | None],
        work: Callable[["Server"], Coroutine[Any, Any, Any]],
    ) -> None:
        """Try until it is answered."""
        world, rng = self.world, self.rng
        history = world.bans if name in world.uids else world.history(name)
        while True:
            change = Change(joins, world.stamp())
            history.changes.append(change)
            try:
                await call(world, world.any_node(), work)
                change.ok = world.stamp()
                world.hot = name
                world.counts["change answered"] += 1
                return
            except NotTaken:
                history.changes.remove(change)
            except Unknown:
                world.counts["change unknown"] += 1
            await asyncio.sleep(rng.uniform(0.02, 0.4))

    def _some(self, most: int) -> list[str]:
        return self.rng.sample(self.world.uids, self.rng.randint(1, most))

    async def add(self) -> None:
        name, uids = self.rng.choice(self.world.groups), self._some(3)
        channel = ChannelId(GROUP, name)
        listed = frozenset(uids)
        await self.change(
            name,
            lambda uid: True if uid in listed else None,
            lambda server: server.use_cases.channels.add_members(channel, uids, reset=False),
        )
        if self.rng.random() < 0.6:
            # The case the whole server is about: added, and at once a message.
            await self.send(name)

    async def remove(self) -> None:
        name, uids = self.rng.choice(self.world.groups), self._some(2)
        channel = ChannelId(GROUP, name)
        listed = frozenset(uids)
        await self.change(
            name,
            lambda uid: False if uid in listed else None,
            lambda server: server.use_cases.channels.remove_members(channel, uids),
        )
        if self.rng.random() < 0.4:
            await self.send(name)

    async def reset(self) -> None:
        name, uids = self.rng.choice(self.world.groups), self._some(len(self.world.uids))
        channel = ChannelId(GROUP, name)
        listed = frozenset(uids)
        await self.change(
            name,
            lambda uid: uid in listed,
            lambda server: server.use_cases.channels.add_members(channel, uids, reset=True),
        )

    async def clear(self) -> None:
        name = self.rng.choice(self.world.groups)
        channel = ChannelId(GROUP, name)
        await self.change(name, lambda uid: False, lambda server: server.use_cases.channels.remove_all_members(channel))

    async def ban(self) -> None:
        """Forbid somebody to send, anywhere, or allow it again: a fact that every slot has a copy of."""
        uid, banned = self.world.bannable, self.rng.random() < 0.4
        await self.change(
            uid,
            lambda each: banned if each == uid else None,
            lambda server: server.use_cases.channels.put_info(ChannelId(PERSON, uid), ChannelInfo(send_ban=banned)),
        )

    async def found(self) -> None:
        """A new group, its members, and its first message at once."""
        world = self.world
        name = world.new_group()
        channel = ChannelId(GROUP, name)
        uids = self._some(4)
        listed = frozenset(uids)
        await self.change(
            name,
            lambda uid: True if uid in listed else None,
            lambda server: server.use_cases.channels.add_members(channel, uids, reset=False),
        )
        await self.send(name)

    # -- messages

    async def command(self) -> None:
        await self.send(is_cmd=True)

    async def send(self, name: str = "", *, is_cmd: bool = False) -> None:
        world, rng = self.world, self.rng
        name = name or rng.choice(world.groups)
        serial = world.next_serial()
        sender = rng.choice([uid for uid in world.uids if uid != world.bannable])
        payload, number = f"{name}|{serial}".encode(), f"api-{serial}"
        post = Post(name, is_cmd, sender, payload, number, world.stamp(), trusted=True)
        world.posts.append(post)
        while True:
            try:
                sent = await call(
                    world,
                    world.any_node(),
                    lambda server: server.use_cases.messages.send(
                        channel_id=name,
                        channel_type=GROUP,
                        from_uid=sender,
                        payload=payload,
                        flags=SYNC_ONCE if is_cmd else 0,
                        client_msg_no=number,
                    ),
                )
                world.answered(post, 1, sent.message_seq, sent.message_id, world.stamp())
                return
            except RequestRefused as refused:
                world.violations.blame("faultless", f"a send of the back end was refused: {refused}")
                return
            except (Unknown, NotTaken):
                world.counts["send tried again"] += 1
            await asyncio.sleep(rng.uniform(0.02, 0.4))

    # -- reads

    def _interesting(self) -> str:
        """Often the group in which something has just changed: only there an old answer shows."""
        world = self.world
        return world.hot if world.hot in world.groups and self.rng.random() < 0.6 else self.rng.choice(world.groups)

    async def read(self) -> None:
        world = self.world
        name = self._interesting()
        began = world.stamp()
        try:
            uids, _ = await call(
                world,
                world.any_node(),
                lambda server: server.use_cases.channels.members(ChannelId(GROUP, name), cursor="", limit=1000),
            )
        except (Unknown, NotTaken):
            return
        world.counts["read"] += 1
        world.reads.append((name, set(uids), began, world.stamp()))

    async def newest(self) -> None:
        world = self.world
        name = self._interesting()
        is_cmd = self.rng.random() < 0.3
        began = world.stamp()
        must = world.acknowledged_seq[name, is_cmd]
        try:
            seq = await call(
                world,
                world.any_node(),
                lambda server: server.use_cases.messages.last_seq(Twin(ChannelId(GROUP, name), is_cmd)),
            )
        except (Unknown, NotTaken):
            return
        world.counts["read"] += 1
        world.checks_reads.newest(name, must, seq, began)


class Reader(Backend):
    """A caller that only reads, and often."""

    async def _work(self) -> None:
        world, rng = self.world, self.rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / READ_EVERY_S))
            if not world.gate_closed:
                self.busy = True
                try:
                    await rng.choice((self.read, self.newest))()
                finally:
                    self.busy = False


def fresh_histories() -> "defaultdict[str, dict[bool, History]]":
    """name -> the history of its messages and of its commands, with the same changes."""

    def pair() -> dict[bool, History]:
        chat = History()
        return {False: chat, True: History(changes=chat.changes)}

    return defaultdict(pair)


__all__ = ["Backend", "Device", "NotTaken", "Reader", "Sent", "Unknown", "Wire", "call", "fresh_histories"]
