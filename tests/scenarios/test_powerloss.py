"""A power loss at any byte loses nothing that was acknowledged, and leaves nothing half done."""

import asyncio
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
from wukong.channel.commands import Append, Reply
from wukong.channel.messages import last_seq, messages_between, stored_message
from wukong.channel.state import channel_part
from wukong.errors import DataError
from wukong.node.node import Node
from wukong.raft.wal import Wal
from wukong.store.memory import MemoryStore

MOMENTS = 4
COMMANDS_BETWEEN = 50
# Longer batches are cut at so many places, drawn at random.
CUTS = 150
LIVES = 6


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


async def play(machine: Machine, rng: random.Random, *, moments: int) -> list[Moment]:
    """Random commands, single and in bursts; at random times the disk stands still and what there is is noted."""
    seen: list[Moment] = []
    waiting: list[asyncio.Future[Reply | None]] = []
    for turn in range(moments):
        # Every second time where a new segment begins, which takes some commands to come.
        at_segment = turn % 2 == 1
        stop_at = rng.randrange(COMMANDS_BETWEEN // 2)
        number = 0
        while number < COMMANDS_BETWEEN or len(seen) == turn:
            if number == stop_at:
                machine.wal.stop_at_next(segment=at_segment)
            machine.propose(random_command(rng), waiting)
            number += 1
            await asyncio.sleep(0)
            if machine.wal.stopped.is_set() or (number == stop_at + 1 and not at_segment):
                await machine.wal.stopped.wait()
                await machine.settle()
                seen.append(machine.moment(rng))
                machine.wal.go_on()
            elif rng.random() < 0.4:
                # An answer, or the disk stands still and there is none.
                while not machine.wal.stopped.is_set() and not any(future.done() for future in waiting):
                    await asyncio.sleep(0)
                waiting = [future for future in waiting if not future.done()]
    await asyncio.gather(*waiting)
    return seen


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


def all_cuts(moment: Moment) -> range:
    length = len(moment.batch.data)
    return range(0, length + 1, 1 + length // CUTS)


async def test_a_power_loss_at_any_byte_leaves_a_beginning_of_the_log_with_all_that_was_acknowledged(
    tmp_path: Path, rng: random.Random
) -> None:
    machine = await Machine.start(tmp_path / "wal")
    moments = await play(machine, rng, moments=MOMENTS)
    await machine.stop()
    oracle = Oracle(machine.node.entries)
    cases: Counter[str] = Counter()
    for moment in moments:
        assert all(index <= moment.synced[slot] for slot, index in moment.applied.items()), "applied before synced"
        for name, files, left in remains(moment, cuts=all_cuts(moment)):
            store = MemoryStore(rng.choice(moment.stores))
            node = await recover(files, store, tmp_path / "recovered")
            expected = moment.synced | dict(entries_in(left))
            for slot in range(SLOT_COUNT):
                assert rows(store, slot) == oracle.state(slot, expected[slot]), f"{name}, slot {slot}"
            check_acknowledged(node, moment.acknowledged)
            cases[name.rstrip("0123456789")] += 1
    print(f"{len(machine.acknowledged)} acknowledged,", dict(cases))
    assert {"cut at ", "zeros from ", "new segment begun"} <= cases.keys()


async def test_life_after_life_what_was_acknowledged_stays_and_what_was_not_is_sent_again_and_stored_once(
    tmp_path: Path, rng: random.Random
) -> None:
    acknowledged: list[Acknowledged] = []
    appended: dict[str, Append] = {}
    machine = await Machine.start(tmp_path / "life-0")
    for life in range(1, LIVES + 1):
        moment = (await play(machine, rng, moments=1))[0]
        await machine.stop()
        # What came after the moment never happened: the power was gone.
        acknowledged += moment.acknowledged
        appended |= {each.client_msg_no: each for each in machine.proposed if isinstance(each, Append)}
        files = rng.choice([files for _, files, _ in remains(moment, cuts=all_cuts(moment))])
        machine = await Machine.start(lay_out(files, tmp_path / f"life-{life}"), rng.choice(moment.stores))
        check_acknowledged(machine.node, acknowledged)
        await check_numbers(machine, rng, acknowledged, appended)
    await machine.stop()


async def check_numbers(
    machine: Machine, rng: random.Random, acknowledged: list[Acknowledged], appended: dict[str, Append]
) -> None:
    """Every message once more under its number: an acknowledged one gets its first answer, and none is stored twice."""
    first = {each.command.client_msg_no: each.reply for each in acknowledged if isinstance(each.command, Append)}
    waiting: list[asyncio.Future[Reply | None]] = []
    again = list(appended.values())
    rng.shuffle(again)
    for command in again:
        machine.propose(command, waiting)
    for command, reply in zip(again, await asyncio.gather(*waiting), strict=True):
        assert reply is not None
        before = first.get(command.client_msg_no)
        if before is not None and before.message_seq:
            assert (reply.message_id, reply.message_seq) == (before.message_id, before.message_seq)
            assert reply.duplicate
    for channel in {command.channel for command in again}:
        state = machine.node.state_of(channel.id)
        for is_cmd in (False, True):
            last = last_seq(state, channel, is_cmd=is_cmd)
            messages = messages_between(state, channel_part(channel), is_cmd=is_cmd, first=1, last=last, limit=last)
            assert [message.message_seq for message in messages] == list(range(1, last + 1))
            numbers = [message.client_msg_no for message in messages]
            assert len(set(numbers)) == len(numbers)


async def test_a_store_that_is_ahead_of_the_log_is_refused(tmp_path: Path, rng: random.Random) -> None:
    """As after restoring only one of the two, or on a disk that lies about its syncs."""
    machine = await Machine.start(tmp_path / "wal")
    moment = (await play(machine, rng, moments=1))[0]
    await machine.stop()
    newest = max(moment.files)
    files = moment.files | {newest: moment.files[newest][: len(moment.files[newest]) // 3]}
    wal = open_wal(Wal, lay_out(files, tmp_path / "recovered"))
    node = make_node(Node, MemoryStore(machine.store.after_power_loss(random.Random(0), lose_all=False)))
    with pytest.raises(DataError, match=r"but the log (ends|begins)"):
        await run(node, wal, [])
    wal.close()


async def test_damage_in_front_of_a_valid_record_is_refused_and_not_cut(tmp_path: Path, rng: random.Random) -> None:
    machine = await Machine.start(tmp_path / "wal")
    moment = (await play(machine, rng, moments=1))[0]
    await machine.stop()
    newest = max(moment.files)
    content = moment.files[newest]
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    directory = lay_out(moment.files | {newest: bytes(damaged)}, tmp_path / "recovered")
    with pytest.raises(DataError, match=r"damaged at byte \d+, but a valid record follows"):
        open_wal(Wal, directory)
    assert (directory / newest).read_bytes() == damaged
