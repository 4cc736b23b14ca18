"""Two and more honest nodes."""

import asyncio
import logging

import pytest

from tests.links.world import HOST, SECRET, Node, Peer, Wire, World, answer, eventually
from wukong.errors import ConfigError, ListenError
from wukong.links.kinds import CONTROL, FACTS, FORWARD, RAFT, SNAPSHOT


async def test_a_message_arrives_as_it_was_sent(world: World) -> None:
    one, two = await world.pair()
    body = {"a": [1, -2, 3.5, None, True], b"key": b"\x00\xff", "text": "猴"}
    for kind, group, sent in ((RAFT, 0, body), (FORWARD, 65_535, b"pack"), (SNAPSHOT, 3, {}), (CONTROL, 4, None)):
        assert one.links.send(2, kind, group, sent)
        await two.saw("received", 1, kind, group, sent)
    assert one.bodies() == []


async def test_messages_keep_their_order_in_both_directions(world: World) -> None:
    one, two = await world.pair(frame_bytes=1_000)
    for number in range(3_000):
        assert one.links.send(2, FORWARD, 1, b"%d" % number)
        assert two.links.send(1, FORWARD, 1, b"%d" % number)
        if number % 37 == 0:
            await asyncio.sleep(0)
    expected = [b"%d" % number for number in range(3_000)]
    assert await two.got(3_000) == expected
    assert await one.got(3_000) == expected


async def test_messages_of_one_turn_share_a_frame_up_to_its_limit(world: World) -> None:
    one, two = await world.pair(ping_ms=60_000, silence_ms=180_000)
    frames = one.links.counters.out_frames
    for _ in range(100):
        one.links.send(2, FORWARD, 1, bytes(300))
    await two.got(100)
    assert one.links.counters.out_frames == frames + 1
    for _ in range(100):
        one.links.send(2, FORWARD, 1, bytes(10_000))
    await two.got(200)
    assert one.links.counters.out_frames == frames + 1 + 17  # 6 fit into 64 KiB


async def test_a_body_is_taken_as_it_is_when_sent(world: World) -> None:
    one, two = await world.pair()
    body = {"entries": [1]}
    one.links.send(2, RAFT, 1, body)
    body["entries"].append(2)
    assert await two.got(1) == [{"entries": [1]}]


async def test_a_large_message_arrives_and_a_too_large_one_is_refused_to_the_sender(world: World) -> None:
    one, two = await world.pair(message_limit_bytes=9 << 20)
    large = bytes(range(256)) * (8 << 12)
    assert one.links.send(2, FORWARD, 1, large)
    assert not one.links.send(2, FORWARD, 1, bytes(9 << 20))
    assert one.links.send(2, FORWARD, 1, b"next")
    assert await two.got(2) == [large, b"next"]
    assert one.links.counters.unsent_too_large == 1


async def test_the_largest_message_that_may_be_sent_is_not_too_large_for_the_receiver(world: World) -> None:
    one, two = await world.pair(message_limit_bytes=100_000, facts_limit_bytes=1_000, frame_bytes=500)
    # array, kind, group, and the head of 99,992 bytes
    assert one.links.send(2, FORWARD, 1, bytes(100_000 - 8))
    assert not one.links.send(2, FORWARD, 1, bytes(100_000 - 7))
    assert len((await two.got(1))[0]) == 100_000 - 8
    assert two.links.counters.oversized == 0


async def test_what_msgpack_cannot_carry_is_the_senders_error(world: World) -> None:
    one, two = await world.pair()
    with pytest.raises(TypeError):
        one.links.send(2, RAFT, 1, object())
    assert one.links.send(2, RAFT, 1, {})
    await two.got(1)


async def test_without_a_link_nothing_is_sent(world: World) -> None:
    one = await world.node(1)
    assert not one.links.send(2, RAFT, 1, {})
    assert one.links.counters.unsent_no_link == 1


async def test_facts_arrive_before_everything_else_and_whenever_they_change(world: World) -> None:
    one, two = await world.node(1), await world.node(2)
    one.links.set_facts({"disk": 1})
    one.on_event = lambda event: one.links.send(2, RAFT, 1, "first") if event[0] == "connected" else None
    world.introduce(one, two)
    await two.got(1)
    assert two.events.index(("facts", 1, {"disk": 1})) < two.events.index(("received", 1, RAFT, 1, "first"))
    await two.saw("facts", 1, {"disk": 1}, times=2)
    one.links.set_facts({"disk": 2})
    await two.saw("facts", 1, {"disk": 2}, times=2)


async def test_a_peer_whose_address_nobody_knows_any_more_hears_the_facts_where_it_dials(world: World) -> None:
    one, two = await world.node(1), await world.node(2)
    one.links.set_peers({2: (HOST, 1)})  # nothing is there
    one.links.set_facts({"cluster": 5})
    two.links.set_peers({1: (HOST, one.port)})
    await two.saw("facts", 1, {"cluster": 5})
    one.links.set_facts({"cluster": 6})
    await two.saw("facts", 1, {"cluster": 6})


async def test_too_large_facts_are_refused(world: World) -> None:
    one = await world.node(1)
    with pytest.raises(ValueError, match="over the limit"):
        one.links.set_facts(bytes(70_000))


async def test_a_node_that_comes_later_is_found(world: World) -> None:
    two = await world.node(2)
    await two.links.stop()  # its port is free again, and somebody knows it
    one = await world.node(1)
    one.links.set_peers({2: (HOST, two.port)})
    await eventually(lambda: one.links.counters.dials_failed >= 3)
    again = Node(2, SECRET, {})
    world.nodes.append(again)
    await again.links.listen(HOST, two.port)
    again.links.set_peers({1: (HOST, one.port)})
    await one.saw("connected", 2)
    await again.saw("connected", 1)


async def test_a_lost_link_is_told_once_and_made_again(world: World) -> None:
    one, two = await world.node(1), await world.node(2)
    wire = await Wire.open(world, two.port)
    one.links.set_peers({2: (HOST, wire.port)})
    two.links.set_peers({1: (HOST, one.port)})
    for times in range(1, 4):
        await one.saw("connected", 2, times=times)
        await eventually(lambda: two.links.status()[0].incoming)
        for peer in world.peers:
            peer.close()
        await one.saw("disconnected", 2, times=times)
    await one.saw("connected", 2, times=4)
    told = [event for event in one.events if event[0] in ("connected", "disconnected")]
    assert told == [("connected", 2), ("disconnected", 2)] * 3 + [("connected", 2)]


async def test_a_removed_node_loses_both_directions(world: World) -> None:
    one, two = await world.pair()
    one.links.set_peers({})
    assert not one.links.send(2, RAFT, 1, {})
    await one.saw("disconnected", 2)
    await two.saw("disconnected", 1)
    await eventually(lambda: one.links.counters.refused_stranger >= 2)  # it tries, and is not let in
    assert not two.links.status()[0].incoming
    world.introduce(one, two)
    await one.saw("connected", 2, times=2)
    await two.saw("connected", 1, times=2)


async def test_a_handler_may_remove_the_node_whose_message_it_gets(world: World) -> None:
    one, two = await world.pair()
    two.on_event = lambda event: two.links.set_peers({}) if event[0] == "received" else None
    for number in range(10):
        one.links.send(2, RAFT, 1, number)
    await one.saw("disconnected", 2)
    assert two.bodies() == [0]


async def test_a_node_with_another_address_is_dialed_there(world: World) -> None:
    one, two = await world.pair()
    wire = await Wire.open(world, two.port)
    one.links.set_peers({2: (HOST, wire.port)})
    await one.saw("connected", 2, times=2)
    assert one.events[-2:] == [("disconnected", 2), ("connected", 2)]
    assert len(wire.passed) == 1
    # The same set again changes nothing.
    one.links.set_peers({2: (HOST, wire.port), 1: (HOST, one.port)})
    assert one.links.send(2, RAFT, 1, "here")
    assert await two.got(1) == ["here"]
    assert len(wire.passed) == 1


async def test_a_newer_connection_of_a_node_replaces_the_older_when_its_facts_are_known(world: World) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, 1)})
    old = await world.dial(one.port, 2, 1)
    new = await world.dial(one.port, 2, 1)
    old.send((RAFT, 1, "still there"))
    assert await one.got(1) == ["still there"]
    new.send((FACTS, 0, "the same node"), (RAFT, 1, "new"))
    await old.is_closed()
    assert await one.got(2) == ["still there", "new"]
    assert one.links.counters.incoming_replaced == 1


async def test_a_second_process_with_a_nodes_number_does_not_push_it_out(world: World) -> None:
    one = await world.node(1)
    one.links.set_facts("of node 1")
    one.links.set_peers({2: (HOST, 1)})
    one.is_known = lambda facts: facts == "real"
    real = await world.dial(one.port, 2, 1)
    assert await real.read_messages() == [(FACTS, 0, "of node 1")]
    real.send((FACTS, 0, "real"))
    for times in range(1, 4):
        twin = await world.dial(one.port, 2, 1)
        twin.send((FACTS, 0, "twin"), (RAFT, 1, "of the twin"))
        await twin.is_closed()
        assert one.links.counters.refused_facts == times
    real.send((RAFT, 1, "of the real one"))
    assert await one.got(1) == ["of the real one"]
    assert one.links.counters.incoming_replaced == 0


@pytest.mark.parametrize("said", ["nothing", "a message"])
async def test_a_newcomer_is_not_let_in_before_it_tells_facts_while_its_number_is_in_use(
    world: World, said: str
) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, 1)})
    old = await world.dial(one.port, 2, 1)
    first = await world.dial(one.port, 2, 1)
    if said == "nothing":
        # One of them is held, not more.
        await world.dial(one.port, 2, 1)
    else:
        first.send((RAFT, 1, "order"), (FACTS, 0, "late"))
        await eventually(lambda: one.links.counters.stranger_violations == 1)
    await first.is_closed()
    old.send((RAFT, 1, "here"))
    assert await one.got(1) == ["here"]
    assert one.links.counters.incoming_replaced == 0


async def test_a_newcomer_takes_the_place_of_a_connection_that_ends(world: World) -> None:
    one = await world.node(1)
    one.links.set_peers({2: (HOST, 1)})
    old = await world.dial(one.port, 2, 1)
    new = await world.dial(one.port, 2, 1)
    await eventually(lambda: one.links.counters.incoming_up == 2)
    old.close()
    await eventually(lambda: len(one.links._newcomers) == 0)
    new.send((RAFT, 1, "new"))
    assert await one.got(1) == ["new"]


async def test_an_address_behind_which_somebody_else_has_the_nodes_number_is_left_and_tried_again(
    world: World,
) -> None:
    one = await world.node(1)
    one.is_known = lambda facts: facts == "real"
    told = ["twin", "real"]

    async def talk(peer: Peer) -> None:
        await answer(peer, 2)
        peer.send((FACTS, 0, told.pop(0)))
        await peer.is_closed()

    one.links.set_peers({2: (HOST, await world.serve(talk))})
    await one.saw("connected", 2, times=2)
    await one.saw("facts", 2, "real")
    assert one.links.counters.refused_facts == 1
    assert one.events.count(("disconnected", 2)) == 1


async def test_an_unproven_connection_replaces_nothing(world: World) -> None:
    one, two = await world.pair()
    fake = await world.dial_without_secret(one.port, 2, 1)
    await fake.is_closed()
    two.links.send(1, RAFT, 1, "still here")
    assert await one.got(1) == ["still here"]
    assert one.links.counters.incoming_replaced == 0


async def test_an_idle_link_stays_by_pings_in_both_directions(world: World) -> None:
    one, two = await world.pair(ping_ms=20, silence_ms=200)
    # Far longer than the silence that would have ended it.
    await eventually(lambda: one.links.counters.out_frames > 60 and two.links.counters.out_frames > 60)
    assert one.links.counters.silent == two.links.counters.silent == 0
    assert one.events == [("connected", 2)]


@pytest.mark.parametrize("side", ["dialer", "listener"])
async def test_a_silent_peer_is_given_up(world: World, side: str) -> None:
    one = await world.node(1, ping_ms=20, silence_ms=100)

    async def talk(peer: Peer) -> None:
        await answer(peer, 2)

    one.links.set_peers({2: (HOST, await world.serve(talk) if side == "listener" else 1)})
    if side == "listener":
        await one.saw("disconnected", 2)
    else:
        await (await world.dial(one.port, 2, 1)).is_closed()
    assert one.links.counters.silent >= 1


async def test_a_slow_peer_fills_its_own_queue_and_blocks_nobody(world: World) -> None:
    one, three = await world.node(1, queue_limit_bytes=1 << 20), await world.node(3)

    async def talk(peer: Peer) -> None:
        await answer(peer, 2)
        peer.stop_reading()
        while True:  # it says that it lives, and reads nothing
            peer.send()
            await asyncio.sleep(0.02)

    port = await world.serve(talk)
    one.links.set_peers({2: (HOST, port), 3: (HOST, three.port)})
    three.links.set_peers({1: (HOST, one.port)})
    await one.saw("connected", 2)
    await one.saw("connected", 3)
    sent_bytes = 0
    while one.links.send(2, FORWARD, 1, bytes(100_000)):
        sent_bytes += 100_000
        assert sent_bytes < 200 << 20, "nothing was ever refused"
        await asyncio.sleep(0)
    status = {each.node: each for each in one.links.status()}
    assert (1 << 20) - 110_000 < status[2].queued_bytes <= 1 << 20
    assert status[3].queued_bytes == 0
    assert one.links.counters.unsent_over_limit == 1
    for number in range(100):
        assert one.links.send(3, FORWARD, 1, b"%d" % number)
    assert await three.got(100) == [b"%d" % number for number in range(100)]
    assert not one.links.send(2, FORWARD, 1, bytes(100_000))


async def test_what_waited_for_a_slow_socket_arrives_in_order(world: World) -> None:
    one, two = await world.pair(transport_bytes=1_000, slice_bytes=10_000, frame_bytes=4_000)
    expected = [bytes([number % 251]) * 5_000 for number in range(2_000)]
    for body in expected:
        assert one.links.send(2, FORWARD, 1, body)
    assert await two.got(2_000) == expected


async def test_a_handler_that_raises_hurts_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, two = await world.pair()

    def fail(event: object) -> None:
        raise RuntimeError("broken on purpose")

    two.on_event = fail
    for number in range(10):
        one.links.send(2, RAFT, 1, number)
    assert await two.got(10) == list(range(10))
    assert two.links.counters.handler_errors == 10
    assert caplog.text.count("Traceback") == 1  # a limited rate


async def test_stop_writes_what_is_queued_and_leaves_nothing(world: World) -> None:
    one, two = await world.pair(stop_flush_ms=20_000)
    for number in range(5_000):
        one.links.send(2, FORWARD, 1, number.to_bytes(2, "big") * 500)
    await one.links.stop()
    assert not one.links.send(2, RAFT, 1, {})
    assert [int.from_bytes(body[:2], "big") for body in await two.got(5_000)] == list(range(5_000))
    await one.saw("disconnected", 2)
    await one.links.stop()
    one.links.set_peers({2: (HOST, two.port)})
    assert len(one.links._tasks) == len(one.links._connections) == 0


async def test_stop_does_not_wait_for_ever(world: World) -> None:
    one = await world.node(1, stop_flush_ms=50)
    hold = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await answer(peer, 2)
        peer.stop_reading()
        await hold.wait()

    # One that reads nothing, one whose handshake never ends, one that is not there.
    one.links.set_peers({2: (HOST, await world.serve(talk)), 3: (HOST, await world.serve(lambda peer: hold.wait()))})
    await one.saw("connected", 2)
    while one.links.status()[0].queued_bytes < 1 << 20:
        assert one.links.send(2, FORWARD, 1, bytes(1 << 20))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await one.links.stop()
    hold.set()
    assert len(one.links._tasks) == len(one.links._connections) == 0


async def test_peers_may_be_changed_before_a_dial_has_begun(world: World) -> None:
    one, two = await world.node(1), await world.node(2)
    two.links.set_peers({1: (HOST, one.port)})
    for _ in range(20):
        one.links.set_peers({2: (HOST, two.port)})
        one.links.set_peers({})
    one.links.set_peers({2: (HOST, two.port)})
    await one.saw("connected", 2)
    assert one.links.counters.outgoing_up == 1


# --- without a secret -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
async def test_without_a_secret_only_loopback_is_listened_on(world: World, host: str) -> None:
    node = Node(1, "", {})
    world.nodes.append(node)
    with pytest.raises(ConfigError, match=r"cluster\.secret"):
        await node.links.listen(host, 0)


async def test_without_a_secret_only_loopback_is_dialed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one = await world.node(1, secret="")
    one.links.set_peers({2: ("192.0.2.1", 9)})
    await eventually(lambda: one.links.counters.dials_failed >= 2)
    assert caplog.text.count("cannot reach node 2 at 192.0.2.1:9: not a loopback address; set cluster.secret") == 1


async def test_without_a_secret_nodes_on_loopback_talk(world: World) -> None:
    one, two = await world.node(1, secret=""), await world.node(2, secret="")
    one.links.set_peers({2: ("localhost", two.port)})
    two.links.set_peers({1: (HOST, one.port)})
    await world.settled(one, two)
    one.links.send(2, RAFT, 1, "hello")
    assert await two.got(1) == ["hello"]


async def test_an_address_that_is_taken_is_said_so(world: World) -> None:
    one, other = await world.node(1), Node(2, SECRET, {})
    with pytest.raises(ListenError, match=r"cluster\.addr"):
        await other.links.listen(HOST, one.port)
    await other.links.stop()


# --- strangers ------------------------------------------------------------------------------------------------------


async def test_a_stranger_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, stranger = await world.node(1), await world.node(7)
    stranger.links.set_peers({1: (HOST, one.port)})
    await eventually(lambda: stranger.links.counters.refused_by_peer >= 2)
    assert one.links.counters.refused_stranger >= 2
    assert "node 7 is not known here" in caplog.text
    assert "peer does not know this node" in caplog.text
    assert one.events == stranger.events == []


async def test_a_stranger_that_is_allowed_exchanges_facts(world: World) -> None:
    one, stranger = await world.node(1), await world.node(7)
    one.links.allow_strangers(True)
    one.links.set_facts({"cluster": 5})
    stranger.links.set_facts({"cluster": 0})
    stranger.links.set_peers({1: (HOST, one.port)})
    await one.saw("facts", 7, {"cluster": 0})
    await stranger.saw("facts", 1, {"cluster": 5})
    one.links.set_facts({"cluster": 6})
    await stranger.saw("facts", 1, {"cluster": 6})
    one.links.allow_strangers(False)
    await stranger.saw("disconnected", 1)


async def test_a_stranger_that_sends_anything_else_is_closed(world: World) -> None:
    one, stranger = await world.node(1), await world.node(7)
    one.links.allow_strangers(True)
    stranger.links.set_peers({1: (HOST, one.port)})
    await stranger.saw("connected", 1)
    stranger.links.send(1, RAFT, 1, {})
    await stranger.saw("disconnected", 1)
    assert one.links.counters.stranger_violations == 1
    assert one.events == []


async def test_a_stranger_that_becomes_a_peer_keeps_its_connection(world: World) -> None:
    one, stranger = await world.node(1), await world.node(7)
    one.links.allow_strangers(True)
    stranger.links.set_peers({1: (HOST, one.port)})
    await stranger.saw("connected", 1)
    await eventually(lambda: one.links.counters.incoming_up == 1)
    one.links.set_peers({7: (HOST, stranger.port)})
    one.links.allow_strangers(False)
    big = bytes(1 << 20)  # larger than what a stranger may send
    stranger.links.send(1, FORWARD, 1, big)
    assert await one.got(1) == [big]
    assert stranger.events.count(("disconnected", 1)) == 0


# --- an operator's mistakes ------------------------------------------------------------------------------------------


async def test_another_secret_is_said_on_both_sides(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, two = await world.node(1), await world.node(2, secret="another secret of some length")
    world.introduce(one, two)
    await eventually(lambda: one.links.counters.refused_proof and two.links.counters.refused_proof)
    await eventually(lambda: one.links.counters.refused_by_peer and two.links.counters.refused_by_peer)
    assert "who says to be node 2 has another cluster.secret" in caplog.text
    assert "link to node 1 is refused: peer has another cluster.secret" in caplog.text
    assert one.events == two.events == []


async def test_another_node_at_the_address_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, three = await world.node(1), await world.node(3)
    one.links.set_peers({2: (HOST, three.port)})
    three.links.set_peers({1: (HOST, one.port)})
    await eventually(lambda: one.links.counters.refused_by_peer >= 1)
    assert "who says to be node 1 dialed node 2, this is node 3" in caplog.text
    assert ("connected", 2) not in one.events


async def test_two_nodes_with_one_number_are_noticed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, twin, two = await world.node(1), await world.node(1), await world.node(2)
    two.links.set_peers({1: (HOST, one.port)})
    peer = await world.bare(one.port)
    peer.writer.write(world.hello(node=1, target=1))
    await peer.is_closed()
    assert "another node has this node's number 1" in caplog.text
    assert one.links.counters.refused_identity == 1
    assert twin.events == []
