"""When the disk of deleted messages is given back, and of which rows."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from wukong.channel.effects import Freed
from wukong.channel.ids import ChannelId
from wukong.channel.state import channel_part, seq_part
from wukong.errors import DataError
from wukong.node import reclaim
from wukong.node.reclaim import Reclaimer

GROUP, OTHER = ChannelId(2, "g"), ChannelId(2, "o")
WORTH = 100


def prefix(slot: int) -> bytes:
    return b"slot%d" % slot


def key(slot: int, channel: ChannelId, seq: int, kind: bytes = b"M") -> bytes:
    return prefix(slot) + kind + channel_part(channel) + seq_part(seq)


class Store:
    """Remembers what was compacted. fail: so many times it does not go."""

    def __init__(self, fail: int = 0) -> None:
        self.ranges: list[tuple[bytes, bytes]] = []
        self.threads: set[int] = set()
        self.fail = fail

    def compact(self, start: bytes, end: bytes) -> None:
        self.threads.add(threading.get_ident())
        if self.fail:
            self.fail -= 1
            raise OSError("no space left")
        self.ranges.append((start, end))


async def settled(store: Store, what: Callable[[Reclaimer], None]) -> None:
    """Tell the reclaimer, and give it time to do more than is expected."""
    reclaimer = Reclaimer(store.compact, prefix, quiet_s=0.0, worth_bytes=WORTH)
    work = asyncio.create_task(reclaimer.run())
    what(reclaimer)
    async with asyncio.timeout(10):
        while not reclaimer.compactions:
            await asyncio.sleep(0.002)
    for _ in range(25):
        await asyncio.sleep(0.002)
    work.cancel()
    assert reclaimer.compactions == len(store.ranges)


async def test_the_range_of_what_went_is_compacted_in_a_thread() -> None:
    store = Store()

    def what(reclaimer: Reclaimer) -> None:
        reclaimer.freed(3, Freed(GROUP, False, 1, 8, WORTH))

    await settled(store, what)
    assert store.ranges == [(key(3, GROUP, 1), key(3, GROUP, 8) + b"\x00")]
    assert threading.get_ident() not in store.threads


async def test_what_is_little_waits_for_more_of_the_same_log() -> None:
    store = Store()

    def what(reclaimer: Reclaimer) -> None:
        reclaimer.freed(3, Freed(OTHER, False, 4, 5, WORTH // 2))
        reclaimer.freed(4, Freed(GROUP, False, 1, 1, WORTH // 2))
        reclaimer.freed(3, Freed(GROUP, True, 1, 1, WORTH // 2))
        reclaimer.freed(3, Freed(GROUP, False, 2, 9, WORTH // 2))

    await settled(store, what)
    assert store.ranges == [(key(3, GROUP, 2), key(3, OTHER, 5) + b"\x00")]


async def test_what_is_erased_is_gone_however_little_it_is() -> None:
    store = Store()

    def what(reclaimer: Reclaimer) -> None:
        reclaimer.freed(3, Freed(GROUP, True, 2, 2, 1, is_erased=True))

    await settled(store, what)
    assert store.ranges == [(key(3, GROUP, 2, b"K"), key(3, GROUP, 2, b"K") + b"\x00")]


async def test_a_failure_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reclaim, "RETRY_S", 0.001)
    store = Store(fail=1)

    def what(reclaimer: Reclaimer) -> None:
        reclaimer.freed(3, Freed(GROUP, False, 1, 8, WORTH))

    await settled(store, what)
    assert len(store.ranges) == 1
    assert "could not be given back: no space left" in caplog.text


@pytest.mark.parametrize("fault", [OSError("no space left"), DataError("a file is damaged")])
async def test_what_goes_while_a_failed_compaction_waits_is_compacted_with_it(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(reclaim, "RETRY_S", 0.001)
    ranges: list[tuple[bytes, bytes]] = []
    faults = [fault]
    reclaimed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def compact(start: bytes, end: bytes) -> None:
        if faults:
            loop.call_soon_threadsafe(reclaimer.freed, 3, Freed(OTHER, False, 4, 5, 1))
            raise faults.pop()
        ranges.append((start, end))
        loop.call_soon_threadsafe(reclaimed.set)

    reclaimer = Reclaimer(compact, prefix, quiet_s=0.0, worth_bytes=WORTH)
    work = asyncio.create_task(reclaimer.run())
    reclaimer.freed(3, Freed(GROUP, False, 1, 8, 1, is_erased=True))
    async with asyncio.timeout(10):
        await reclaimed.wait()
    work.cancel()
    assert ranges == [(key(3, GROUP, 1), key(3, OTHER, 5) + b"\x00")]
