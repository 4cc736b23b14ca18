"""From the rows of a slot to the back end and back to the rows, in one process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.webhook.backend import GROUP, NOTIFY, OFFLINE_EVENT, ONLINE_EVENT, BackEnd, Place
from wukong.channel.commands import Append, CloseSession, FreezeOffline, NodeGone, OpenSession, PutChannel, SetToken
from wukong.channel.ids import ChannelId, person_id
from wukong.webhook import batches, delivery, offline, sender

AGENT = ChannelId(11, "a@bot")
OTHER = ChannelId(2, "h")


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_FIRST_S", 0.002)
    monkeypatch.setattr(delivery, "RETRY_LIMIT_S", 0.01)
    monkeypatch.setattr(batches, "_LOOK_S", 0.002)
    monkeypatch.setattr(sender, "_RETRY_S", 0.002)


Make = Callable[..., Place]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Place] = []

    def place(*args: Any, **options: Any) -> Place:
        made.append(Place(*args, **options))
        return made[-1]

    yield place
    for each in made:
        await each.stop()


async def test_what_is_taken_leaves_the_log(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    for _ in range(3):
        await place.send()
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1, 2, 3]
    assert [item["to_uids"] for item in main.items(OFFLINE_EVENT)] == [["b", "c"]] * 3
    assert place.sender.totals.delivered == {NOTIFY: 3, OFFLINE_EVENT: 3}
    assert place.sender.backlog_records() == place.sender.backlog_bytes() == place.sender.oldest_s() == 0


async def test_events_go_together_up_to_a_count(make: Make) -> None:
    place = await make(main := BackEnd(), count_per_push=10, push_interval_ms=300).start()
    main.free.clear()
    for _ in range(25):
        await place.send()
    main.free.set()
    await place.until(lambda: len(main.seqs()) == 25)
    assert [len(data) for event, data, _ in main.taken if event == NOTIFY] == [10, 10, 5]
    assert main.seqs() == list(range(1, 26))


async def test_a_request_holds_what_several_slots_have(make: Make) -> None:
    place = await make(main := BackEnd(), push_interval_ms=100).start()
    for number in range(20):
        await place.send(ChannelId(2, f"c{number}"))
    await place.until(lambda: len(main.items(NOTIFY)) == 20)
    assert sum(event == NOTIFY for event, _, _ in main.taken) < 4


async def test_of_a_slot_there_is_one_request_at_a_time(make: Make) -> None:
    place = await make(main := BackEnd(), count_per_push=2).start()
    main.free.clear()
    for _ in range(10):
        await place.send()
    await asyncio.sleep(0.05)
    assert sum(event == NOTIFY for event, _ in main.under_way) == 1
    # msg.offline of one channel as well.
    assert sum(event == OFFLINE_EVENT for event, _ in main.under_way) == 1
    main.free.set()
    await place.until(lambda: not place.waiting)
    assert main.seqs() == main.seqs(event=OFFLINE_EVENT) == list(range(1, 11))


async def test_channels_do_not_wait_for_one_another_in_msg_offline(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    main.free.clear()
    for number in range(5):
        await place.send(ChannelId(1, person_id("a", f"p{number}")))
    await place.until(lambda: sum(event == OFFLINE_EVENT for event, _ in main.under_way) == 5)


async def test_no_more_requests_are_under_way_than_the_limit(make: Make) -> None:
    place = await make(main := BackEnd(), requests_limit=3).start()
    main.free.clear()
    for number in range(20):
        await place.send(ChannelId(1, person_id("a", f"p{number}")))
    await asyncio.sleep(0.05)
    assert sum(event == OFFLINE_EVENT for event, _ in main.under_way) == 3
    main.free.set()
    await place.until(lambda: not place.waiting)
    assert len(main.items(OFFLINE_EVENT)) == 20


async def test_a_repeat_has_the_same_body_and_id(make: Make) -> None:
    refused: list[Any] = []

    def takes(event: str, data: Any) -> bool:
        refused.append(data)
        return len(refused) > 3

    place = await make(main := BackEnd(takes)).start(webhook_events=[NOTIFY])
    await place.send()
    await place.until(lambda: not place.waiting)
    assert len(main.tries) == 4
    assert len({str(data) for _, data, _ in main.tries}) == 1
    assert len({headers["X-Wukong-Id"] for _, _, headers in main.tries}) == 1
    assert place.sender.totals.retried == {NOTIFY: 3}


async def test_a_kind_that_fails_holds_up_no_other(make: Make) -> None:
    place = await make(main := BackEnd(lambda event, data: event != OFFLINE_EVENT)).start()
    for _ in range(5):
        await place.send()
    await place.until(lambda: len(main.seqs()) == 5)
    assert place.waiting == 5
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)


async def test_messages_to_agents_go_to_their_own_back_end(make: Make) -> None:
    place = await make(main := BackEnd(), agent := BackEnd(lambda event, data: False)).start()
    await place.send(AGENT)
    await place.send()
    await place.send(AGENT)
    await place.send(OTHER, recipients=["b"])
    await place.until(lambda: len(main.items(NOTIFY)) == 2 and bool(agent.tries))
    # The agents' back end fails: only what is its own waits, and what is behind it is not told twice.
    assert {item["channel_type"] for item in main.items(NOTIFY)} == {2}
    agent.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    assert [item["channel_id"] for item in agent.items(NOTIFY)] == ["a@bot", "a@bot"]
    assert len(main.items(NOTIFY)) == 2


async def test_a_lost_leadership_ends_what_is_under_way_and_the_next_one_begins_again(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    main.free.clear()
    await place.send()
    await main.until(lambda: len(main.under_way) == 2)
    place.lead(False)
    await place.until(lambda: not main.under_way)
    assert place.sender.backlog_records() == 0, "figures are of slots led here"
    place.lead(True)
    main.free.set()
    await place.until(lambda: not place.waiting)
    assert main.seqs() == main.seqs(event=OFFLINE_EVENT) == [1]


async def test_a_request_of_two_slots_goes_on_when_one_is_lost(make: Make) -> None:
    place = await make(main := BackEnd(), push_interval_ms=50).start(webhook_events=[NOTIFY])
    main.free.clear()
    channels = [ChannelId(2, name) for name in ("k1", "k2", "k3", "k4", "k5", "k6")]
    for channel in channels:
        await place.send(channel)
    await main.until(lambda: bool(main.under_way))
    lost = place.node.slot("k1")
    kept = {channel.id for channel in channels if place.node.slot(channel.id) != lost}
    place.node.leadership(lost, None, 2)
    main.free.set()
    await place.until(lambda: {item["channel_id"] for item in main.items(NOTIFY)} >= kept)
    place.node.leadership(lost, 7, 3)
    await place.until(lambda: not place.waiting)


async def test_a_slot_is_begun_with_behind_a_barrier(make: Make) -> None:
    place = make(main := BackEnd())
    passed = asyncio.Event()

    async def barrier(slots: Any, timeout_s: float) -> None:
        await passed.wait()

    place.log.barrier = barrier  # type: ignore[method-assign]
    await place.start()
    await place.send()
    await asyncio.sleep(0.05)
    assert not main.tries
    passed.set()
    await place.until(lambda: not place.waiting)


async def test_tries_have_an_end_only_if_one_is_set(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    place = await make(main := BackEnd(lambda event, data: False), retry_limit=3).start()
    await place.send()
    await place.until(lambda: not place.waiting)
    assert len(main.tries) == 6
    assert place.sender.totals.dropped == {NOTIFY: 1, OFFLINE_EVENT: 1}
    assert [record.levelname for record in caplog.records].count("ERROR") == 2


async def test_trouble_is_told_once_and_its_end_too(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wukong.webhook")
    place = await make(main := BackEnd(lambda event, data: False)).start(webhook_events=[NOTIFY])
    await place.send()
    await main.until(lambda: len(main.tries) > 10)
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "HTTP 500" in caplog.text


async def test_the_oldest_go_above_the_limit(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    place = await make(main := BackEnd(lambda event, data: False), count_per_push=5).start(webhook_backlog_bytes=4_000)
    for _ in range(200):
        await place.send()
    # And nobody is at it any more.
    await place.until(lambda: place.sender.backlog_bytes() <= 4_000 and not place.sender._tasks)
    # One row serves two kinds: both are given up together.
    dropped = place.sender.totals.dropped
    assert dropped[NOTIFY] == dropped[OFFLINE_EVENT] > 50
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    assert main.seqs()[-1] == main.seqs(event=OFFLINE_EVENT)[-1] == 200
    assert len(main.seqs()) < 200 and main.seqs() == sorted(main.seqs())
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1


async def test_without_a_back_end_what_waits_goes_when_events_are_switched_off(make: Make) -> None:
    place = make(None)
    await place.node.go_live()
    await place.set()
    await place.send()
    assert place.waiting == 1
    await place.set(webhook_on=False)
    place.node.webhooks = place.sender
    place.sender.start()
    await place.until(lambda: not place.waiting)


async def test_what_waits_also_goes_when_events_are_switched_off_at_run_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_LOOK_AGAIN_S", 0.01)
    place = await make(None).start()
    await place.send()
    await asyncio.sleep(0.05)
    assert place.waiting == 1
    await place.set(webhook_on=False)
    await place.until(lambda: not place.waiting)


async def test_logins_are_told_and_so_are_the_sessions_of_a_node_that_died(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    slot = place.node.slot("u")
    await place.node.execute(slot, OpenSession("u", 11, 0, "d", b""))
    await place.node.execute(slot, OpenSession("u", 12, 1, "e", b""))
    await place.node.execute(slot, CloseSession("u", 11))
    await place.until(lambda: len(main.items(ONLINE_EVENT)) == 3)
    assert main.items(ONLINE_EVENT) == ["u-0-1-11-1-1", "u-1-1-12-1-2", "u-0-0-11-0-1"]
    # Its own end: it begins anew, and nobody else would tell.
    place.node.propose_always(slot, NodeGone(7, place.node.incarnation))
    await place.until(lambda: len(main.items(ONLINE_EVENT)) == 4)
    assert main.items(ONLINE_EVENT)[3] == "u-1-0-12-0-0"


async def test_masters_are_left_out_and_the_list_stays_as_it_was_first_seen(make: Make) -> None:
    place = await make(main := BackEnd(lambda event, data: False)).start(token_auth_on=True)
    slot = place.node.slot("b")
    await place.node.execute(slot, SetToken("b", 0, b"h", 1))
    assert (await place.node.execute(slot, OpenSession("b", 5, 0, "d", b"h"))).level == 1
    await place.send()
    await main.until(lambda: any(event == OFFLINE_EVENT for event, _, _ in main.tries))
    first = next(data for event, data, _ in main.tries if event == OFFLINE_EVENT)
    await place.node.execute(slot, CloseSession("b", 5))
    place.lead(False)
    place.lead(True)
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    (item,) = main.items(OFFLINE_EVENT)
    assert item == first
    assert item["to_uids"] == ["c"]


async def test_records_of_one_channel_share_a_list_and_others_have_their_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "FREEZE_UIDS", 1)
    place = await make(main := BackEnd()).start(token_auth_on=True, webhook_events=[OFFLINE_EVENT])
    other = next(c for n in range(100) if place.node.slot((c := ChannelId(2, f"o{n}")).id) == place.node.slot("g"))
    await place.node.execute(place.node.slot("g"), PutChannel(other, None, ["b", "c"]))
    slot = place.node.slot("b")
    await place.node.execute(slot, SetToken("b", 0, b"h", 1))
    await place.node.execute(slot, OpenSession("b", 5, 0, "d", b"h"))
    frozen: list[list[int]] = []
    execute = place.node.execute

    async def watched(slot: int, command: Any) -> Any:
        if isinstance(command, FreezeOffline):
            frozen.append(command.ids)
        return await execute(slot, command)

    monkeypatch.setattr(place.node, "execute", watched)
    place.lead(False)
    for channel in (GROUP, GROUP, GROUP, other, GROUP):
        place.node.propose_always(place.node.slot("g"), Append(channel, False, "a", b"x", trusted=True))
    place.lead(True)
    await place.until(lambda: len(main.items(OFFLINE_EVENT)) == 5)
    assert [len(ids) for ids in frozen] == [3, 1, 1]
    assert {tuple(item["to_uids"]) for item in main.items(OFFLINE_EVENT)} == {("c",)}


async def test_a_message_for_nobody_makes_no_request(make: Make) -> None:
    place = await make(main := BackEnd()).start(webhook_events=[OFFLINE_EVENT])
    await place.send(recipients=["a"])
    await place.until(lambda: not place.waiting)
    assert not main.tries


async def test_large_lists_are_compressed(make: Make) -> None:
    place = await make(main := BackEnd(), compress_above=2).start()
    await place.send(recipients=["b", "c", "d"])
    await place.until(lambda: not place.waiting)
    (item,) = main.items(OFFLINE_EVENT)
    assert item["to_uids"] == [] and item["compress"] == "gzip"


async def test_an_event_larger_than_the_budget_goes_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "BODIES_LIMIT_BYTES", 10)
    place = await make(main := BackEnd()).start()
    main.free.clear()
    for number in range(5):
        await place.send(ChannelId(1, person_id("a", f"p{number}")))
    await asyncio.sleep(0.05)
    assert sum(event == OFFLINE_EVENT for event, _ in main.under_way) == 1
    main.free.set()
    await place.until(lambda: not place.waiting)


async def test_it_stops_with_requests_under_way(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    main.free.clear()
    await place.send()
    await main.until(lambda: len(main.under_way) == 2)
    await place.sender.stop()
    assert not main.under_way
    assert main.closed
    assert place.waiting == 1
    assert place.node.states[place.node.slot(GROUP.id)].slot_row.webhooks.cursors == [0, 0, 0]


async def test_a_fault_in_reading_holds_up_its_slot_for_a_moment_and_no_other(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[int] = []
    read = sender.notify_item

    def notify_item(channel: ChannelId, *args: Any, **options: Any) -> bytes:
        if channel == GROUP and len(faults) < 3:
            faults.append(1)
            raise MemoryError
        return read(channel, *args, **options)

    monkeypatch.setattr(sender, "notify_item", notify_item)
    monkeypatch.setattr(batches, "_RETRY_S", 0.05)
    place = await make(main := BackEnd()).start(webhook_events=[NOTIFY])
    assert place.node.slot(OTHER.id) != place.node.slot(GROUP.id)
    await place.send()
    await place.send()
    await place.send(OTHER)
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1, 2]
    assert [item["channel_id"] for item in main.items(NOTIFY)] == ["h", "g", "g"]


async def test_an_unexpected_fault_of_a_transport_is_a_try_like_others(make: Make) -> None:
    class Odd(BackEnd):
        async def post(self, event: str, body: bytes, headers: Any) -> None:
            if len(self.tries) < 3:
                self.tries.append((event, body, headers))
                raise UnicodeError("label too long")
            await super().post(event, body, headers)

    place = await make(main := Odd()).start(webhook_events=[NOTIFY])
    await place.send()
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1]
    assert place.sender.totals.retried == {NOTIFY: 3}
    assert place.sender.totals.last_error.endswith("UnicodeError")


async def test_news_that_comes_while_work_is_ending_begins_it_again(make: Make) -> None:
    place = await make(main := BackEnd()).start()
    slot = place.node.slot("u")
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(None)
    # Its end is noted in the next turn of the loop.
    place.sender._tasks["sweep", slot] = ended
    await place.node.execute(slot, OpenSession("u", 11, 0, "d", b""))
    place.node.propose_always(slot, NodeGone(7, place.node.incarnation))
    await place.until(lambda: main.items(ONLINE_EVENT)[1:] == ["u-0-0-11-0-0"])


def indigestible(event: str, data: Any) -> bool:
    """As a back end that refuses an array for one element."""
    return not any(item["channel_id"] == "g" and item["message_seq"] == 2 for item in data)


def elsewhere(place: Place, count: int) -> list[ChannelId]:
    """Channels of other slots than the group's."""
    found = (ChannelId(2, f"c{number}") for number in range(1_000))
    return [channel for channel in found if place.node.slot(channel.id) != place.node.slot(GROUP.id)][:count]


async def test_an_event_that_is_refused_holds_up_its_slot_and_no_other(make: Make) -> None:
    place = await make(main := BackEnd(indigestible), push_interval_ms=50).start(webhook_events=[NOTIFY])
    others = elsewhere(place, 20)
    for channel in (GROUP, *others, GROUP, GROUP):
        await place.send(channel)
    await place.until(lambda: len(main.items(NOTIFY)) == 21)
    # What was before it in its slot is told as well, and what comes elsewhere later.
    assert main.seqs() == [1]
    for channel in others:
        await place.send(channel)
    await place.until(lambda: len(main.items(NOTIFY)) == 41)
    assert place.waiting == 2
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1, 2, 3]
    assert len(main.items(NOTIFY)) == 43, "nothing is told twice"


async def test_refused_events_hold_none_of_the_places_for_requests(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "REQUESTS", 1)
    place = await make(main := BackEnd(indigestible), push_interval_ms=20).start(webhook_events=[NOTIFY])
    (other,) = elsewhere(place, 1)
    await place.send()
    await place.send()
    await place.until(lambda: main.seqs() == [1])
    await place.send(other)
    await place.until(lambda: len(main.items(NOTIFY)) == 2)
    await place.sender.stop()
    assert not main.under_way


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_at_the_limit_of_tries_only_what_is_refused_is_dropped(make: Make, limit: int) -> None:
    place = await make(main := BackEnd(indigestible), push_interval_ms=50, retry_limit=limit).start(
        webhook_events=[NOTIFY]
    )
    for channel in (GROUP, *elsewhere(place, 5), GROUP, GROUP):
        await place.send(channel)
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1, 3]
    assert len(main.items(NOTIFY)) == 7
    assert place.sender.totals.dropped == {NOTIFY: 1}


async def test_a_slot_that_is_lost_while_events_go_one_by_one_is_begun_again(make: Make) -> None:
    place = await make(main := BackEnd(indigestible), push_interval_ms=50).start(webhook_events=[NOTIFY])
    others = elsewhere(place, 5)
    for channel in (GROUP, GROUP, *others):
        await place.send(channel)
    await place.until(lambda: len(main.items(NOTIFY)) == 6)
    for _ in range(3):
        place.lead(False)
        place.lead(True)
        await asyncio.sleep(0.01)
    await place.send(others[0])
    main.takes = lambda event, data: True
    await place.until(lambda: not place.waiting)
    assert main.seqs() == [1, 2]
