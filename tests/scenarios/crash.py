"""Load, kill -9 in the middle of it, restart, and a judgement on what is there; as often as you like.

The load: clients over TCP, WebSocket and JSON-RPC that send into groups and to each other with many SENDs under way, a
back end that sends as well, and one that changes members. The kill comes with an acknowledgement, the n-th of the
cycle, so it hits a server that is busy. Then every channel is read: what was acknowledged is there under its seq, once;
seqs have no gap; whoever was connected had got a piece without holes; what had no answer is sent again under its
number and then is there once; nobody is online; and the members are those of the acknowledged changes.

    python -m tests.scenarios.crash --cycles 200
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.support.http import NO_ANSWER, Api, open_api, payload_of
from tests.support.server import ServerProcess
from tests.support.wire import GROUP, PERSON, SUCCESS, Client, Kind, Message, Unanswered, fence

GROUPS = 6
SENDERS = 6
FLOATERS = 20
UNDER_WAY = 40
MAX_ACKS = 1_200
SENT_AGAIN = 30
LOAD_TIMEOUT_S = 60.0
KINDS = (Kind.TCP, Kind.WS, Kind.JSON)
BACK_END = "backend"


class Place(NamedTuple):
    """A channel as one of its members names it: to a person the peer."""

    kind: int
    id: str


@dataclass
class Attempt:
    """A message under its number. place: as the sender names it. seq, message_id: of its first acknowledgement."""

    sender: str
    place: Place
    number: str
    payload: bytes
    seq: int = 0
    message_id: int = 0

    @property
    def channel(self) -> Place:
        return channel_of(self.sender, self.place)


@dataclass
class Channel:
    """What is certain about a channel: every stored message by seq, and the seq of every number."""

    stored: dict[int, Attempt] = field(default_factory=dict)
    last_seq: int = 0


@dataclass
class Membership:
    """possible: what the members are instead of `certain` if a change that was not answered has happened."""

    certain: set[str]
    possible: set[str] | None = None


@dataclass
class Figures:
    counts: Counter[str] = field(default_factory=Counter)
    ready_s: list[float] = field(default_factory=list)

    def table(self) -> str:
        rows = [(name, str(count)) for name, count in self.counts.items()]
        if self.ready_s:
            ordered = sorted(self.ready_s)
            rows.append(("ready after restart, middle", f"{ordered[len(ordered) // 2]:.2f} s"))
            rows.append(("ready after restart, longest", f"{ordered[-1]:.2f} s"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>12}" for name, value in rows)


class Soak:
    """Owns the server's life. Created around a server that was never started; `cycle` as often as wanted, `finish`."""

    def __init__(self, server: ServerProcess, rng: random.Random) -> None:
        self.server = server
        self.figures = Figures()
        self._rng = rng
        self._senders = [f"s{number}" for number in range(SENDERS)]
        self._floaters = [f"f{number}" for number in range(FLOATERS)]
        self._groups = [f"g{number}" for number in range(GROUPS)]
        self._members = {group: Membership({BACK_END, *self._senders}) for group in self._groups}
        self._channels: defaultdict[Place, Channel] = defaultdict(Channel)
        self._by_number: dict[str, Attempt] = {}
        self._numbers = 0
        self._clients: dict[str, Client] = {}
        self._base: dict[Place, int] = {}
        self._open: set[str] = set()
        self._recent: list[Attempt] = []
        self._answered: list[Attempt] = []
        self._acks_left = 0
        self._killed_at = 0.0
        self._killed = asyncio.Event()

    async def begin(self) -> None:
        await asyncio.to_thread(self.server.start)
        async with open_api(self.server.http_url) as api:
            for group, membership in self._members.items():
                await api.create(group, membership.certain)

    async def cycle(self) -> None:
        """One life of the server under load, its end, and the judgement in the next life."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            async with open_api(self.server.http_url) as api:
                await self._connect(http)
                await self._load(api)
            await self._restart()
            async with open_api(self.server.http_url) as api:
                await self._check_ghosts(api)
                await self._check_members(api)
                await self._check_history(api)
                self._check_sessions(whole=False)
                await self._connect(http)
                await self._send_again(api)
                await self._check_history(api)
                await fence(api, self._clients.values())
                self._check_sessions(whole=True)
                self._check_attempts()
                for client in self._clients.values():
                    await client.close()
        self.figures.counts["cycles"] += 1

    async def finish(self) -> None:
        """Everything once more from the first seq on; then a clean stop."""
        async with open_api(self.server.http_url) as api:
            for channel in self._channels.values():
                channel.last_seq = 0
            self._recent = list(self._by_number.values())
            await self._check_history(api)
            self._check_attempts()
        assert await asyncio.to_thread(self.server.stop) == 0
        assert self.server.complaints() == []
        self.figures.counts["messages stored"] = sum(len(channel.stored) for channel in self._channels.values())

    # -- life of the server

    async def _restart(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.figures.ready_s.append(self.server.ready_s)

    async def _connect(self, http: aiohttp.ClientSession) -> None:
        self._base = {place: channel.last_seq for place, channel in self._channels.items()}
        clients = [
            Client(uid, KINDS[number % len(KINDS)], device_id=f"device-{uid}")
            for number, uid in enumerate(self._senders)
        ]
        server = self.server
        for client in clients:
            port = server.tcp_port if client.kind is Kind.TCP else server.ws_port
            await client.open("127.0.0.1", port, http)
        self._clients = {client.uid: client for client in clients}

    # -- load

    async def _load(self, api: Api) -> None:
        self._killed.clear()
        # Now and then at once, before anything is warm; mostly in the middle.
        self._acks_left = self._rng.choice((1, 10, self._rng.randint(1, MAX_ACKS), self._rng.randint(1, MAX_ACKS)))
        tasks = [asyncio.create_task(self._keep_sending(client)) for client in self._clients.values()]
        tasks += [asyncio.create_task(self._keep_changing(api, group)) for group in self._groups]
        tasks.append(asyncio.create_task(self._keep_posting(api)))
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            await asyncio.gather(*tasks)
            await asyncio.gather(*(client.closed.wait() for client in self._clients.values()))
        early = [client.uid for client in self._clients.values() if client.closed_at < self._killed_at]
        assert not early, f"the server closed the connections of {early} before it was killed"

    def _acknowledged(self, attempt: Attempt, seq: int, message_id: int) -> None:
        if attempt.seq:
            assert (attempt.seq, attempt.message_id) == (seq, message_id), f"another first answer for {attempt}"
        attempt.seq, attempt.message_id = seq, message_id
        self._settle(attempt)
        self._acks_left -= 1
        if self._acks_left == 0:
            self._killed_at = time.monotonic()
            self.server.kill()
            self._killed.set()

    def _settle(self, attempt: Attempt) -> None:
        if attempt.number in self._open:
            self._open.discard(attempt.number)
            self._answered.append(attempt)
            self.figures.counts["acknowledged"] += 1

    def _attempt(self, sender: str, place: Place) -> Attempt:
        self._numbers += 1
        number = f"n{self._numbers}"
        attempt = Attempt(sender, place, number, f"{number} by {sender} ".encode() + self._rng.randbytes(20))
        self._by_number[number] = attempt
        self._recent.append(attempt)
        self._open.add(number)
        return attempt

    def _place(self, sender: str) -> Place:
        if self._rng.random() < 0.25:
            return Place(PERSON, self._rng.choice([uid for uid in self._senders if uid != sender]))
        return Place(GROUP, self._rng.choice(self._groups))

    async def _keep_sending(self, client: Client) -> None:
        under_way = asyncio.Semaphore(UNDER_WAY)
        sending: set[asyncio.Task[None]] = set()

        async def send() -> None:
            try:
                await self._send(client, self._attempt(client.uid, self._place(client.uid)))
            except Unanswered:
                pass
            finally:
                under_way.release()

        while not self._killed.is_set() and client.is_open:
            await under_way.acquire()
            task = asyncio.create_task(send())
            sending.add(task)
            task.add_done_callback(sending.discard)
            await asyncio.sleep(0)
        await asyncio.gather(*sending)

    async def _send(self, client: Client, attempt: Attempt) -> None:
        place = attempt.place
        ack = await client.send(place.id, attempt.payload, kind=place.kind, client_msg_no=attempt.number)
        assert ack.reason_code == SUCCESS, f"refused with {ack.reason_code}: {attempt}"
        self._acknowledged(attempt, ack.message_seq, ack.message_id)

    async def _keep_posting(self, api: Api) -> None:
        while not self._killed.is_set():
            attempt = self._attempt(BACK_END, Place(GROUP, self._rng.choice(self._groups)))
            try:
                await self._post(api, attempt)
            except NO_ANSWER:
                return

    async def _post(self, api: Api, attempt: Attempt) -> None:
        answer = await api.send(
            BACK_END, attempt.place.id, attempt.payload, kind=attempt.place.kind, client_msg_no=attempt.number
        )
        # The answer has no seq; where the message stands is seen when the channel is read.
        assert attempt.message_id in (0, answer["message_id"]), f"another first answer for {attempt}"
        attempt.message_id = answer["message_id"]
        self._settle(attempt)

    async def _keep_changing(self, api: Api, group: str) -> None:
        membership = self._members[group]
        while not self._killed.is_set():
            some = self._rng.sample(self._floaters, self._rng.randint(1, 4))
            adds = self._rng.random() < 0.5
            membership.possible = membership.certain | set(some) if adds else membership.certain - set(some)
            try:
                await (api.add(group, some) if adds else api.remove(group, some))
            except NO_ANSWER:
                return
            membership.certain, membership.possible = membership.possible, None
            self.figures.counts["member changes"] += 1

    # -- judgement

    async def _check_ghosts(self, api: Api) -> None:
        online = await api.online([*self._senders, *self._floaters])
        assert online == [], f"nobody is connected, but online are {online}"

    async def _check_members(self, api: Api) -> None:
        for group, membership in self._members.items():
            listed = await api.members(group)
            assert len(listed) == len(set(listed))
            members = set(listed)
            assert members in (membership.certain, membership.possible), (
                f"{group}: listed and acknowledged members differ in {sorted(members ^ membership.certain)}"
            )
            membership.certain, membership.possible = members, None

    async def _send_again(self, api: Api) -> None:
        """What had no answer, and some of what had: the number decides, so nothing is doubled."""
        unanswered = [self._by_number[number] for number in sorted(self._open)]
        self.figures.counts["without an answer"] += len(unanswered)
        self.figures.counts["of these stored"] += sum(1 for attempt in unanswered if attempt.seq)
        again = unanswered + self._rng.sample(self._answered, min(SENT_AGAIN, len(self._answered)))
        self.figures.counts["sent again"] += len(again)
        self._rng.shuffle(again)
        self._acks_left = -1
        await asyncio.gather(
            *(
                self._post(api, attempt)
                if attempt.sender == BACK_END
                else self._send(self._clients[attempt.sender], attempt)
                for attempt in again
            )
        )
        assert not self._open

    async def _check_history(self, api: Api) -> None:
        """Read on in every channel that was written to."""
        for place in sorted({attempt.channel for attempt in self._recent}):
            channel = self._channels[place]
            reader, _, peer = place.id.partition("@") if place.kind == PERSON else (self._senders[0], "", place.id)
            for message in await api.history(reader, peer, kind=place.kind, first=channel.last_seq + 1):
                seq = message["message_seq"]
                assert seq == channel.last_seq + 1, f"{place}: seq {seq} follows {channel.last_seq}"
                attempt = self._by_number[message["client_msg_no"]]
                assert attempt.channel == place
                assert payload_of(message) == attempt.payload
                # Stored, but not answered, or answered without a seq: then its place is learned here.
                attempt.seq = attempt.seq or seq
                attempt.message_id = attempt.message_id or message["message_id"]
                assert (attempt.seq, attempt.message_id) == (seq, message["message_id"]), f"{attempt} stands at {seq}"
                channel.stored[seq] = attempt
                channel.last_seq = seq

    def _check_attempts(self) -> None:
        """Every message of this cycle is there, once: under two seqs it would have failed above."""
        for attempt in self._recent:
            assert self._channels[attempt.channel].stored.get(attempt.seq) is attempt, f"acknowledged, lost: {attempt}"
        self._recent = []

    def _check_sessions(self, *, whole: bool) -> None:
        """What each client got while it was connected is a piece of every channel without holes, and it is stored.
        whole: nothing was on its way any more, so it is all that came since it connected."""
        for client in self._clients.values():
            assert client.faults == [], client.faults[:5]
            got: defaultdict[Place, dict[int, Message]] = defaultdict(dict)
            for message in client.received:
                named = Place(message.channel_type, message.channel_id)
                got[channel_of(client.uid, named)][message.message_seq] = message
            for place, channel in self._channels.items():
                if place.kind == PERSON and client.uid not in place.id.split("@"):
                    assert place not in got, f"{client.uid} got messages of {place}"
                    continue
                messages = got[place]
                last = channel.last_seq if whole else max(messages, default=0)
                piece = range(self._base.get(place, 0) + 1, last + 1)
                expected = [seq for seq in piece if channel.stored[seq].sender != client.uid]
                assert sorted(messages) == expected, f"{client.uid} did not get all of {place}"
                for seq, message in messages.items():
                    stored = channel.stored[seq]
                    assert (message.message_id, message.payload) == (stored.message_id, stored.payload)


def channel_of(uid: str, place: Place) -> Place:
    """One name for both sides of a person channel."""
    return Place(PERSON, "@".join(sorted((uid, place.id)))) if place.kind == PERSON else place


async def run(directory: Path, cycles: int, seed: int, report: Callable[[Soak], Any] = lambda soak: None) -> Soak:
    """All cycles, with the last judgement. report: called after each."""
    # Small segments, so that kills also hit where one follows the other.
    server = ServerProcess(directory, {"wukong": {"walSegmentBytes": "1MiB"}})
    soak = Soak(server, random.Random(seed))
    try:
        await soak.begin()
        for _ in range(cycles):
            await soak.cycle()
            report(soak)
        await soak.finish()
    finally:
        server.kill()
    return soak


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a server under load, again and again, and look for losses.")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    started = time.monotonic()

    def report(soak: Soak) -> None:
        count = soak.figures.counts["cycles"]
        if count % 10 == 0:
            print(f"{count} cycles, {soak.figures.counts['acknowledged']} acknowledged", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="wukong-soak-") as name:
        soak = asyncio.run(run(Path(name), options.cycles, options.seed, report))
    print(soak.figures.table())
    print(f"no loss, no double, no gap, no ghost in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
