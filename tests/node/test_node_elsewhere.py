"""Streams of a node whose slots are led by others: forwarding, changes of leaders, fences, snapshots."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.node.shared_log import SharedLog
from wukong.channel import copies
from wukong.channel.commands import (
    Append,
    NodeGone,
    OpenSession,
    PutChannel,
    PutSettings,
    Reply,
    encode_command,
    encode_pack,
)
from wukong.channel.effects import FanOut, SessionStarted
from wukong.channel.ids import ChannelId
from wukong.channel.presence import sessions_of
from wukong.channel.state import Settings, encode
from wukong.errors import Unavailable
from wukong.node.node import APPLIED_KEY, Node
from wukong.store.generations import slot_prefix
from wukong.store.overlay import prefix_end

GROUP = ChannelId(2, "g")


class StepClock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


@pytest.fixture
async def cluster() -> AsyncIterator[SharedLog]:
    log = SharedLog(StepClock())
    log.elect(1)
    await log.go_live()
    yield log
    log.shut()


def message(number: int) -> Append:
    return Append(GROUP, False, "u", b"%d" % number, f"no{number}", trusted=True)


async def send(node: Node, number: int) -> Reply:
    return await asyncio.wait_for(node.execute(node.slot(GROUP.id), message(number)), 10)


def payloads(log: SharedLog, node: int) -> list[bytes]:
    return [effect.message.payload for effect in log.effects[node] if isinstance(effect, FanOut)]


async def settled(log: SharedLog) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_command_of_a_follower_is_applied_on_every_node_and_answered_there(cluster: SharedLog) -> None:
    reply = await send(cluster.nodes[2], 1)
    assert (reply.reason, reply.message_seq) == (1, 1)
    await settled(cluster)
    assert [payloads(cluster, node) for node in (1, 2, 3)] == [[b"1"]] * 3


async def test_packs_of_several_nodes_go_into_one_entry(cluster: SharedLog) -> None:
    before = len(cluster.entries)
    await asyncio.gather(*(send(cluster.nodes[node], node) for node in (1, 2, 3)))
    assert len(cluster.entries) - before < 3
    assert sorted(payloads(cluster, 1)) == [b"1", b"2", b"3"]


async def test_commands_keep_their_order_and_count_once_through_changes_of_leaders(cluster: SharedLog) -> None:
    node, slot = cluster.nodes[2], cluster.nodes[2].slot(GROUP.id)
    replies: list[Reply | None] = []
    for number in range(200):
        node.propose(slot, message(number), replies.append)
        if number % 7 == 0:
            cluster.elect((None, 1, 3, 2)[number // 7 % 4])
        if number % 3 == 0:
            await asyncio.sleep(0)
    cluster.elect(3)
    await settled(cluster)
    assert [reply.message_seq for reply in replies if reply is not None] == list(range(1, 201))
    for other in (1, 2, 3):
        assert payloads(cluster, other) == [b"%d" % number for number in range(200)]


async def test_what_a_broken_link_lost_goes_again_when_it_is_back(cluster: SharedLog) -> None:
    cluster.cut.add((2, 1))
    sending = asyncio.create_task(send(cluster.nodes[2], 1))
    await settled(cluster)
    assert payloads(cluster, 1) == []
    cluster.cut.clear()
    cluster.nodes[2].link_came_up(1)
    assert (await sending).message_seq == 1


async def test_without_progress_the_stream_is_sent_again(cluster: SharedLog) -> None:
    cluster.cut.add((2, 1))
    sending = asyncio.create_task(send(cluster.nodes[2], 1))
    await settled(cluster)
    cluster.cut.clear()
    assert (await sending).message_seq == 1
    assert payloads(cluster, 1) == [b"1"]


async def test_a_lost_pack_in_the_middle_is_a_gap_and_nothing_overtakes_it(cluster: SharedLog) -> None:
    node, slot = cluster.nodes[2], cluster.nodes[2].slot(GROUP.id)
    replies: list[Reply | None] = []
    for number in range(3):
        if number == 1:
            cluster.cut.add((2, 1))
        node.propose(slot, message(number), replies.append)
        await settled(cluster)
        cluster.cut.clear()
    await settled(cluster)
    assert payloads(cluster, 3) == [b"0", b"1", b"2"]
    assert len(replies) == 3


async def test_malformed_and_foreign_packs_never_reach_the_log(cluster: SharedLog) -> None:
    leader = cluster.nodes[1]
    before = len(cluster.entries)
    forged = encode_pack(3, leader.incarnation, 1, 0, 0, [])
    for body in (b"", b"\x00" * 9, "text", None, 7, forged, b"\x96" + b"\xff" * 20):
        leader.receive_forward(0, 2, body)
    leader.receive_forward(99, 2, forged)
    leader.receive_forward(-1, 2, forged)
    await settled(cluster)
    assert len(cluster.entries) == before


async def test_a_follower_drops_packs_that_are_not_for_it(cluster: SharedLog) -> None:
    pack = encode_pack(2, 1, 1, 0, 0, [])
    cluster.nodes[3].receive_forward(0, 2, pack)
    assert cluster.nodes[3].collect() == []


async def test_a_node_taken_for_gone_closes_its_clients_and_begins_anew(cluster: SharedLog) -> None:
    node = cluster.nodes[2]
    slot = node.slot("u")
    await node.execute(slot, OpenSession("u", 7, 0, "d", b""))
    old = node.incarnation
    cluster.paused.add(2)
    await cluster.nodes[1].execute(slot, NodeGone(2, old))
    assert sessions_of(cluster.nodes[1].states[slot], "u") == []
    open_command = asyncio.create_task(node.execute(slot, OpenSession("u", 8, 0, "d", b"")))
    await settled(cluster)
    cluster.resume(2)
    with pytest.raises(Unavailable):
        await open_command
    assert cluster.breaks[2]
    assert node.incarnation > old
    await settled(cluster)
    assert (await node.execute(slot, OpenSession("u", 9, 0, "d", b""))).reason == 1
    await settled(cluster)
    for other in (1, 2, 3):
        assert [found.session for found in sessions_of(cluster.nodes[other].states[slot], "u")] == [9]
    assert not cluster.breaks[1]
    assert not cluster.breaks[3]


async def test_what_an_ended_incarnation_still_sends_changes_nothing(cluster: SharedLog) -> None:
    node, slot = cluster.nodes[2], cluster.nodes[2].slot(GROUP.id)
    await send(node, 1)
    old, counter = node.incarnation, node._streams[slot].done
    await cluster.nodes[1].execute(slot, NodeGone(2, old))
    late = encode_pack(2, old, counter + 1, counter, 0, [])
    await settled(cluster)
    before = payloads(cluster, 3)
    cluster.nodes[1].receive_forward(slot, 2, late)
    await settled(cluster)
    assert payloads(cluster, 3) == before
    assert (await send(node, 2)).message_seq == 2


async def test_copies_are_carried_by_whoever_asked_and_finished_by_the_leader_if_that_one_is_gone(
    cluster: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wukong.node.node.SWEEP_S", 0.0)
    origin = cluster.nodes[2]
    wanted = Settings(token_auth_on=True)
    reply = await origin.execute(0, PutSettings(encode(wanted)))
    origin.shut()
    del cluster.nodes[2]
    assert reply.version
    async with asyncio.timeout(10):
        while any(state.settings != wanted for state in cluster.nodes[3].states):
            cluster.clock.ms += 1_000  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)


async def test_a_snapshot_closes_clients_and_answers_what_was_applied_in_it(cluster: SharedLog) -> None:
    node = cluster.nodes[2]
    slot = node.slot(GROUP.id)
    await send(node, 1)
    cluster.paused.add(2)
    await settled(cluster)
    waiting = asyncio.create_task(send(node, 2))
    await settled(cluster)
    assert len(payloads(cluster, 1)) == 2
    # What a snapshot does: the rows of another node at its applied index, in a new generation.
    source, store = cluster.nodes[1], cluster.stores[2]
    old, new = source.generations.prefix(slot), node.generations.stage(slot)
    rows = cluster.stores[1].scan(old, prefix_end(old))
    store.write({slot_prefix(slot, new) + key[len(old) :]: value for key, value in rows})
    node.generations.flip(slot, new)
    index, term = source.applied()[slot]
    cluster._positions[2] = len(cluster.entries)
    node.installed(slot, index, term)
    assert cluster.breaks[2]
    assert node.applied()[slot] == (index, term)
    cluster.resume(2)
    assert (await asyncio.wait_for(waiting, 10)).message_seq == 2
    assert payloads(cluster, 1) == [b"1", b"2"]
    assert store.get(node.generations.prefix(slot) + APPLIED_KEY) is not None


async def test_a_node_that_comes_back_ends_its_earlier_sessions(cluster: SharedLog) -> None:
    node, slot = cluster.nodes[3], cluster.nodes[3].slot("u")
    await node.execute(slot, OpenSession("u", 7, 0, "d", b""))
    node.shut()
    again = cluster.open(3, cluster.stores[3])
    cluster.wake()
    await again.go_live()
    await settled(cluster)
    for other in (1, 2, 3):
        assert sessions_of(cluster.nodes[other].states[slot], "u") == []
    assert not any(isinstance(effect, SessionStarted) for effect in cluster.effects[3])


async def test_members_added_on_one_node_get_what_is_sent_on_another(cluster: SharedLog) -> None:
    slot = cluster.nodes[1].slot(GROUP.id)
    for round_ in range(20):
        adder, sender = cluster.nodes[round_ % 3 + 1], cluster.nodes[(round_ + 1) % 3 + 1]
        uid = f"m{round_}"
        assert (await adder.execute(slot, PutChannel(GROUP, add=[uid]))).reason == 1
        reply = await send(sender, round_)
        for node in cluster.nodes.values():
            await settled(cluster)
            row = node.states[slot].user(b"\x02\x00\x01g", uid)
            assert row is not None
            assert row.member
            assert row.intervals[0].from_seq < reply.message_seq


async def test_a_clock_far_ahead_does_not_move_the_time_of_the_log(cluster: SharedLog) -> None:
    leader, node = cluster.nodes[1], cluster.nodes[2]
    slot = node.slot(GROUP.id)
    honest = cluster.clock.now_ms()
    ahead = encode_pack(
        2, node.incarnation, node._streams[slot].done + 1, 0, honest + 86_400_000, [encode_command(message(1))]
    )
    node._streams[slot].in_flight.append((encode_command(message(1)), None))
    node._streams[slot].packed = 1
    leader.receive_forward(slot, 2, ahead)
    await settled(cluster)
    assert payloads(cluster, 3) == [b"1"]
    for other in (1, 2, 3):
        assert cluster.nodes[other].states[slot].slot_row.time_ms <= honest + 1_000


async def test_copies_that_another_node_carries_are_waited_for(
    cluster: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = cluster.nodes[2]
    propagate = origin.copier.propagate
    monkeypatch.setattr(origin.copier, "propagate", lambda slot, effect: None)
    reply = await origin.execute(0, PutSettings(encode(Settings(token_auth_on=True))))
    waiting = asyncio.create_task(origin.copied(0, reply.version))
    await settled(cluster)
    assert not waiting.done()
    for effect in copies.owed(origin.states[0]):
        propagate(0, effect)
    await asyncio.wait_for(waiting, 10)
    assert all(state.settings.token_auth_on for state in origin.states)
