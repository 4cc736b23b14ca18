"""A power loss at any byte loses nothing that was acknowledged, and leaves nothing half done."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.scenarios.powerloss import (
    SLOT_COUNT,
    Acknowledged,
    Machine,
    Moment,
    Oracle,
    entries_in,
    lay_out,
    make_node,
    open_wal,
    random_command,
    remains,
    routing_key,
    rows,
    run,
)
from wukong.channel.commands import Append
from wukong.channel.messages import stored_message
from wukong.channel.state import channel_part
from wukong.node.node import Node
from wukong.raft.wal import Wal
from wukong.store.memory import MemoryStore

MOMENTS = 4
COMMANDS_BETWEEN = 50
# Longer batches are cut at so many places, drawn at random.
CUTS = 150


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs cost nothing: what a power loss takes is decided here, and there are thousands of recoveries."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr("os.fdatasync", lambda fd: None)


async def play(machine: Machine, rng: random.Random) -> list[Moment]:
    """Random commands, single and in bursts; at random times the disk stands still and what there is is noted."""
    numbers = itertools.count(1)
    moments: list[Moment] = []
    waiting: list[asyncio.Future[None]] = []
    for turn in range(MOMENTS):
        # Every second time where a new segment begins, which takes some commands to come.
        at_segment = turn % 2 == 1
        stop_at = rng.randrange(COMMANDS_BETWEEN // 2)
        number = 0
        while number < COMMANDS_BETWEEN or len(moments) == turn:
            if number == stop_at:
                machine.wal.stop_at_next(segment=at_segment)
            machine.propose(random_command(rng, numbers), waiting)
            number += 1
            await asyncio.sleep(0)
            if machine.wal.stopped.is_set() or (number == stop_at + 1 and not at_segment):
                await machine.wal.stopped.wait()
                await machine.settle()
                moments.append(machine.moment(rng))
                machine.wal.go_on()
            elif rng.random() < 0.4:
                # An answer, or the disk stands still and there is none.
                while not machine.wal.stopped.is_set() and not any(future.done() for future in waiting):
                    await asyncio.sleep(0)
                waiting = [future for future in waiting if not future.done()]
    await asyncio.gather(*waiting)
    return moments


async def recover(files: Mapping[str, bytes], store: MemoryStore, directory: Path) -> Node:
    """The node of the next life, as far as the log has brought it."""
    wal = open_wal(Wal, lay_out(files, directory))
    node = make_node(Node, store)
    failures: list[BaseException] = []
    runtime = await run(node, wal, failures)
    assert await runtime.stop()
    assert failures == []
    return node


def check_acknowledged(node: Node, acknowledged: list[Acknowledged]) -> None:
    for each in acknowledged:
        command, reply = each.command, each.reply
        if isinstance(command, Append) and reply.message_seq:
            state = node.state_of(routing_key(command))
            stored = stored_message(state, channel_part(command.channel), command.is_cmd, reply.message_seq)
            assert stored is not None, f"acknowledged and lost: {command}"
            assert (stored.message_id, stored.payload) == (reply.message_id, command.payload)


async def test_a_power_loss_at_any_byte_leaves_a_beginning_of_the_log_with_all_that_was_acknowledged(
    tmp_path: Path, rng: random.Random
) -> None:
    machine = await Machine.start(tmp_path / "wal")
    moments = await play(machine, rng)
    await machine.stop()
    oracle = Oracle(machine.node.entries)
    cases: Counter[str] = Counter()
    for moment in moments:
        assert all(index <= moment.synced[slot] for slot, index in moment.applied.items()), "applied before synced"
        length = len(moment.batch.data)
        for name, files, survived in remains(moment, cuts=range(0, length + 1, 1 + length // CUTS)):
            store = MemoryStore(rng.choice(moment.stores))
            node = await recover(files, store, tmp_path / "recovered")
            expected = moment.synced | dict(entries_in(moment.batch.data[:survived]))
            for slot in range(SLOT_COUNT):
                assert rows(store, slot) == oracle.state(slot, expected[slot]), f"{name}, slot {slot}"
            check_acknowledged(node, moment.acknowledged)
            cases[name.rstrip("0123456789")] += 1
    print(f"{len(machine.acknowledged)} acknowledged,", dict(cases))
    assert {"cut at ", "zeros from ", "new segment begun"} <= cases.keys()
