"""The outbox of webhook events: which records are made, how they are read, delivered and given up. behaviour.md 13."""

from collections.abc import Callable
from random import Random

import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel import webhooks
from wukong.channel.commands import (
    AdvanceWebhooks,
    Append,
    Command,
    FreezeOffline,
    Pack,
    PutChannel,
    PutSettings,
    Reply,
)
from wukong.channel.effects import FanOut, Message, WebhookAdded
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings, channel_part, encode, seq_part
from wukong.channel.webhooks import (
    EVENT_NAMES,
    NOTIFY,
    OFFLINE,
    ONLINE,
    Backlog,
    Record,
    backlog,
    cursor,
    pending,
    pending_ids,
)

GROUP = ChannelId(2, "g")
AGENT = ChannelId(11, "alice@bot")


def a_slot(events: list[str] | None = None) -> Slot:
    slot = Slot(webhook_on=True, webhook_events=events or [])
    slot.do(PutChannel(GROUP, None, ["alice", "bob"]))
    slot.effects()
    return slot


def message(text: str, channel: ChannelId = GROUP, **fields: object) -> Append:
    return Append(channel, fields.pop("is_cmd", False), "alice", text.encode(), **fields)  # type: ignore[arg-type]


def texts(slot: Slot, kind: int, *, after: int = 0, limit: int = 100) -> list[str]:
    """What the messages of that kind's records say."""
    return [
        m.payload.decode() for record in pending(slot.state, kind, after=after, limit=limit) if (m := record.message)
    ]


def ids(slot: Slot, kind: int, *, after: int = 0, limit: int = 100) -> list[int]:
    found = [record.id for record in pending(slot.state, kind, after=after, limit=limit)]
    if not after:
        assert pending_ids(slot.state, kind, limit=limit) == found
    return found


def queue_rows(slot: Slot) -> dict[bytes, bytes]:
    return {key: value for key, value in slot.rows().items() if key[:1] == b"w"}


def woken(slot: Slot) -> list[int]:
    return [effect.kind for effect in slot.effects() if isinstance(effect, WebhookAdded)]


# -- which records are made --


@pytest.mark.parametrize(
    ("append", "kinds"),
    [
        (message("stored"), {NOTIFY, OFFLINE}),
        (message("a command", is_cmd=True), {NOTIFY, OFFLINE}),
        (message("not stored", flags=1), {OFFLINE}),
        (message("a command that is not stored", is_cmd=True, flags=1), {OFFLINE}),
        (message("by name", recipients=["bob"]), {NOTIFY, OFFLINE}),
        (message("from the back end", trusted=True), {NOTIFY, OFFLINE}),
        (message("to an agent", AGENT), {NOTIFY}),
        (message("to an agent, not stored", AGENT, flags=1), set()),
    ],
)
def test_which_events_a_message_makes(append: Append, kinds: set[int]) -> None:
    slot = a_slot()
    slot.do(append)
    assert {kind for kind in EVENT_NAMES if texts(slot, kind)} == kinds
    assert set(woken(slot)) == kinds
    assert backlog(slot.state).records == bool(kinds)


@pytest.mark.parametrize("flags", [0, 1])
def test_a_repeated_message_makes_no_record(flags: int) -> None:
    slot = a_slot()
    for _ in range(3):
        slot.do(message("once", client_msg_no="no", flags=flags))
    assert texts(slot, OFFLINE) == ["once"]


def test_a_refused_message_makes_no_record() -> None:
    slot = a_slot()
    assert slot.do(Append(GROUP, False, "stranger", b"no")).reason == 3
    assert backlog(slot.state) == Backlog(0, 0, 0, 0)
    assert woken(slot) == []


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        ([], {NOTIFY, OFFLINE}),
        (["msg.notify"], {NOTIFY}),
        (["msg.offline"], {OFFLINE}),
        (["user.onlinestatus"], set()),
        (["user.onlinestatus", "msg.offline"], {OFFLINE}),
        (["msg.unknown"], set()),
        (["MSG.NOTIFY"], set()),
    ],
)
def test_only_events_that_are_wanted_are_recorded(events: list[str], kinds: set[int]) -> None:
    slot = a_slot(events)
    slot.do(message("hi"))
    assert {kind for kind in EVENT_NAMES if texts(slot, kind)} == kinds


def test_without_a_webhook_there_is_no_row_and_no_cost() -> None:
    off, on = Slot(webhook_on=False, webhook_events=["msg.notify"]), a_slot()
    off.do(PutChannel(GROUP, None, ["alice", "bob"]))
    before = off.state.slot_row.webhooks
    off.effects()
    for slot in (off, on):
        slot.do(message("hi"))
        slot.do(message("ho", flags=1))
    assert queue_rows(off) == {} and len(queue_rows(on)) == 2
    assert off.state.slot_row.webhooks == before == type(before)()
    assert [type(effect) for effect in off.effects()] == [FanOut, FanOut]


def test_a_message_for_two_kinds_is_one_row_that_refers_to_it() -> None:
    slot = a_slot()
    slot.do(message("x" * 5_000))
    ((key, value),) = queue_rows(slot).items()
    assert key == b"w\x03" + seq_part(1)
    assert len(value) < 40
    assert backlog(slot.state) == Backlog(1, len(key) + len(value), START_MS, 0)
    assert pending(slot.state, NOTIFY, limit=5) == pending(slot.state, OFFLINE, limit=5)


def test_a_message_that_is_not_stored_is_in_its_record() -> None:
    slot = a_slot()
    reply = slot.do(message("typing", flags=1, topic="t", expire=5, setting=0x80, recipients=["bob"]))
    (record,) = pending(slot.state, OFFLINE, limit=5)
    expected = Message(reply.message_id, 0, 1, 0x80, "alice", "", reply.timestamp, b"typing", 5, "t", ["bob"])
    assert record == Record(1, START_MS, GROUP, False, expected)


def test_a_command_is_read_from_its_twin() -> None:
    slot = a_slot()
    slot.do(message("chat"))
    slot.do(message("command", is_cmd=True))
    assert [
        (record.is_cmd, record.message.payload) for record in pending(slot.state, NOTIFY, limit=5) if record.message
    ] == [
        (False, b"chat"),
        (True, b"command"),
    ]


def test_a_record_whose_message_is_gone_says_so() -> None:
    slot = a_slot()
    slot.do(message("hi"))
    slot.state.delete(b"M" + channel_part(GROUP) + seq_part(1))
    (record,) = pending(slot.state, OFFLINE, limit=5)
    assert record.message is None
    assert webhooks.recipients(slot.state, record, limit=5) == ([], "")


def test_ids_rise_whatever_the_kind() -> None:
    slot = a_slot()
    for append in (message("a"), message("b", flags=1), message("c", AGENT), message("d")):
        slot.do(append)
    assert ids(slot, NOTIFY) == [1, 3, 4]
    assert ids(slot, OFFLINE) == [1, 2, 4]


def test_the_sender_is_woken_once_per_kind_and_pack() -> None:
    slot = a_slot()
    commands: list[Command] = [message("a", flags=1), message("b"), message("c"), message("d", AGENT)]
    slot.apply(Pack(2, 1, 1, 0, START_MS, commands))
    assert woken(slot) == [OFFLINE, NOTIFY]
    slot.apply(Pack(2, 1, 5, 0, START_MS, commands[:1]))
    assert woken(slot) == [OFFLINE]
    slot.apply(Pack(2, 1, 5, 0, START_MS, commands[:1]))
    assert woken(slot) == [], "a repeat"


# -- reading --


def test_records_are_read_in_pages_behind_an_id() -> None:
    slot = a_slot()
    for n in range(10):
        slot.do(message(str(n), flags=n % 2))
    assert texts(slot, OFFLINE, limit=3) == ["0", "1", "2"]
    assert texts(slot, OFFLINE, after=3, limit=3) == ["3", "4", "5"]
    assert texts(slot, NOTIFY, limit=3) == ["0", "2", "4"]
    assert texts(slot, NOTIFY, after=5) == ["6", "8"]
    assert ids(slot, NOTIFY, after=9) == ids(slot, OFFLINE, after=10) == ids(slot, OFFLINE, after=1 << 70) == []
    assert ids(slot, OFFLINE, limit=0) == []


def test_records_outlive_a_restart() -> None:
    slot = a_slot()
    slot.do(message("a"))
    slot.do(message("b", flags=1))
    slot.do(AdvanceWebhooks(NOTIFY, 1))
    before = [(pending(slot.state, kind, limit=9), cursor(slot.state, kind)) for kind in EVENT_NAMES]
    waiting = backlog(slot.state)
    slot.restart()
    assert [(pending(slot.state, kind, limit=9), cursor(slot.state, kind)) for kind in EVENT_NAMES] == before
    assert backlog(slot.state) == waiting


# -- delivered and given up --


def test_a_row_goes_when_all_its_kinds_are_done_with_it() -> None:
    slot = a_slot()
    for append in (message("both"), message("offline", flags=1), message("notify", AGENT)):
        slot.do(append)
    slot.do(AdvanceWebhooks(NOTIFY, 3))
    assert ids(slot, NOTIFY) == [] and ids(slot, OFFLINE) == [1, 2]
    assert list(queue_rows(slot)) == [b"w\x02" + seq_part(2), b"w\x03" + seq_part(1)]
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    assert ids(slot, OFFLINE) == [2]
    assert list(queue_rows(slot)) == [b"w\x02" + seq_part(2)]
    slot.do(AdvanceWebhooks(OFFLINE, 2))
    assert queue_rows(slot) == {} and backlog(slot.state) == Backlog(0, 0, 0, 0)


def test_a_cursor_never_moves_back_nor_behind_the_newest_id() -> None:
    slot = a_slot()
    for n in range(4):
        slot.do(message(str(n)))
    for upto, reached in ((2, 2), (2, 2), (1, 2), (0, 2), ((1 << 63) - 1, 4)):
        assert slot.do(AdvanceWebhooks(NOTIFY, upto)) == Reply()
        assert cursor(slot.state, NOTIFY) == reached
    slot.do(message("later"))
    assert texts(slot, NOTIFY) == ["later"]
    assert cursor(slot.state, OFFLINE) == 0 and len(ids(slot, OFFLINE)) == 5


@pytest.mark.parametrize("kind", [-1, 0, 3, 5, 7, 8, 1 << 40])
def test_only_one_kind_is_advanced_at_once(kind: int) -> None:
    slot = a_slot()
    slot.do(message("a"))
    assert slot.do(AdvanceWebhooks(kind, 1)) == Reply(15)
    assert [cursor(slot.state, kind) for kind in EVENT_NAMES] == [0, 0, 0]


def test_one_command_passes_a_limited_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "ROWS_PER_COMMAND", 3)
    slot = a_slot()
    for n in range(8):
        slot.do(message(str(n), flags=n % 2))
    reached = []
    while ids(slot, OFFLINE):
        slot.do(AdvanceWebhooks(OFFLINE, 100, dropped=True))
        reached.append(cursor(slot.state, OFFLINE))
    assert reached == [3, 6, 8]
    assert backlog(slot.state).dropped == 8


def test_events_that_are_given_up_are_counted_by_kind() -> None:
    slot = a_slot()
    for n in range(3):
        slot.do(message(str(n)))
    slot.do(AdvanceWebhooks(NOTIFY, 1))
    slot.do(AdvanceWebhooks(NOTIFY, 3, dropped=True))
    slot.do(AdvanceWebhooks(OFFLINE, 2, dropped=True))
    slot.do(AdvanceWebhooks(OFFLINE, 2, dropped=True))
    assert backlog(slot.state).dropped == 4
    assert backlog(slot.state).records == 1


def test_the_backlog_knows_its_oldest_record() -> None:
    slot = a_slot()
    appends = [message("both"), message("offline", flags=1), message("notify", AGENT), message("both again")]
    for append in appends:
        slot.now_ms += 1_000
        slot.do(append)
    oldest = []
    for kind, upto in ((NOTIFY, 1), (OFFLINE, 1), (OFFLINE, 2), (NOTIFY, 4), (OFFLINE, 4)):
        slot.do(AdvanceWebhooks(kind, upto))
        oldest.append(backlog(slot.state).oldest_ms - START_MS)
    assert oldest == [1_000, 2_000, 3_000, 4_000, -START_MS]


def test_what_waits_when_webhooks_are_switched_off_can_be_given_up() -> None:
    slot = a_slot()
    slot.do(message("a"))
    slot.do(PutSettings(encode(Settings())))
    slot.deliver()
    slot.do(message("b"))
    assert webhooks.wanted(slot.state.settings) == 0
    assert texts(slot, NOTIFY) == ["a"]
    slot.do(AdvanceWebhooks(NOTIFY, 9, dropped=True))
    slot.do(AdvanceWebhooks(OFFLINE, 9, dropped=True))
    assert queue_rows(slot) == {}


# -- who was online --


def test_who_was_online_is_written_down_once() -> None:
    slot = a_slot()
    for n in range(5):
        slot.do(message(str(n), flags=n % 2))
    slot.do(FreezeOffline([2, 4, 3, 3, 77], ["bob", "carol"]))
    slot.do(FreezeOffline([3, 5], []))
    slot.do(FreezeOffline([2, 3, 4, 5], ["nobody"]))
    slot.restart()
    found = {record.id: record.online for record in pending(slot.state, OFFLINE, limit=9)}
    assert found == {1: None, 2: ["bob", "carol"], 3: ["bob", "carol"], 4: ["bob", "carol"], 5: []}
    assert {record.online is None for record in pending(slot.state, NOTIFY, limit=9)} == {True}
    lists = [key for key in queue_rows(slot) if key[1] == 16]
    assert len(lists) == 2, "one for each command that had something to say"


def test_a_list_goes_with_the_last_record_that_it_is_for() -> None:
    slot = a_slot()
    for n in range(3):
        slot.do(message(str(n), flags=1))
    slot.do(FreezeOffline([1, 3], ["bob"]))
    slot.do(AdvanceWebhooks(OFFLINE, 2))
    (record,) = pending(slot.state, OFFLINE, limit=9)
    assert record.online == ["bob"]
    slot.do(AdvanceWebhooks(OFFLINE, 3))
    assert queue_rows(slot) == {} and backlog(slot.state).bytes == 0


def test_a_list_goes_although_its_record_still_waits_for_another_kind() -> None:
    slot = a_slot()
    slot.do(message("both"))
    slot.do(FreezeOffline([1], ["bob"]))
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    assert list(queue_rows(slot)) == [b"w\x03" + seq_part(1)]
    slot.do(FreezeOffline([1], ["bob"]))
    assert list(queue_rows(slot)) == [b"w\x03" + seq_part(1)], "it is delivered"
    slot.do(AdvanceWebhooks(NOTIFY, 1))
    assert queue_rows(slot) == {} and backlog(slot.state).bytes == 0


def test_a_list_for_what_is_delivered_is_not_written() -> None:
    slot = a_slot()
    slot.do(message("both"))
    slot.do(AdvanceWebhooks(OFFLINE, 1))
    slot.do(FreezeOffline([1], ["bob"]))
    assert list(queue_rows(slot)) == [b"w\x03" + seq_part(1)], "nobody would delete it"


def test_what_is_no_record_of_msg_offline_has_no_list() -> None:
    slot = a_slot()
    slot.do(message("notify", AGENT))
    before = slot.rows()
    assert slot.do(FreezeOffline([1, 2], ["bob"])) == Reply()
    assert set(queue_rows(slot)) == {key for key in before if key[:1] == b"w"}


@pytest.mark.parametrize(
    "command",
    [
        FreezeOffline([0], []),
        FreezeOffline([-1], []),
        FreezeOffline([1 << 63], []),
        FreezeOffline([1], ["y" * 32_768]),
        FreezeOffline(list(range(1, 1_002)), []),
        AdvanceWebhooks(NOTIFY, -1),
        AdvanceWebhooks(NOTIFY, 1 << 63),
    ],
)
def test_what_is_out_of_bounds_is_refused(command: Command) -> None:
    slot = a_slot()
    slot.do(message("a"))
    before = queue_rows(slot)
    assert slot.do(command) == Reply(15)
    assert queue_rows(slot) == before


# -- no look-up passes by what is gone --


class Counting:
    """A view that counts how many keys, deleted ones too, its scans pass by."""

    def __init__(self, slot: Slot) -> None:
        self.deleted: set[bytes] = set()
        self.passed = 0
        state, view = slot.state, slot.state.view
        delete: Callable[[bytes], None] = view.delete

        def note(key: bytes) -> None:
            self.deleted.add(key)
            delete(key)

        def scan(
            start: bytes, end: bytes | None = None, *, limit: int | None = None, reverse: bool = False
        ) -> list[tuple[bytes, bytes]]:
            found = view.scan(start, end, limit=limit, reverse=reverse)
            last = found[-1][0] if found and len(found) == limit else end
            self.passed += sum(start <= key and (last is None or key < last) for key in self.deleted)
            return found

        state.delete, state.scan = note, scan


@pytest.mark.parametrize("seed", range(5))
def test_nobody_passes_by_deleted_rows(seed: int) -> None:
    random = Random(seed)
    slot = a_slot()
    counting = Counting(slot)
    for n in range(400):
        slot.do(message(str(n), random.choice((GROUP, AGENT)), flags=random.randrange(2)))
        kind = random.choice(list(EVENT_NAMES))
        waiting = ids(slot, kind, limit=9)
        backlog(slot.state)
        if waiting:
            slot.do(AdvanceWebhooks(kind, random.choice(waiting)))
    assert len(counting.deleted) > 100
    assert counting.passed == 0


def test_a_kind_without_records_of_its_own_does_not_pass_by_those_of_others() -> None:
    """What is read for msg.notify and user.onlinestatus does not grow with records of msg.offline alone."""
    slot = a_slot()
    for n in range(200):
        slot.do(message(str(n), flags=1))
    slot.do(message("stored"))
    found: list[int] = []
    scan = slot.state.scan

    def counted(start: bytes, end: bytes | None = None, *, limit: int | None = None, reverse: bool = False):  # type: ignore[no-untyped-def]
        rows = scan(start, end, limit=limit, reverse=reverse)
        found.append(len(rows))
        return rows

    slot.state.scan = counted
    assert texts(slot, NOTIFY, limit=50) == ["stored"] and texts(slot, ONLINE, limit=50) == []
    assert sum(found) == 1
