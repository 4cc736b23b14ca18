"""Whoever can connect, or sits on the wire, against nodes that go on with their work meanwhile."""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.links.world import HOST, SECRET, Node, Peer, Wire, World, answer, eventually
from wukong.links.frames import encode_message, frame, join_messages
from wukong.links.handshake import HandshakeRefused
from wukong.links.kinds import FACTS, FORWARD, RAFT

pytestmark = pytest.mark.timeout(180)


class Traffic:
    """Two honest nodes; every message is answered with the next one."""

    def __init__(self, one: Node, two: Node) -> None:
        self.one = one
        self.two = two
        for node, other in ((one, 2), (two, 1)):
            node.on_event = lambda event, node=node, other=other: self._answer(event, node, other)  # type: ignore[misc]

    def _answer(self, event: tuple[object, ...], node: Node, other: int) -> None:
        if event[:2] == ("received", other):
            assert isinstance(event[4], int)
            node.links.send(other, RAFT, 1, event[4] + 1)

    def start(self) -> None:
        assert self.one.links.send(2, RAFT, 1, 0)

    async def goes_on(self) -> None:
        """Another hundred messages went through, none was lost, added or changed, and no link was."""
        await self.two.got(len(self.two.bodies(1)) + 50, 1)
        bodies = self.two.bodies(1)
        assert bodies == list(range(0, 2 * len(bodies), 2))
        for node, other in ((self.one, 2), (self.two, 1)):
            assert node.events.count(("connected", other)) == 1
            assert ("disconnected", other) not in node.events


@pytest.fixture
async def traffic(world: World) -> AsyncIterator[Traffic]:
    made = Traffic(*await world.pair(half_open_limit=32, handshake_timeout_ms=300))
    made.start()
    yield made
    await made.goes_on()
    # Stops it, so that the other end of the test is quiet.
    made.two.on_event = made.one.on_event = lambda event: None


def seeded() -> random.Random:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    return random.Random(seed)


# --- who has no secret ----------------------------------------------------------------------------------------------


async def test_random_bytes_are_counted_and_closed(world: World, traffic: Traffic) -> None:
    rng = seeded()
    counters = traffic.one.links.counters
    before = counters.accepted
    for _ in range(200):
        peer = await world.bare(traffic.one.port)
        data = rng.randbytes(rng.choice((1, 4, 5, 50, 1_000, 100_000)))
        if rng.random() < 0.5:  # a length that is believed
            data = frame(rng.choice((b"", b"WKIL")) + data[:100])
        for _ in range(rng.randrange(1, 4)):
            peer.writer.write(data)
            await asyncio.sleep(0)
        peer.finish()
        await peer.is_closed()
    assert counters.accepted == before + 200
    assert counters.oversized > 10
    assert counters.refused_malformed > 10
    assert counters.incoming_up == 1


@pytest.mark.parametrize("length", [129, 1 << 20, 0x47455420, 0xFFFFFFFF])
async def test_a_length_over_the_handshakes_limit_is_refused_at_once(
    world: World, traffic: Traffic, length: int
) -> None:
    peer = await world.bare(traffic.one.port)
    peer.writer.write(length.to_bytes(4, "big"))
    await peer.is_closed()
    assert traffic.one.links.counters.oversized == 1


async def test_a_handshake_cut_off_anywhere_leaves_nothing(world: World, traffic: Traffic) -> None:
    links = traffic.one.links
    hello = world.hello(node=2, target=1)
    for end in range(len(hello)):
        peer = await world.bare(traffic.one.port)
        peer.writer.write(hello[:end])
        await asyncio.sleep(0)
        peer.close()
    await eventually(lambda: len(links._connections) == 2)
    assert len(links._half_open) == 0


async def test_a_slow_handshake_is_closed_however_it_trickles(world: World, traffic: Traffic) -> None:
    peer = await world.bare(traffic.one.port)
    hello = world.hello(node=2, target=1)

    async def trickle() -> None:
        with suppress(ConnectionError):
            for byte in hello * 100:
                peer.writer.write(bytes([byte]))
                await asyncio.sleep(0.03)

    trickling = asyncio.create_task(trickle())
    await peer.is_closed()
    trickling.cancel()
    assert traffic.one.links.counters.handshake_timeouts == 1


async def test_a_flood_of_half_open_connections_keeps_no_honest_node_out(world: World, traffic: Traffic) -> None:
    one = traffic.one
    flooding = True

    async def flood() -> None:
        peers: list[Peer] = []
        while flooding:
            with suppress(OSError):
                peers.append(await world.bare(one.port))
                if len(peers) % 2:
                    peers[-1].writer.write(world.hello(node=2, target=1))
            if len(peers) > 100:
                peers.pop(0).close()

    floods = [asyncio.create_task(flood()) for _ in range(4)]
    counters = one.links.counters
    await eventually(lambda: counters.half_open_evicted > 100)
    assert len(one.links._half_open) <= 32
    three = await world.node(3)
    three.links.set_peers({1: (HOST, one.port)})
    one.links.set_peers({2: (HOST, traffic.two.port), 3: (HOST, three.port)})
    await three.saw("connected", 1)
    assert three.links.send(1, FORWARD, 1, 0)
    await one.got(1, 3)
    await traffic.goes_on()
    flooding = False
    await asyncio.gather(*floods)
    assert len(world.peers) > 200


async def test_of_too_many_half_open_connections_the_oldest_goes(world: World) -> None:
    one = await world.node(1, half_open_limit=8, handshake_timeout_ms=600_000)
    idle = []
    for count in range(1, 9):
        idle.append(await world.bare(one.port))
        await eventually(lambda count=count: len(one.links._half_open) == count)  # type: ignore[misc]
    one.links.set_peers({3: (HOST, 1)})
    three = await world.node(3)
    three.links.set_peers({1: (HOST, one.port)})
    await three.saw("connected", 1)
    await idle[0].is_closed()
    assert one.links.counters.half_open_evicted == 1
    assert three.links.counters.dials == 1
    # What is proven does not count.
    await eventually(lambda: len(one.links._half_open) == 7)


async def test_a_flood_is_not_logged_line_by_line(
    world: World, traffic: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(200):
        peer = await world.bare(traffic.one.port)
        peer.writer.write(frame(b"GET / HTTP/1.1"))
        await peer.is_closed()
    assert traffic.one.links.counters.refused_malformed == 200
    assert sum("not a link of this server" in line for line in caplog.messages) == 1


async def test_a_wrong_secret_never_gets_in(world: World, traffic: Traffic) -> None:
    for secret in ("", SECRET[:-1], SECRET + " ", SECRET.upper()):
        with pytest.raises(HandshakeRefused, match=r"another cluster\.secret"):
            await world.dial(traffic.one.port, 2, 1, secret)
    assert traffic.one.links.counters.refused_proof == 4
    assert traffic.one.links.counters.incoming_replaced == 0


async def test_a_wrong_version_is_refused_and_said(
    world: World, traffic: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await world.bare(traffic.one.port)
    hello = bytearray(world.hello(node=2, target=1))
    hello[4 + 5] = 7
    peer.writer.write(hello)
    refusal = await peer.read_frame()
    assert refusal[:6] == b"WKIL\x05\x01"
    await peer.is_closed()
    assert traffic.one.links.counters.refused_version == 1
    assert "a node speaks link version 7, this node 1" in caplog.text


async def test_a_wrong_version_is_said_by_the_dialer_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one = await world.node(1)

    async def newer(peer: Peer) -> None:
        await peer.read_frame()
        peer.writer.write(frame(b"WKIL\x05\x07\x02"))
        await peer.is_closed()

    one.links.set_peers({2: (HOST, await world.serve(newer))})
    await eventually(lambda: one.links.counters.refused_by_peer >= 1)
    assert "link to node 2 is refused: peer speaks link version 7, this node 1" in caplog.text


async def test_a_listener_without_the_secret_hears_nothing(world: World) -> None:
    one = await world.node(1)
    one.links.set_facts({"disk": 1})
    heard: list[bytes] = []

    async def impostor(peer: Peer) -> None:
        with suppress(HandshakeRefused):
            await answer(peer, 2, "guess of an impostor")
        # Or it skips the proof, and claims success with what it has.
        peer.writer.write(frame(b"WKIL\x04\x01" + bytes(32)))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            heard.append(await peer.read_frame())

    one.links.set_peers({2: (HOST, await world.serve(impostor))})
    await eventually(lambda: one.links.counters.dials_failed >= 3)
    assert one.links.counters.refused_proof >= 3
    assert one.events == heard == []
    assert not one.links.send(2, RAFT, 1, {})


async def test_a_listener_that_floods_the_dialer_is_closed(world: World, traffic: Traffic) -> None:
    one = traffic.one

    async def flood(peer: Peer) -> None:
        await peer.read_frame()
        with suppress(ConnectionError):
            while not peer.reader.at_eof():
                peer.writer.write(b"\xff" * 65_536)
                await peer.writer.drain()

    one.links.set_peers({2: (HOST, traffic.two.port), 4: (HOST, await world.serve(flood))})
    await eventually(lambda: one.links.counters.oversized >= 3)
    assert ("connected", 4) not in one.events


# --- who sits on the wire -------------------------------------------------------------------------------------------


async def wired(world: World, **options: int) -> tuple[Node, Node, Wire]:
    """Node 1 dials node 2 through a wire and sends one message on every new link."""
    one, two = await world.node(1, **options), await world.node(2, **options)
    wire = await Wire.open(world, two.port)
    one.links.set_facts({"disk": 1})
    one.on_event = lambda event: one.links.send(2, FORWARD, 1, b"pay 100") if event[0] == "connected" else None
    two.links.set_peers({1: (HOST, one.port)})
    return one, two, wire


@pytest.mark.parametrize("from_dialer", [True, False], ids=["dialer", "listener"])
async def test_a_stream_with_a_byte_changed_anywhere_brings_nothing_but_the_truth(
    world: World, from_dialer: bool
) -> None:
    one, two, wire = await wired(
        world, ping_ms=20, silence_ms=100, handshake_timeout_ms=100, slowest_bytes_per_s=1 << 30
    )
    # Each connection has one more byte untouched than the one before.
    changed: set[int] = set()

    def change(number: int, dialer: bool, offset: int, data: bytes) -> bytes:
        place = number - offset
        if dialer is not from_dialer or not 0 <= place < len(data):
            return data
        changed.add(number)
        return data[:place] + bytes([data[place] ^ (1 << number % 8)]) + data[place + 1 :]

    wire.change = change
    one.links.set_peers({2: (HOST, wire.port)})
    # Handshake, facts and message from the one; handshake and the first ping from the other.
    count = 47 + 42 + 4 + 16 + 25 if from_dialer else 45 + 42 + 21
    await eventually(lambda: len(changed) >= count)
    assert set(range(count)) <= changed
    for event in two.events:
        assert event in (
            ("connected", 1),
            ("facts", 1, {"disk": 1}),
            ("received", 1, FORWARD, 1, b"pay 100"),
            ("disconnected", 1),
        )
    both = (one.links.counters, two.links.counters)
    assert sum(each.unauthentic for each in both) >= 10
    assert sum(each.refused_proof for each in both) >= 30
    assert not any(each.malformed for each in both)


async def test_a_recorded_session_brings_nothing_when_it_is_played_again(world: World) -> None:
    one, two, wire = await wired(world)
    one.links.set_peers({2: (HOST, wire.port)})
    await two.got(1)
    recorded = bytes(wire.passed[0][0])
    before = list(two.events)
    for data in (recorded, recorded[:47], recorded[47:]):
        peer = await world.bare(two.port)
        peer.writer.write(data)
        peer.finish()
        await peer.is_closed()
    assert two.links.counters.refused_proof == 1
    assert two.events == before
    # The real one is still there.
    assert one.links.send(2, FORWARD, 1, b"more")
    assert (await two.got(2))[1] == b"more"


async def test_a_frame_played_again_within_its_session_closes_it(world: World) -> None:
    one, two, wire = await wired(world)
    done = False

    def twice(number: int, dialer: bool, offset: int, data: bytes) -> bytes:
        nonlocal done
        if dialer and offset >= 47 + 42 and not done:
            done = True
            return data + data
        return data

    wire.change = twice
    one.links.set_peers({2: (HOST, wire.port)})
    await eventually(lambda: two.links.counters.unauthentic == 1)
    await one.saw("disconnected", 2)
    assert two.bodies().count(b"pay 100") <= 2  # one per link
    await one.saw("connected", 2, times=2)


async def test_frames_that_change_places_or_are_left_out_close_the_link(world: World) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, 1)})
    for rounds, order in enumerate(((1, 0), (0, 2, 1), (1,), (0, 0)), 1):
        peer = await world.dial(one.port, 2, 1)
        frames = [peer.sealed((RAFT, 1, number)) for number in range(3)]
        one.events.clear()
        for index in order:
            peer.writer.write(frames[index])
        await peer.is_closed()
        assert one.links.counters.unauthentic == rounds
        assert one.bodies() == [0] * (order[0] == 0)


async def test_a_nodes_own_frames_sent_back_to_it_close_the_link(world: World, traffic: Traffic) -> None:
    one = traffic.one
    one.links.set_peers({2: (HOST, traffic.two.port), 3: (HOST, 1)})
    peer = await world.dial(one.port, 3, 1)
    ping = await peer.read_frame()
    peer.writer.write(frame(ping))
    await peer.is_closed()
    assert one.links.counters.unauthentic == 1


async def test_a_node_led_to_itself_does_not_talk_to_itself(world: World) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, one.port)})
    await eventually(lambda: one.links.counters.refused_identity >= 2)
    assert one.events == []


# --- who has the secret and breaks the rules ------------------------------------------------------------------------


async def test_a_peer_that_sends_a_frame_over_the_limit_is_closed(world: World) -> None:
    one = await world.node(1, message_limit_bytes=100_000)
    one.links.set_peers({2: (HOST, 1)})
    peer = await world.dial(one.port, 2, 1)
    peer.send((FORWARD, 1, bytes(99_000)))
    await one.got(1)
    peer.writer.write((100_100).to_bytes(4, "big"))
    await peer.is_closed()
    assert one.links.counters.oversized == 1


async def test_a_frame_that_never_ends_is_not_waited_for(world: World) -> None:
    # As a length changed on the way would have it: bytes go on coming, and fill nothing.
    one = await world.node(1, ping_ms=20, silence_ms=100, slowest_bytes_per_s=1 << 30)
    one.links.set_peers({2: (HOST, 1)})
    peer = await world.dial(one.port, 2, 1)
    peer.writer.write((8 << 20).to_bytes(4, "big"))

    async def trickle() -> None:
        while True:
            peer.writer.write(bytes(30))
            await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    await peer.is_closed()
    trickling.cancel()
    assert one.links.counters.silent == 1


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x91\x92\x01\x02", b"\x91\x93\x01\xff\xc0", b"\x91\x93\x01\x01" + b"\x91" * 50_000]
)
async def test_a_peer_that_sends_nonsense_is_closed(world: World, traffic: Traffic, body: bytes) -> None:
    one = traffic.one
    one.links.set_peers({2: (HOST, traffic.two.port), 3: (HOST, 1)})
    peer = await world.dial(one.port, 3, 1)
    peer.writer.write(b"".join(peer.sealer.seal(body)))
    await peer.is_closed()
    assert one.links.counters.malformed == 1


async def test_a_kind_of_a_later_version_is_dropped_and_counted(world: World) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, 1)})
    peer = await world.dial(one.port, 2, 1)
    peer.send((200, 1, {}), (RAFT, 1, "known"))
    assert await one.got(1) == ["known"]
    assert one.links.counters.unknown_kinds == 1


async def test_a_stranger_may_not_send_large_frames(world: World) -> None:
    one = await world.node(1, facts_limit_bytes=1_000, frame_bytes=1_000)
    one.links.allow_strangers(True)
    peer = await world.dial(one.port, 7, 1)
    peer.send((FACTS, 0, bytes(900)))
    await one.saw("facts", 7, bytes(900))
    peer.writer.write((1_100).to_bytes(4, "big"))
    await peer.is_closed()
    assert one.links.counters.oversized == 1


async def test_a_stranger_that_mixes_facts_and_messages_is_cut_off_at_the_message(world: World) -> None:
    one = await world.node(1)
    one.links.allow_strangers(True)
    peer = await world.dial(one.port, 7, 1)
    peer.send((FACTS, 0, 1), (RAFT, 1, "order"), (FACTS, 0, 2))
    await peer.is_closed()
    assert one.events == [("facts", 7, 1)]
    assert one.links.counters.stranger_violations == 1


async def test_a_listener_may_not_send_messages_on_the_dialers_link(world: World) -> None:
    one = await world.node(1)

    async def talk(peer: Peer) -> None:
        await answer(peer, 2)
        peer.writer.write(b"".join(peer.sealer.seal(join_messages([encode_message(RAFT, 1, "order")]))))
        await peer.is_closed()

    one.links.set_peers({2: (HOST, await world.serve(talk))})
    await one.saw("disconnected", 2)
    assert one.bodies() == []
    assert one.links.counters.stranger_violations >= 1
