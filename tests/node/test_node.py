"""The replica between log, state machine and store."""

import asyncio

import pytest

from tests.node.inprocess_log import InProcessLog
from wukong.channel.commands import LIST_DENY, OP_ADD, Append, PutChannel, Reply, UpdateList
from wukong.channel.effects import Effect, FanOut, MembersChanged
from wukong.channel.ids import ChannelId, person_id
from wukong.clock import SystemClock
from wukong.errors import Unavailable
from wukong.node.node import Node
from wukong.store.memory import MemoryStore

GROUP = ChannelId(2, "g")


def make(store: MemoryStore, effects: list[Effect] | None = None, **limits: int) -> tuple[Node, InProcessLog]:
    sink = effects if effects is not None else []
    node = Node(node_id=1, slot_count=16, store=store, clock=SystemClock(), effects_sink=sink.extend, **limits)
    log = InProcessLog(node)
    node.attach(log)
    return node, log


def append(number: str = "", sender: str = "a") -> Append:
    return Append(GROUP, False, sender, b"hello", number)


async def test_a_reply_comes_after_the_change_can_be_read() -> None:
    node, _ = make(MemoryStore())
    await node.go_live()
    slot = node.slot("g")
    await node.execute(slot, PutChannel(GROUP, None, ["a", "b"]))
    seen: list[bool] = []
    node.propose(slot, PutChannel(GROUP, None, ["c"]), lambda reply: seen.append(is_member(node, "c")))
    await node.execute(slot, append())
    assert seen == [True]


def is_member(node: Node, uid: str) -> bool:
    from wukong.channel.state import channel_part

    return node.state_of("g").is_member(channel_part(GROUP), uid)


async def test_effects_run_in_log_order_before_any_reply() -> None:
    effects: list[Effect] = []
    node, log = make(MemoryStore(), effects)
    await node.go_live()
    log.hold = True
    slot = node.slot("g")
    at_reply: list[int] = []
    node.propose(slot, PutChannel(GROUP, None, ["a"]), lambda reply: at_reply.append(len(effects)))
    node.propose(slot, append(), lambda reply: at_reply.append(len(effects)))
    log.release()
    await node.execute(slot, append())
    assert [type(effect) for effect in effects[:3]] == [MembersChanged, FanOut, FanOut]
    assert at_reply[0] == at_reply[1] >= 2


async def test_commands_of_one_node_keep_their_order_over_packs() -> None:
    node, _ = make(MemoryStore(), pack_limit_bytes=100)
    await node.go_live()
    slot = node.slot("g")
    await node.execute(slot, PutChannel(GROUP, None, ["a"]))
    replies: list[Reply | None] = []
    for n in range(100):
        node.propose(slot, append(str(n)), replies.append)
    await node.execute(slot, append("last"))
    assert [reply.message_seq for reply in replies if reply] == list(range(1, 101))


async def test_a_restart_takes_a_higher_incarnation_and_goes_on_with_the_sequence() -> None:
    store = MemoryStore()
    node, _ = make(store)
    await node.go_live()
    slot = node.slot("g")
    await node.execute(slot, PutChannel(GROUP, None, ["a"]))
    assert (await node.execute(slot, append())).message_seq == 1
    again, log = make(store)
    log._indexes = dict.fromkeys(range(16), 100)
    await again.go_live()
    assert again.incarnation > node.incarnation
    assert (await again.execute(slot, append())).message_seq == 2


async def test_replayed_entries_change_state_but_run_no_effect() -> None:
    node, log = make(MemoryStore())
    await node.go_live()
    await node.execute(node.slot("g"), PutChannel(GROUP, None, ["a"]))
    await node.execute(node.slot("g"), append())
    effects: list[Effect] = []
    other, _ = make(MemoryStore(), effects)
    other.apply(log.entries)
    assert is_member(other, "a")
    assert effects == []


async def test_a_persons_list_is_in_force_when_its_copies_are_reported() -> None:
    node, _ = make(MemoryStore())
    await node.go_live()
    reply = await node.execute(node.slot("bob"), UpdateList(ChannelId(1, "bob"), LIST_DENY, OP_ADD, ["eve"]))
    await node.copied(node.slot("bob"), reply.version)
    pair = person_id("bob", "eve")
    refused = await node.execute(node.slot(pair), Append(ChannelId(1, pair), False, "eve", b"x"))
    assert refused.reason == 4


async def test_copies_that_a_crash_left_owed_are_finished_by_the_next_incarnation() -> None:
    store = MemoryStore()
    node, log = make(store)
    await node.go_live()
    node.propose(node.slot("bob"), UpdateList(ChannelId(1, "bob"), LIST_DENY, OP_ADD, ["eve"]), None)
    log.step()
    log.hold = True
    pair = person_id("bob", "eve")
    again, log = make(store)
    log._indexes = dict.fromkeys(range(16), 100)
    await again.go_live()
    for _ in range(10):
        await asyncio.sleep(0)
    refused = await again.execute(again.slot(pair), Append(ChannelId(1, pair), False, "eve", b"x"))
    assert refused.reason == 4


async def test_far_over_the_limit_a_proposal_is_refused_and_nothing_is_lost() -> None:
    node, log = make(MemoryStore(), in_flight_limit=10)
    await node.go_live()
    log.hold = True
    slot = node.slot("g")
    replies: list[Reply | None] = []
    relieved: list[bool] = []
    for _ in range(20):
        node.propose(slot, append(), replies.append)
    assert node.congested
    node.when_relieved(lambda: relieved.append(True))
    with pytest.raises(Unavailable):
        node.propose(slot, append(), None)
    log.release()
    while len(replies) < 20:
        await asyncio.sleep(0)
    assert relieved == [True]


async def test_stopping_answers_open_proposals_with_an_unknown_outcome() -> None:
    node, log = make(MemoryStore())
    await node.go_live()
    log.hold = True
    task = asyncio.create_task(node.execute(node.slot("g"), append()))
    await asyncio.sleep(0)
    node.shut()
    with pytest.raises(Unavailable):
        await task
