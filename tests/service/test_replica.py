"""The way to the replica: time limits, unknown outcomes, cuts."""

import asyncio

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import LIST_DENY, OP_ADD, PutChannel, UpdateList
from wukong.channel.ids import ChannelId
from wukong.errors import RequestRefused, Unavailable
from wukong.service.replica import COMMAND_IDS_BYTES, Pace, check_id, chunks, distinct

GROUP = ChannelId(2, "g")


async def test_a_change_that_is_not_confirmed_in_time_has_an_unknown_outcome() -> None:
    stack = await Stack(timeout_ms=20).start()
    stack.log.hold = True
    with pytest.raises(Unavailable, match="in time"):
        await stack.use_cases.replica.change("g", PutChannel(GROUP))


async def test_a_change_is_unavailable_when_the_node_stops_under_it(stack: Stack) -> None:
    stack.log.hold = True
    change = asyncio.create_task(stack.use_cases.replica.change("g", PutChannel(GROUP)))
    await asyncio.sleep(0)
    stack.node.shut()
    with pytest.raises(Unavailable):
        await change


async def test_copies_that_are_given_up_make_a_change_unavailable_and_not_cancelled(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given_up(slot: int, version: int) -> None:
        raise Unavailable("given up")

    monkeypatch.setattr(stack.node, "copied", given_up)
    with pytest.raises(Unavailable):
        await stack.use_cases.replica.change("u", UpdateList(ChannelId(1, "u"), LIST_DENY, OP_ADD, ["v"]))


async def test_the_callers_own_cancellation_stays_one_while_it_waits_for_copies(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def never(slot: int, version: int) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(stack.node, "copied", never)
    command = UpdateList(ChannelId(1, "u"), LIST_DENY, OP_ADD, ["v"])
    change = asyncio.create_task(stack.use_cases.replica.change("u", command))
    await waiting.wait()
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change


async def test_a_change_that_no_slot_can_hold_is_refused(stack: Stack) -> None:
    with pytest.raises(RequestRefused):
        await stack.use_cases.replica.change("g", PutChannel(ChannelId(2, "x" * 70_000)))


@pytest.mark.parametrize("text", ["x" * 32_767, "é" * 16_383, "😀" * 8_191])
def test_an_id_up_to_the_limit_passes(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize("text", ["x" * 32_768, "é" * 16_384, "😀" * 8_192])
def test_an_id_over_the_limit_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="32767"):
        check_id(text)


async def test_blanks_and_repeats_are_dropped_in_order() -> None:
    assert await distinct(["b", "", " ", "a", "b", "\t", "a"]) == ["b", "a"]


async def test_a_list_with_a_uid_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestRefused):
        await distinct(["a", "x" * 40_000])


@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [(0, 3, []), (1, 3, [1]), (3, 3, [3]), (4, 3, [3, 1]), (7, 3, [3, 3, 1]), (2, 1, [1, 1])],
)
def test_a_list_is_cut_by_count(count: int, limit: int, sizes: list[int]) -> None:
    uids = [f"u{n}" for n in range(count)]
    parts = chunks(uids, limit)
    assert [len(part) for part in parts] == sizes
    assert [uid for part in parts for uid in part] == uids


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_a_list_of_long_uids_is_cut_by_bytes(letter: str) -> None:
    uids = [letter * 8_000 + str(n) for n in range(100)]
    parts = chunks(uids, 1000)
    assert len(parts) > 1
    assert [uid for part in parts for uid in part] == uids
    assert all(sum(len(uid.encode()) for uid in part) <= COMMAND_IDS_BYTES for part in parts)


async def test_long_work_gives_the_loop_its_turn() -> None:
    turns: list[int] = []
    loop = asyncio.get_running_loop()
    loop.call_soon(turns.append, 1)
    pace = Pace(slice_s=0.0)
    await pace.step()
    assert turns == [1]
