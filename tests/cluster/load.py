"""Clients of a cluster that is being broken: people who are connected, a back end that changes members and reads lists.

All write what they do and what they are told into the journal of the cycle. Nobody gives up: whoever loses his
connection logs in at another node, and repeats under their numbers the SENDs that have no answer.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp

import wukong.client as sdk
from tests.cluster.record import Attempt, Journal, Read, RoomRecord, Stay, Stored, now
from tests.support.cluster import ClusterProcesses, NodeProcess
from tests.support.http import NO_ANSWER, Api, ApiError, SpreadApi, payload_of
from tests.support.wire import SUCCESS, Client, Kind, LoginRefused, Unanswered

LOGIN_TIMEOUT_S = 4.0
ACK_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 4.0
PAUSE_BETWEEN_LOGINS_S = 0.1
UNDER_WAY = 4
KINDS = (Kind.TCP, Kind.WS, Kind.JSON)
BACK_END = "backend"
# Answers that leave open whether a message was stored.
OPEN_REASONS = {0, 6, 10, 14, 15, 17, 18, 22}


@dataclass
class Tally:
    """counts: of everything that was done; last, longest_s: the latest success and the longest time without one."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    last: float = 0.0
    longest_s: float = 0.0

    def success(self, what: str) -> None:
        self.counts[what] += 1
        at = now()
        if self.last:
            self.longest_s = max(self.longest_s, at - self.last)
        self.last = at


class Load:
    """people: uids that are members of every room and send; floaters: uids that come and go, and only listen.
    apps: one at each node, with the SDK, in the lasting room: they have to get all of it, once and in order.
    lurkers: one on each node, fresh in every cycle, who listen and do not come back when they lose their connection.
    lasting: a room of all cycles."""

    def __init__(
        self, cluster: ClusterProcesses, rng: random.Random, *, people: int = 4, floaters: int = 4, rooms: int = 3
    ) -> None:
        self.cluster = cluster
        self.rng = rng
        self.tally = Tally()
        self.journal = Journal()
        self.rooms: list[RoomRecord] = []
        self.people = [Person(self, f"p{number}", number) for number in range(people)]
        self.floaters = [Person(self, f"f{number}", number + 1) for number in range(floaters)]
        self.apps: list[App] = []
        self.lurkers: list[Person] = []
        self.is_over = asyncio.Event()
        self.lasting = RoomRecord("lasting")
        self._room_count = rooms
        self._numbers = 0
        self._turn = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def everybody(self) -> list["Person"]:
        """Who has to be connected in the end."""
        return [*self.people, *self.floaters]

    @property
    def present(self) -> list["Person"]:
        """Who is connected, or has to be."""
        return [*self.everybody, *(lurker for lurker in self.lurkers if lurker.client is not None)]

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Everybody stays connected as well as he can."""
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self.http:
            self.apps = [App(self, f"app-{node.node_id}", node) for node in self.cluster]
            members = [BACK_END, *(person.uid for person in self.people), *(app.uid for app in self.apps)]
            with self.lasting.history.adding(members):
                await self.api(self.next_node()).create(self.lasting.id, members)
            self._keepers = [asyncio.create_task(app.run()) for app in self.apps]
            for app in self.apps:
                await asyncio.wait_for(app.is_here.wait(), LOGIN_TIMEOUT_S)
            self._keepers += [asyncio.create_task(person.keep_connected()) for person in self.everybody]
            try:
                yield
            finally:
                for task in (*self._keepers, *self._tasks):
                    task.cancel()
                await asyncio.gather(*self._keepers, *self._tasks, return_exceptions=True)
                for person in self.present:
                    if person.client is not None:
                        person.client.abort()

    def api(self, node: NodeProcess) -> Api:
        return Api(node.http_url, self.http, fence_slots=self.cluster.slot_count)

    def api_of_all(self) -> Api:
        """Every call through another node."""
        return SpreadApi([node.http_url for node in self.cluster], self.http, fence_slots=self.cluster.slot_count)

    def next_node(self) -> NodeProcess:
        """Nodes take turns, whether they run or not: a back end does not know."""
        self._turn += 1
        return self.cluster[self._turn % len(self.cluster.nodes) + 1]

    # -- one stretch of load

    async def begin(self, cycle: int) -> None:
        """A fresh journal, fresh rooms, and the load. Nodes must be well."""
        self.journal = Journal()
        self.is_over.clear()
        self.tally.last = 0.0
        self.tally.longest_s = 0.0
        for person in self.everybody:
            person.begin_journal()
        for lurker in self.lurkers:
            if lurker.client is not None:
                await lurker.client.close()
        self.lurkers = [Person(self, f"l{cycle}-{node.node_id}", node.node_id) for node in self.cluster]
        for lurker, node in zip(self.lurkers, self.cluster, strict=True):
            await lurker.log_in_once(node)
        members = [BACK_END, *(person.uid for person in (*self.people, *self.lurkers))]
        self.rooms = [self.journal.room(f"r{cycle}-{number}") for number in range(self._room_count)]
        for room in self.rooms:
            with room.history.adding(members):
                await self.api(self.next_node()).create(room.id, members)
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                *(self._keep_sending(person) for person in self.people),
                *(app.keep_sending() for app in self.apps),
                *(self._keep_changing(room) for room in self.rooms for _ in range(2)),
                *(self._keep_reading(room) for room in self.rooms),
            )
        ]

    async def end(self) -> None:
        """No more load; what is under way is answered or given up."""
        self.is_over.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def attempt(self, sender: str, room: RoomRecord) -> Attempt:
        self._numbers += 1
        number = f"n{self._numbers}"
        made = Attempt(sender, room.id, number, f"{number} by {sender}".encode(), now())
        room.attempts.append(made)
        return made

    def acked(self, attempt: Attempt, message_id: int, seq: int = 0) -> None:
        if attempt.message_id not in (0, message_id):
            self.tally.faults.append(f"two answers: {attempt} and id {message_id} seq {seq}")
        if not attempt.is_acked:
            attempt.acked = now()
        attempt.message_id = message_id
        attempt.seq = attempt.seq or seq
        self.tally.success("acknowledged")

    # -- the load

    async def _keep_sending(self, person: "Person") -> None:
        gate = asyncio.Semaphore(UNDER_WAY)
        async with asyncio.TaskGroup() as group:
            while not self.is_over.is_set():
                await gate.acquire()
                room = self.rng.choice([*self.rooms, self.lasting])
                sending = group.create_task(person.send_until_answered(self.attempt(person.uid, room)))
                sending.add_done_callback(lambda task: gate.release())
                await asyncio.sleep(self.rng.expovariate(30))

    async def _keep_changing(self, room: RoomRecord) -> None:
        """A change, and right behind its Ok a message through another node."""
        uids = [person.uid for person in self.floaters]
        fixed = [BACK_END, *(person.uid for person in (*self.people, *self.lurkers))]
        while not self.is_over.is_set():
            some = self.rng.sample(uids, self.rng.randint(1, 2))
            draw = self.rng.random()
            node = self.next_node()
            api = self.api(node)
            try:
                if draw < 0.48:
                    with room.history.adding(some):
                        change = room.history.changes[-1]
                        await api.add(room.id, some)
                elif draw < 0.92:
                    with room.history.removing(some):
                        change = room.history.changes[-1]
                        await api.remove(room.id, some)
                else:
                    with room.history.resetting([*fixed, *some]):
                        change = room.history.changes[-1]
                        await api.add(room.id, [*fixed, *some], reset=True)
            except aiohttp.ClientConnectorError as error:
                # Nobody heard the call: nothing has changed.
                room.history.changes.remove(change)
                self._unanswered(error)
                await asyncio.sleep(self.rng.expovariate(20))
                continue
            except (*NO_ANSWER, ApiError) as error:
                self._unanswered(error)
                await asyncio.sleep(self.rng.expovariate(20))
                continue
            self.tally.success("changes")
            await self._post(self.attempt(BACK_END, room))
            await asyncio.sleep(self.rng.expovariate(20))

    async def _post(self, attempt: Attempt) -> None:
        api = self.api(self.next_node())
        try:
            answer = await api.send(BACK_END, attempt.channel, attempt.payload, client_msg_no=attempt.number)
        except (*NO_ANSWER, ApiError) as error:
            self._unanswered(error)
        else:
            self.acked(attempt, answer["message_id"])

    async def _keep_reading(self, room: RoomRecord) -> None:
        while not self.is_over.is_set():
            node = self.next_node()
            began = now()
            try:
                members = await self.api(node).members(room.id)
            except (*NO_ANSWER, ApiError) as error:
                self._unanswered(error)
            else:
                room.reads.append(Read(node.node_id, began, now(), frozenset(members)))
                self.tally.success("reads")
            await asyncio.sleep(self.rng.expovariate(20))

    def _unanswered(self, error: BaseException) -> None:
        if isinstance(error, ApiError) and error.status < 500:
            self.tally.faults.append(f"refused: {error}")
        self.tally.counts["unanswered calls"] += 1

    # -- the state afterwards

    async def wait_for_apps(self, timeout_s: float) -> list[str]:
        """Until they have everything that was acknowledged in the lasting room."""
        deadline = now() + timeout_s
        while waiting := [app for app in self.apps if app.last_seq < app.wanted_seq() and app.error is None]:
            if now() > deadline:
                return [f"STUCK: {app.uid} has {app.last_seq} of {app.wanted_seq()}, {app.told()}" for app in waiting]
            await asyncio.sleep(0.05)
        return [fault for app in self.apps for fault in app.faults()]

    async def read_histories(self, rooms: Sequence[RoomRecord]) -> None:
        """What every node shows."""
        for room in rooms:
            room.stored = {
                node.node_id: [
                    Stored(
                        each["message_seq"],
                        each["message_id"],
                        each["client_msg_no"],
                        each["from_uid"],
                        payload_of(each),
                    )
                    for each in await self.api(node).history(BACK_END, room.id)
                ]
                for node in self.cluster
            }
            for node in self.cluster:
                began = now()
                members = await self.api(node).members(room.id)
                room.reads.append(Read(node.node_id, began, now(), frozenset(members)))


class App:
    """A user of the SDK: it reconnects, resends and catches up by itself. Its node is where it connects; it fetches
    over the API of another one."""

    def __init__(self, load: Load, uid: str, node: NodeProcess) -> None:
        self.uid = uid
        self.load = load
        self.node = node
        self.received: list[sdk.Message] = []
        self.error: BaseException | None = None
        self.is_here = asyncio.Event()
        self.client: sdk.Client | None = None

    @property
    def last_seq(self) -> int:
        return self.received[-1].message_seq if self.received else 0

    def wanted_seq(self) -> int:
        """Of the last acknowledged message of somebody else."""
        attempts = self.load.lasting.attempts
        return max((each.seq for each in attempts if each.is_acked and each.sender != self.uid), default=0)

    async def run(self) -> None:
        other = self.load.cluster[self.node.node_id % len(self.load.cluster.nodes) + 1]
        async with sdk.AdminClient(other.http_url, timeout_s=CALL_TIMEOUT_S) as admin:
            self.client = sdk.connect(
                f"127.0.0.1:{self.node.tcp_port}",
                self.uid,
                sync=sdk.HttpSyncProvider(admin, self.uid),
                backoff=sdk.Backoff(base_s=0.1, cap_s=1.0),
                ping_interval_s=3.0,
                connect_timeout_s=LOGIN_TIMEOUT_S,
            )
            try:
                async with self.client as client:
                    self.is_here.set()
                    async for message in client:
                        if message.channel_id == self.load.lasting.id:
                            self.received.append(message)
            except Exception as error:
                self.error = error

    async def keep_sending(self) -> None:
        client = self.client
        assert client is not None
        while not self.load.is_over.is_set() and self.error is None:
            attempt = self.load.attempt(self.uid, self.load.lasting)
            try:
                sent = await client.send(
                    attempt.channel, sdk.ChannelType.GROUP, attempt.payload, client_msg_no=attempt.number, timeout=20
                )
            except sdk.SendTimeout:
                self.load.tally.counts["unanswered sends"] += 1
            except sdk.SendRefused as error:
                self.load.tally.counts[f"sends answered with {error.reason}"] += 1
                if error.reason not in OPEN_REASONS:
                    attempt.refused = True
                    self.load.tally.faults.append(f"refused with {error.reason}: {attempt}")
            else:
                self.load.acked(attempt, sent.message_id, sent.message_seq)
            await asyncio.sleep(self.load.rng.expovariate(8))

    def told(self) -> str:
        return "not begun" if self.client is None else f"{self.client.state}, {self.client.error!r}"

    def faults(self) -> list[str]:
        """What the SDK promises: every message once and in order, and no end of its own."""
        if self.error is not None:
            return [f"{self.uid} ended with {self.error!r}"]
        seqs = [message.message_seq for message in self.received]
        # Its own messages are not pushed to it, but they are known.
        own = {attempt.seq for attempt in self.load.lasting.attempts if attempt.sender == self.uid and attempt.seq}
        missing = set(range(1, self.last_seq + 1)) - set(seqs) - own
        found = [f"MISSED by {self.uid} with the SDK: seqs {sorted(missing)[:5]} of {self.last_seq}"] if missing else []
        if seqs != sorted(set(seqs)):
            found.append(f"{self.uid} with the SDK got a message twice or out of order")
        return found


class Person:
    """A user with one device. client: the connection there is, if any."""

    def __init__(self, load: Load, uid: str, start: int) -> None:
        self.uid = uid
        self.load = load
        self.kind = KINDS[start % len(KINDS)]
        self.client: Client | None = None
        self.stay: Stay | None = None
        self.is_home = asyncio.Event()
        self._next = start
        self._leaving: asyncio.Task[bool] | None = None

    def begin_journal(self) -> None:
        """The connection goes on in the next journal; what it got before does not count there."""
        if self.client is not None and self.stay is not None:
            self.client.received = []
            self.stay = Stay(self.uid, self.stay.node, self.stay.since, self.client.received)
            self.load.journal.stays.append(self.stay)

    async def keep_connected(self) -> None:
        while True:
            await self._log_in()
            assert self.client is not None
            await self.client.closed.wait()
            self._left()
            await asyncio.sleep(PAUSE_BETWEEN_LOGINS_S)

    async def log_in_once(self, node: NodeProcess) -> None:
        """For lurkers. Nodes must be well."""
        for _ in range(50):
            if await self._try(node):
                assert self.client is not None
                leaving = asyncio.create_task(self.client.closed.wait())
                leaving.add_done_callback(lambda task: None if task.cancelled() else self._left())
                self._leaving = leaving
                return
            await asyncio.sleep(PAUSE_BETWEEN_LOGINS_S)
        raise AssertionError(f"node {node.node_id} is well and takes no clients\n{node.log_tail()}")

    async def _log_in(self) -> None:
        while True:
            self._next += 1
            if await self._try(self.load.cluster[self._next % len(self.load.cluster.nodes) + 1]):
                return
            await asyncio.sleep(PAUSE_BETWEEN_LOGINS_S)

    async def _try(self, node: NodeProcess) -> bool:
        client = Client(self.uid, self.kind, device_id=f"device-{self.uid}")
        port = node.tcp_port if self.kind is Kind.TCP else node.ws_port
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                await client.open("127.0.0.1", port, self.load.http)
        except (*NO_ANSWER, LoginRefused, Unanswered, OSError) as error:
            client.abort()
            self.load.tally.counts["logins in vain"] += 1
            if isinstance(error, LoginRefused):
                self.load.tally.counts[f"logins refused with {error.reason}"] += 1
            return False
        self.client = client
        self.stay = Stay(self.uid, node.node_id, now(), client.received)
        self.load.journal.stays.append(self.stay)
        self.load.tally.counts["logins"] += 1
        self.is_home.set()
        return True

    def _left(self) -> None:
        client, self.client, self.stay = self.client, None, None
        self.is_home.clear()
        assert client is not None
        self.load.tally.faults += [f"{self.uid} ({self.kind}): {fault}" for fault in client.faults]
        if client.kicked is not None and not client.leaving:
            self.load.tally.faults.append(f"{self.uid} was kicked for good by {client.kicked}")

    async def send_until_answered(self, attempt: Attempt) -> None:
        """Again under the same number as long as the load lasts; a connection without answers is left."""
        first = True
        while first or not self.load.is_over.is_set():
            first = False
            client = self.client
            if client is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self.is_home.wait()
                continue
            answer = client.send(attempt.channel, attempt.payload, client_msg_no=attempt.number)
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    ack = await asyncio.shield(answer)
            except TimeoutError:
                self.load.tally.counts["connections without answers"] += 1
                client.abort()
                continue
            except Unanswered:
                # An answer that is there already is no pause for anybody.
                await asyncio.sleep(0.02)
                continue
            if ack.reason_code == SUCCESS:
                self.load.acked(attempt, ack.message_id, ack.message_seq)
                return
            self.load.tally.counts[f"sends answered with {ack.reason_code}"] += 1
            if ack.reason_code not in OPEN_REASONS:
                attempt.refused = True
                self.load.tally.faults.append(f"refused with {ack.reason_code}: {attempt}")
                return
            await asyncio.sleep(0.1)
        self.load.tally.counts["unanswered sends"] += 1
