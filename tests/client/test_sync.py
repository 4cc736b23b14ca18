from typing import Any

import pytest

from tests.client.canned_api import CannedApi, canned_api
from wukong.client import AdminClient, ApiUnavailable, ChannelHead, HttpSyncProvider, SyncRefused

HEADER = {"no_persist": 0, "red_dot": 1, "sync_once": 0}
REFUSED = (400, {"msg": "no", "status": 400})


def row(seq: int, *, channel_id: str = "g", channel_type: int = 2, from_uid: str = "x") -> dict[str, Any]:
    return {
        "header": HEADER,
        "message_id": 100 + seq,
        "client_msg_no": f"n{seq}",
        "message_seq": seq,
        "from_uid": from_uid,
        "channel_id": channel_id,
        "channel_type": channel_type,
        "timestamp": 5,
        "payload": "aGk=",
    }


def conversation(channel_id: str, channel_type: int, last_seq: int, read_seq: int) -> dict[str, Any]:
    return {
        "channel_id": channel_id,
        "channel_type": channel_type,
        "last_msg_seq": last_seq,
        "readed_to_msg_seq": read_seq,
        "recents": [],
    }


async def test_channels_are_the_conversations_and_the_system_account() -> None:
    answers = {
        "/conversation/sync": (200, [conversation("g", 2, 9, 4), conversation("bob", 1, 3, 3)]),
        "/channel/max_message_seq": (200, {"message_seq": 7}),
    }
    async with canned_api(answers) as api, AdminClient(api.url) as admin:
        heads = await HttpSyncProvider(admin, "alice").channels()
    assert heads == [ChannelHead("g", 2, 9, 4), ChannelHead("bob", 1, 3, 3), ChannelHead("", 1, 7, 0)]
    assert api.requests[0].body["uid"] == "alice"
    assert api.requests[1].query == {"channel_id": "____system", "channel_type": "1", "login_uid": "alice"}


async def test_a_server_that_refuses_to_speak_of_an_unknown_channel_has_no_messages_in_it() -> None:
    answers = {"/conversation/sync": (200, []), "/channel/max_message_seq": REFUSED}
    async with canned_api(answers) as api, AdminClient(api.url) as admin:
        assert await HttpSyncProvider(admin, "alice").channels() == [ChannelHead("", 1, 0, 0)]


async def test_a_read_position_beyond_the_last_message_is_not_believed() -> None:
    """WuKongIM shows 4294967295 after setUnread on an empty channel (http-api.md, 11.3)."""
    answers = {
        "/conversation/sync": (200, [conversation("g", 2, 9, 4_294_967_295)]),
        "/channel/max_message_seq": (200, {"message_seq": 0}),
    }
    async with canned_api(answers) as api, AdminClient(api.url) as admin:
        assert (await HttpSyncProvider(admin, "alice").channels())[0].start_seq == 9


async def test_a_pull_asks_for_what_follows_and_names_the_channel_as_the_user_sees_it() -> None:
    rows = [row(6, channel_id="alice", channel_type=1, from_uid="bob"), row(7, channel_id="bob", channel_type=1)]
    async with canned_api({"/channel/messagesync": (200, {"messages": rows})}) as api, AdminClient(api.url) as admin:
        messages = await HttpSyncProvider(admin, "alice").pull("bob", 1, 5, 50)
    assert [(message.message_seq, message.channel_id, message.synced) for message in messages] == [
        (6, "bob", True),
        (7, "bob", True),
    ]
    assert api.requests[0].body == {
        "login_uid": "alice",
        "channel_id": "bob",
        "channel_type": 1,
        "start_message_seq": 6,
        "end_message_seq": 0,
        "limit": 50,
        "pull_mode": 1,
    }


async def test_the_channel_without_a_name_is_that_of_the_system_account() -> None:
    rows = [row(1, channel_id="____system", channel_type=1, from_uid="")]
    async with canned_api({"/channel/messagesync": (200, {"messages": rows})}) as api, AdminClient(api.url) as admin:
        messages = await HttpSyncProvider(admin, "alice").pull("", 1, 0, 50)
    assert (messages[0].channel_id, messages[0].from_uid) == ("", "")
    assert api.requests[0].body["channel_id"] == "____system"


async def test_commands_lose_their_suffix_and_persons_are_the_other_one() -> None:
    rows = [
        row(1, channel_id="g____cmd"),
        row(2, channel_id="alice____cmd", channel_type=1, from_uid="bob"),
        row(3, channel_id="bob____cmd", channel_type=1, from_uid="alice"),
    ]
    answers = {"/message/sync": (200, rows), "/message/syncack": (200, {"status": 200})}
    async with canned_api(answers) as api, AdminClient(api.url) as admin:
        provider = HttpSyncProvider(admin, "alice")
        commands = await provider.commands(10)
        await provider.commands_taken(3)
    assert [command.channel_id for command in commands] == ["g", "bob", "bob"]
    assert [request.body for request in api.requests] == [
        {"uid": "alice", "limit": 10},
        {"uid": "alice", "last_message_seq": 3},
    ]


CALLS = {
    "channels": lambda provider: provider.channels(),
    "pull": lambda provider: provider.pull("g", 2, 0, 10),
    "commands": lambda provider: provider.commands(10),
    "commands_taken": lambda provider: provider.commands_taken(1),
}
PATHS = ("/conversation/sync", "/channel/messagesync", "/message/sync", "/message/syncack")


async def provider_call(api: CannedApi, name: str) -> None:
    async with AdminClient(api.url) as admin:
        await CALLS[name](HttpSyncProvider(admin, "alice"))


@pytest.mark.parametrize("name", CALLS)
async def test_a_refusal_is_final_and_trouble_is_not(name: str) -> None:
    async with canned_api(dict.fromkeys(PATHS, REFUSED)) as api:
        with pytest.raises(SyncRefused):
            await provider_call(api, name)
        api.answers = dict.fromkeys(PATHS, (503, ""))
        with pytest.raises(ApiUnavailable):
            await provider_call(api, name)
