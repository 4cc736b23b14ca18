"""Conversations at a real server, few and ten thousand of them. behaviour.md 10 and 21, check 10; http-api.md 11."""

import asyncio
from itertools import count
from typing import Any

import pytest

from tests.scenarios.conftest import Clients, Deployment
from tests.support.http import GROUP, Api
from tests.support.wire import PERSON, fence, unique

PAGE = 500
NEWEST = 1_000
"""conversation.userMaxCount: what an answer without pages holds."""

Shape = dict[str, Any]


async def sync(api: Api, uid: str, **options: Any) -> list[Shape]:
    found: list[Shape] = await api.post("/conversation/sync", {"uid": uid, "msg_count": 1, **options})
    return found


async def all_pages(api: Api, uid: str, **options: Any) -> list[Shape]:
    found: list[Shape] = []
    for page in count(1):
        shapes = await sync(api, uid, page=page, page_size=PAGE, **options)
        found += shapes
        if not shapes:
            return found
        assert len(shapes) == PAGE or not await sync(api, uid, page=page + 1, page_size=PAGE, **options)
    raise AssertionError


def names(shapes: list[Shape]) -> list[str]:
    return [shape["channel_id"] for shape in shapes]


async def change(api: Api, call: str, uid: str, channel: str, kind: int = GROUP, **fields: int) -> None:
    body = {"uid": uid, "channel_id": channel, "channel_type": kind, **fields}
    await api.post(f"/conversations/{call}", body)


@pytest.mark.timeout(180)
async def test_ten_thousand_conversations_of_a_user_are_all_there(api: Api, deployment: Deployment) -> None:
    """On three nodes 2,500. The unread ones and the groups are the oldest, so whoever cuts first loses them."""
    uid, total = unique("u"), deployment.scaled(10_000)
    writers, groups = [unique("writer") for _ in range(50)], [unique("group") for _ in range(50)]
    read = [unique("read") for _ in range(total - 100)]
    for group in groups:
        await api.create(group, [uid, "other"])
    await asyncio.gather(
        *(api.send(writer, uid, b"hello", kind=PERSON) for writer in writers),
        *(api.send("other", group, b"hello") for group in groups),
    )
    # One's own message is read.
    await api.send_each(uid, read, b"hello", no_persist=False)
    everybody = {*writers, *groups, *read}

    shapes = await all_pages(api, uid)
    assert len(shapes) == total and set(names(shapes)) == everybody
    assert all(len(shape["recents"]) == 1 for shape in shapes)
    times = [shape["timestamp"] for shape in shapes]
    assert times == sorted(times, reverse=True)
    assert [shape["unread"] for shape in shapes if shape["channel_id"] in set(read)] == [0] * len(read)
    newest = await sync(api, uid)
    assert names(newest) == names(shapes[:NEWEST])
    assert await sync(api, uid, page=total // 100 + 1, page_size=100) == []

    # What is left out takes no place.
    unread = {*writers, *groups}
    for options in ({"only_unread": 1}, {"version": 1}):
        assert set(names(await sync(api, uid, **options))) == unread
        assert set(names(await all_pages(api, uid, **options))) == unread
    assert set(names(await sync(api, uid, exclude_channel_types=[PERSON]))) == set(groups)
    assert len(await all_pages(api, uid, exclude_channel_types=[GROUP])) == total - len(groups)

    # The client has everything but what comes now.
    has = "|".join(f"{shape['channel_id']}:{shape['channel_type']}:{shape['last_msg_seq']}" for shape in shapes)
    assert await sync(api, uid, last_msg_seqs=has) == []
    await api.send("other", groups[0], b"again")
    await api.send(writers[0], uid, b"again", kind=PERSON)
    news = await sync(api, uid, last_msg_seqs=has)
    assert {(shape["channel_id"], shape["unread"], len(shape["recents"])) for shape in news} == {
        (groups[0], 2, 1),
        (writers[0], 2, 1),
    }
    assert set(names((await sync(api, uid))[:2])) == {groups[0], writers[0]}, "the newest message decides the order"
    named = await sync(api, uid, last_msg_seqs=f"{groups[1]}:2:0", exclude_channel_types=[PERSON, GROUP])
    assert names(named) == [groups[1]], "named by the client, it is not left out"

    asked = [{"channel_id": shape["channel_id"], "channel_type": shape["channel_type"]} for shape in shapes]
    answered = await api.post("/conversation/syncByChannels", {"uid": uid, "channels": asked, "msg_count": 1})
    assert names(answered) == names(shapes)
    stored = await api.post("/conversation/channels", {"uid": uid})
    assert len(stored) == NEWEST and {groups[0]} <= {each["channel_id"] for each in stored}

    # Changes in the oldest.
    last = groups[-1]
    await change(api, "clearUnread", uid, last)
    await change(api, "setUnread", uid, writers[-1], PERSON, unread=0)
    assert set(names(await sync(api, uid, only_unread=1))) == unread - {last, writers[-1]}
    await change(api, "delete", uid, last)
    assert set(names(await all_pages(api, uid))) == everybody - {last}
    await api.send("other", last, b"again")
    newest = await sync(api, uid, msg_count=10)
    shape = next(each for each in newest if each["channel_id"] == last)
    assert shape["unread"] == 1
    assert shape["timestamp"] == newest[0]["timestamp"], "of one second any may be the first"
    assert [message["message_seq"] for message in shape["recents"]] == [2]


# Steps: a, b: a message of theirs; c: b clears; a digit: b sets his unread; D: b deletes; n: a's that is not stored;
# q: a command; r: b is removed and added again; x: b is denied and again not. -> what b sees: unread, read, recents.
SCRIPTS: list[tuple[str, int, int, list[int]]] = [
    ("aaa", 3, 0, [3, 2, 1]),
    ("aab", 0, 3, [3, 2, 1]),
    ("abaa", 2, 2, [4, 3, 2, 1]),
    ("aaac", 0, 3, [3, 2, 1]),
    ("aaca", 1, 2, [3, 2, 1]),
    ("aaaaa2", 2, 3, [5, 4, 3, 2, 1]),
    ("aaaaa24", 2, 3, [5, 4, 3, 2, 1]),
    ("aaa9", 1, 2, [3, 2, 1]),
    ("3aa", 2, 0, [2, 1]),
    ("caa", 2, 0, [2, 1]),
    ("aaaDa", 4, 0, [4]),
    ("aaacDa", 1, 3, [4]),
    ("aaDac", 0, 3, [3]),
    ("abaDa", 2, 2, [4]),
    ("aannqqa", 3, 0, [3, 2, 1]),
    ("aaraa", 2, 2, [4, 3, 2, 1]),
    ("aaxaa", 2, 2, [4, 3, 2, 1]),
    ("bbbb", 0, 4, [4, 3, 2, 1]),
    ("bbcaaa1", 1, 4, [5, 4, 3, 2, 1]),
]
HIDDEN = ["aaaD", "aaacD", "abD", ""]


async def play(api: Api, steps: str) -> tuple[str, str]:
    """Returns the group and who b is."""
    group, a, b = unique("group"), unique("a"), unique("b")
    await api.create(group, [a, b])
    for step in steps:
        match step:
            case "a" | "b":
                await api.send(a if step == "a" else b, group, b"text")
            case "n":
                await api.send(a, group, b"passing", no_persist=True)
            case "q":
                await api.send(a, group, b"command", sync_once=True)
            case "c":
                await change(api, "clearUnread", b, group, message_seq=1)
            case "D":
                await change(api, "delete", b, group)
            case "r":
                await api.remove(group, [b])
                await api.add(group, [b])
            case "x":
                await api.change_list("blacklist_add", group, [b])
                assert group not in await api.conversations(b)
                await api.change_list("blacklist_remove", group, [b])
            case _:
                await change(api, "setUnread", b, group, unread=int(step))
    return group, b


async def test_check_10_unread_follows_from_read_positions_and_ones_own_messages(api: Api) -> None:
    played = await asyncio.gather(*(play(api, steps) for steps, *_ in SCRIPTS))
    for (steps, unread, read_seq, recents), (group, uid) in zip(SCRIPTS, played, strict=True):
        (shape,) = await sync(api, uid, msg_count=10)
        assert [message["message_seq"] for message in shape["recents"]] == recents, steps
        assert (shape["channel_id"], shape["unread"], shape["readed_to_msg_seq"]) == (group, unread, read_seq), steps
        assert shape["last_msg_seq"] == recents[0] and shape["offset_msg_seq"] == 0
        assert shape["version"] == shape["timestamp"] * 10**9
        only_unread = await sync(api, uid, msg_count=10, only_unread=1)
        above_read = [seq for seq in recents if seq > stored_read_seq(steps)]
        assert [[message["message_seq"] for message in each["recents"]] for each in only_unread] == (
            [above_read] if above_read else []
        ), steps
        newest = recents[0]
        assert await sync(api, uid, last_msg_seqs=f"{group}:2:{newest}") == []
        (again,) = await sync(api, uid, msg_count=10, last_msg_seqs=f"{group}:2:{newest - 1}")
        assert ([message["message_seq"] for message in again["recents"]], again["unread"]) == ([newest], unread), steps


def stored_read_seq(steps: str) -> int:
    """What the row says: one's own messages move what is shown, not the row (behaviour.md 10.2, step 4)."""
    last = read = 0
    for step in steps:
        if step in "ab":
            last += 1
        elif step in "crx":
            read = last
        elif step.isdigit() and last:
            read = max(read, last - int(step) if int(step) <= last else last - 1)
    return read


async def test_check_10_a_deleted_or_empty_conversation_is_not_shown(api: Api) -> None:
    for steps in HIDDEN:
        group, uid = await play(api, steps)
        assert await sync(api, uid) == []
        (shape,) = await api.post(
            "/conversation/syncByChannels", {"uid": uid, "channels": [{"channel_id": group, "channel_type": GROUP}]}
        )
        assert len(shape["recents"]) == len(steps.replace("D", "").replace("c", "")), "deletion does not count here"
        stored = await api.post("/conversation/channels", {"uid": uid})
        assert stored == [{"channel_id": group, "channel_type": GROUP}]


async def test_check_10_both_persons_have_the_conversation_from_the_first_message_on(
    api: Api, clients: Clients
) -> None:
    a, b = await clients.connect_all([unique("a"), unique("b")])
    await a.send(b.uid, b"1", kind=PERSON)
    await a.send(b.uid, b"2", kind=PERSON)
    await fence(api, [b])
    (mine,), (theirs,) = await sync(api, a.uid), await sync(api, b.uid)
    assert (mine["channel_id"], mine["unread"], theirs["channel_id"], theirs["unread"]) == (b.uid, 0, a.uid, 2)
    await b.send(a.uid, b"3", kind=PERSON)
    (mine,), (theirs,) = await sync(api, a.uid), await sync(api, b.uid)
    assert (mine["unread"], mine["readed_to_msg_seq"], theirs["unread"]) == (1, 2, 0)
    await change(api, "delete", b.uid, a.uid, PERSON)
    assert await sync(api, b.uid) == [] and names(await sync(api, a.uid)) == [b.uid]
    # What the system account writes is no conversation.
    await api.send("", b.uid, b"from the system", kind=PERSON)
    assert await sync(api, b.uid) == []
