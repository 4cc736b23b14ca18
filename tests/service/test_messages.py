"""Sending for the back end, and reading messages back."""

import asyncio

import pytest

from tests.service.stack import Stack
from wukong.channel.commands import Append, ChannelInfo, PutChannel
from wukong.channel.effects import FanOut
from wukong.channel.ids import ChannelId
from wukong.channel.state import Settings
from wukong.dispatch.probes import Probes
from wukong.errors import RequestRefused, Unavailable
from wukong.service.messages import NO_PERSIST, SYNC_ONCE, Messages, Twin, fnv1a_64, new_client_msg_no

GROUP = ChannelId(2, "g")


def fan_outs(stack: Stack) -> list[FanOut]:
    return [effect for effect in stack.effects if isinstance(effect, FanOut)]


async def send(stack: Stack, payload: bytes = b"hi", *, flags: int = 0, number: str = "", **where: str | int) -> int:
    target = {"channel_id": "g", "channel_type": 2, "from_uid": "a", **where}
    sent = await stack.use_cases.messages.send(payload=payload, flags=flags, client_msg_no=number, **target)  # type: ignore[arg-type]
    return sent.message_seq


# -- sending --


async def test_a_send_is_answered_when_the_message_can_be_read(stack: Stack) -> None:
    sent = await stack.use_cases.messages.send(
        channel_id="g", channel_type=2, from_uid="a", payload=b"hi", flags=0, expire=60, setting=2
    )
    stored = await stack.use_cases.messages.last_message(Twin(GROUP, False))
    assert stored is not None
    assert (stored.message_id, stored.expire, stored.setting) == (sent.message_id, 60, 2)


async def test_the_back_end_passes_the_senders_permission_checks(stack: Stack) -> None:
    assert await send(stack) == 1


@pytest.mark.parametrize(
    ("info", "reason"), [(ChannelInfo(ban=True), 19), (ChannelInfo(disband=True), 24), (ChannelInfo(True, True), 19)]
)
async def test_a_send_that_the_channel_forbids_is_refused_with_the_reason(
    stack: Stack, info: ChannelInfo, reason: int
) -> None:
    await stack.use_cases.channels.put_info(GROUP, info)
    with pytest.raises(RequestRefused, match=f"reason {reason}"):
        await send(stack)


async def test_the_same_number_and_payload_twice_is_one_message(stack: Stack) -> None:
    assert [await send(stack, number="n"), await send(stack, number="n")] == [1, 1]
    assert len(fan_outs(stack)) == 1


@pytest.mark.parametrize(
    ("channel_id", "channel_type", "flags", "log"),
    [
        ("g", 2, 0, Twin(GROUP, False)),
        ("g", 2, SYNC_ONCE, Twin(GROUP, True)),
        ("g____cmd", 2, 0, Twin(GROUP, True)),
        ("g____cmd", 2, SYNC_ONCE, Twin(GROUP, True)),
        ("t", 8, SYNC_ONCE, Twin(ChannelId(8, "t"), False)),
        ("systemcmdonline", 8, SYNC_ONCE, Twin(ChannelId(8, "systemcmdonline"), False)),
        ("systemcmdonline", 2, SYNC_ONCE, Twin(ChannelId(2, "systemcmdonline"), False)),
        ("bob", 1, 0, Twin(ChannelId(1, "bob@alice"), False)),
        ("bob", 1, SYNC_ONCE, Twin(ChannelId(1, "bob@alice"), True)),
        ("bot", 11, 0, Twin(ChannelId(11, "alice@bot"), False)),
        ("g", 0, 0, Twin(ChannelId(0, "g"), False)),
    ],
)
async def test_a_send_goes_to_the_log_that_its_target_and_flags_name(
    stack: Stack, channel_id: str, channel_type: int, flags: int, log: Twin
) -> None:
    seq = await send(stack, flags=flags, channel_id=channel_id, channel_type=channel_type, from_uid="alice")
    assert seq == await stack.use_cases.messages.last_seq(log) == 1


@pytest.mark.parametrize(
    "target",
    [
        {"channel_id": "x@y"},
        {"channel_id": "x#y"},
        {"channel_id": "x&y"},
        {"channel_id": "b", "channel_type": 1, "from_uid": "x@y"},
        {"channel_id": "x" * 40_000},
        {"from_uid": "x" * 40_000},
        {"number": "x" * 40_000},
    ],
)
async def test_ids_that_cannot_be_are_refused_before_anything_is_proposed(
    stack: Stack, target: dict[str, str | int]
) -> None:
    before = stack.commands(Append)
    with pytest.raises(RequestRefused):
        await send(stack, **target)  # type: ignore[arg-type]
    assert stack.commands(Append) == before


async def test_a_payload_up_to_the_limit_passes_and_a_larger_one_is_refused(stack: Stack) -> None:
    assert await send(stack, b"x" * 32_767) == 1
    with pytest.raises(RequestRefused, match="32767"):
        await send(stack, b"x" * 32_768)


def test_generated_numbers_are_a_uuid_and_a_zero() -> None:
    number = new_client_msg_no()
    assert len(number) == 33
    assert number.endswith("0")
    assert int(number, 16)
    assert number != new_client_msg_no()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0xCBF29CE484222325),
        ("a", 0xAF63DC4C8601EC8C),
        ("foobar", 0x85944171F73967E8),
        ("u1,u2", 17922244540036557902),
    ],
)
def test_the_hash_is_fnv_1a(text: str, value: int) -> None:
    assert fnv1a_64(text.encode()) == value


async def test_a_stored_command_to_listed_users_names_a_channel_by_the_hash_of_the_list(stack: Stack) -> None:
    await stack.use_cases.messages.send_to(["u1", "u2"], from_uid="a", payload=b"cmd", flags=SYNC_ONCE)
    [effect] = fan_outs(stack)
    assert (effect.channel, effect.is_cmd) == (ChannelId(8, "17922244540036557902"), True)
    assert effect.message.recipients == ["u1", "u2"]
    [pending] = await stack.use_cases.command_sync.sync("u2", limit=10)
    assert [message.payload for message in pending.messages] == [b"cmd"]


async def test_an_unstored_command_to_listed_users_uses_the_online_command_channel(stack: Stack) -> None:
    flags = SYNC_ONCE | NO_PERSIST
    await stack.use_cases.messages.send_to(["u1", "u1", "", "u2"], from_uid="a", payload=b"cmd", flags=flags)
    [effect] = fan_outs(stack)
    assert (effect.channel, effect.is_cmd) == (ChannelId(8, "systemcmdonline"), False)
    assert (effect.message.recipients, effect.message.message_seq) == (["u1", "u2"], 0)
    assert await stack.use_cases.command_sync.sync("u2", limit=10) == []


async def test_a_command_to_more_users_than_a_command_holds_reaches_each_once() -> None:
    stack = await Stack().start(Settings(members_per_command=10))
    uids = [f"u{n}" for n in range(25)]
    await stack.use_cases.messages.send_to(uids, from_uid="a", payload=b"cmd", flags=SYNC_ONCE)
    reached = [uid for effect in fan_outs(stack) for uid in effect.message.recipients or ()]
    assert reached == uids
    assert [
        len(pending.messages) for uid in uids for pending in await stack.use_cases.command_sync.sync(uid, limit=9)
    ] == ([1] * 25)


async def test_a_list_too_long_to_hash_on_the_loop_has_the_same_hash(stack: Stack) -> None:
    uids = [f"user-{n:030}" for n in range(1_500)]
    await stack.use_cases.messages.send_to(uids, from_uid="a", payload=b"cmd", flags=SYNC_ONCE)
    assert {effect.channel.id for effect in fan_outs(stack)} == {str(fnv1a_64(",".join(uids).encode()))}


async def test_a_batch_reaches_everybody_but_the_impossible_who_come_back_with_a_reason(stack: Stack) -> None:
    uids = ["b", "x@y", "c", " ", "b"]
    failures = await stack.use_cases.messages.send_to_each(uids, from_uid="a", payload=b"hi", flags=0)
    assert [failure.uid for failure in failures] == ["x@y", " "]
    assert {failure.reason for failure in failures} == {"频道ID不合法！"}
    named = stack.use_cases.messages.named
    assert await stack.use_cases.messages.last_seq(named("b", 1, "a")) == 2
    assert await stack.use_cases.messages.last_seq(named("c", 1, "a")) == 1


async def test_a_batch_whose_outcome_is_unknown_fails_as_a_whole() -> None:
    stack = await Stack(timeout_ms=20).start()
    stack.log.hold = True
    with pytest.raises(Unavailable):
        await stack.use_cases.messages.send_to_each(["b", "x@y"], from_uid="a", payload=b"hi", flags=0)


# -- history --

RANGES = [
    # start, end, limit, newer -> seqs, more. A log of 25 (http-api.md 9.8).
    (0, 0, 10, False, range(16, 26), True),
    (0, 0, 10, True, range(16, 26), True),
    (0, 0, 25, False, range(1, 26), True),
    (0, 0, 26, False, range(1, 26), False),
    (0, 0, 1, False, [25], True),
    (0, 0, 0, False, [], True),
    (0, 0, 0, True, [], True),
    (5, 0, 10, True, range(5, 15), True),
    (16, 0, 10, True, range(16, 26), True),
    (17, 0, 10, True, range(17, 26), False),
    (26, 0, 10, True, [], False),
    (5, 9, 10, True, range(5, 9), False),
    (5, 15, 10, True, range(5, 15), True),
    (5, 16, 10, True, range(5, 15), True),
    (9, 5, 10, True, [], False),
    (9, 9, 10, True, [], False),
    (0, 4, 10, True, range(1, 4), False),
    (20, 0, 0, True, range(20, 26), True),
    (1, 0, 99, True, range(1, 26), False),
    (20, 0, 10, False, range(11, 21), True),
    (9, 0, 10, False, range(1, 10), False),
    (10, 0, 10, False, range(1, 11), True),
    (20, 15, 10, False, range(16, 21), False),
    (20, 10, 10, False, range(11, 21), True),
    (20, 5, 10, False, range(11, 21), True),
    (5, 5, 10, False, [], False),
    (5, 9, 10, False, [], False),
    (0, 9, 10, False, [], False),
    (5, 0, 0, False, [], True),
    (30, 0, 10, False, range(21, 26), False),
    (100, 0, 10, False, [], False),
    (2**64 - 1, 0, 10, False, [], False),
    (2**64 - 1, 0, 10, True, [], False),
    (1, 2**64 - 1, 10, True, range(1, 11), True),
]


@pytest.mark.parametrize("is_cmd", [False, True])
async def test_history_follows_the_table_of_ranges(stack: Stack, is_cmd: bool) -> None:
    for n in range(25):
        await send(stack, str(n + 1).encode(), flags=SYNC_ONCE if is_cmd else 0)
    for start, end, limit, newer, seqs, more in RANGES:
        page = await stack.use_cases.messages.history(
            Twin(GROUP, is_cmd), start=start, end=end, limit=limit, newer=newer
        )
        found = [message.message_seq for message in page.messages]
        assert (found, page.more) == (list(seqs), more), (start, end, limit, newer)


@pytest.mark.parametrize(("limit", "more"), [(10, False), (0, True)])
async def test_an_unknown_channel_has_an_empty_history(stack: Stack, limit: int, more: bool) -> None:
    page = await stack.use_cases.messages.history(Twin(GROUP, False), start=0, end=0, limit=limit, newer=False)
    assert (page.messages, page.more) == ([], more)


async def many(stack: Stack, count: int, payload: bytes = b"x") -> None:
    await asyncio.gather(*(send(stack, payload) for _ in range(count)))


@pytest.mark.parametrize("newer", [False, True])
async def test_a_history_of_many_slices_is_whole_and_ascending(stack: Stack, newer: bool) -> None:
    await many(stack, 1_000)
    start = 1 if newer else 0
    page = await stack.use_cases.messages.history(Twin(GROUP, False), start=start, end=0, limit=900, newer=newer)
    first = 1 if newer else 101
    assert [message.message_seq for message in page.messages] == list(range(first, first + 900))
    assert page.more


@pytest.mark.parametrize(("newer", "first"), [(False, 513), (True, 1)])
async def test_a_page_ends_at_its_limit_of_bytes_and_says_that_there_is_more(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, newer: bool, first: int
) -> None:
    monkeypatch.setattr("wukong.service.messages.PAGE_BYTES", 2_000)
    await many(stack, 768, b"x" * 10)
    start = 1 if newer else 0
    page = await stack.use_cases.messages.history(Twin(GROUP, False), start=start, end=0, limit=5_000, newer=newer)
    assert [message.message_seq for message in page.messages] == list(range(first, first + 256))
    assert page.more


# -- single messages --


async def test_messages_are_found_by_seq_then_id_then_number_in_the_order_asked(stack: Stack) -> None:
    messages = stack.use_cases.messages
    ids = [
        (
            await messages.send(
                channel_id="g", channel_type=2, from_uid="a", payload=b"x", flags=0, client_msg_no=f"n{n}"
            )
        ).message_id
        for n in range(4)
    ]
    found = await messages.find(
        Twin(GROUP, False), seqs=[3, 1, 99, 3, 0], message_ids=[ids[1], 7, -1], client_msg_nos=["n3", "none", "n0", ""]
    )
    assert [message.message_seq for message in found] == [3, 1, 3, 2, 4, 1]


async def test_an_id_of_another_channel_is_not_found(stack: Stack) -> None:
    other = await stack.use_cases.messages.send(channel_id="h", channel_type=2, from_uid="a", payload=b"x", flags=0)
    await send(stack)
    assert (
        await stack.use_cases.messages.find(
            Twin(GROUP, False), seqs=[], message_ids=[other.message_id], client_msg_nos=[]
        )
        == []
    )


async def test_asking_for_too_many_messages_is_refused(stack: Stack) -> None:
    with pytest.raises(RequestRefused, match="10000"):
        await stack.use_cases.messages.find(Twin(GROUP, False), seqs=[1] * 10_000, message_ids=[], client_msg_nos=["x"])


@pytest.mark.parametrize(
    ("channel_id", "kind", "uid", "twin"),
    [
        ("g", 2, "a", Twin(GROUP, False)),
        ("g____cmd", 2, "a", Twin(GROUP, True)),
        ("bob", 1, "alice", Twin(ChannelId(1, "bob@alice"), False)),
        ("alice", 1, "bob", Twin(ChannelId(1, "bob@alice"), False)),
        ("bob____cmd", 1, "alice", Twin(ChannelId(1, "bob____cmd@alice"), False)),
        ("bot", 11, "u", Twin(ChannelId(11, "u@bot"), False)),
        ("bot____cmd", 11, "u", Twin(ChannelId(11, "u@bot____cmd"), False)),
        ("u@bot", 11, "u", Twin(ChannelId(11, "u@bot"), False)),
        ("u@bot", 11, "somebody", Twin(ChannelId(11, "u@bot"), False)),
    ],
)
async def test_a_user_names_a_log_by_what_he_sees(
    stack: Stack, channel_id: str, kind: int, uid: str, twin: Twin
) -> None:
    assert stack.use_cases.messages.named(channel_id, kind, uid) == twin


async def test_a_stored_id_names_a_log_as_it_is(stack: Stack) -> None:
    stored = stack.use_cases.messages.stored
    assert stored("bob@alice", 1) == Twin(ChannelId(1, "bob@alice"), False)
    assert stored("bob@alice____cmd", 1) == Twin(ChannelId(1, "bob@alice____cmd"), False)
    assert stored("g____cmd", 2) == Twin(GROUP, True)


async def test_a_channel_nobody_wrote_to_has_no_last_message(stack: Stack) -> None:
    assert await stack.use_cases.messages.last_seq(Twin(GROUP, False)) == 0
    assert await stack.use_cases.messages.last_message(Twin(GROUP, False)) is None


# -- the way of one message --


async def test_a_traced_message_tells_when_it_was_proposed_and_answered() -> None:
    stack = await Stack().start()
    probes = Probes(stack.clock)
    messages = Messages(stack.use_cases.replica, probes)
    sent = await messages.send(channel_id="g", channel_type=2, from_uid="a", payload=b"x", flags=0, traced=True)
    assert sent.trace is not None
    # There is no dispatcher here: nobody runs its effect.
    assert (sent.trace.received_ms, sent.trace.applied_ms, sent.trace.written_ms) == (0.0, None, None)
    assert sent.trace.answered_ms >= sent.trace.proposed_ms
    assert probes.open == {}


async def test_a_traced_message_that_is_refused_leaves_nothing_behind() -> None:
    stack = await Stack().start()
    await stack.run("g", PutChannel(GROUP, ChannelInfo(ban=True)))
    probes = Probes(stack.clock)
    messages = Messages(stack.use_cases.replica, probes)
    with pytest.raises(RequestRefused):
        await messages.send(channel_id="g", channel_type=2, from_uid="a", payload=b"x", flags=0, traced=True)
    assert probes.open == {}


async def test_without_being_asked_nothing_is_traced() -> None:
    stack = await Stack().start()
    messages = Messages(stack.use_cases.replica, Probes(stack.clock))
    sent = await messages.send(channel_id="g", channel_type=2, from_uid="a", payload=b"x", flags=0)
    assert sent.trace is None
