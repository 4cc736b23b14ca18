"""GET /message/explain: parameters, refusals, and who may ask. The verdicts: tests/service/test_explain.py."""

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.api.calls import Api
from tests.api.test_cluster import seen_from
from tests.api.test_connections import FakeNodes
from tests.service.stack import NODE_ID, Stack
from wukong.api.auth import NOT_LOCAL
from wukong.api.server import ApiOptions, build_app
from wukong.channel.ids import GROUP, PERSON, ChannelId, person_id
from wukong.service.explain import QUESTION, NodeFacts

TOKEN = "s3cret"
QUERY = "/message/explain?channel_id=room&message_seq=1"
PAIR = ChannelId(PERSON, person_id("alice", "bob"))


async def filled() -> Stack:
    """A message of alice in a group with bob and carol, and one to bob."""
    stack = await Stack().start()
    room = ChannelId(GROUP, "room")
    await stack.use_cases.channels.add_members(room, ["alice", "bob", "carol"], reset=False)
    assert (await stack.client_sends(room, "alice")).reason == 1
    assert (await stack.client_sends(PAIR, "alice")).reason == 1
    return stack


class FromElsewhere(Api):
    """Asked from an address, by a server with this manager token."""

    def __init__(self, stack: Stack, asker: str, token: str = "") -> None:
        self.stack = stack
        app = build_app(stack.use_cases, ApiOptions(manager_token=token))
        app.middlewares.insert(0, seen_from(asker))
        self._client = TestClient(TestServer(app))


async def test_everybody_concerned_is_told() -> None:
    async with Api(await filled()) as api:
        answer = await api.get(QUERY)
    assert (answer["channel_id"], answer["channel_type"], answer["command"]) == ("room", GROUP, False)
    assert answer["message"]["from_uid"] == "alice"
    assert [(user["uid"], user["recipient"], user["why"]) for user in answer["users"]] == [
        ("alice", True, "member"),
        ("bob", True, "member"),
        ("carol", True, "member"),
    ]
    assert answer["counts"]["recipients"] == 2
    assert [node["node"] for node in answer["nodes"]] == [NODE_ID]
    assert answer["next"] == ""


async def test_pages_and_single_users() -> None:
    async with Api(await filled()) as api:
        page = await api.get(f"{QUERY}&limit=2")
        assert ([user["uid"] for user in page["users"]], page["next"]) == (["alice", "bob"], "carol")
        page = await api.get(f"{QUERY}&limit=2&start=carol")
        assert ([user["uid"] for user in page["users"]], page["next"], page["counts"]) == (["carol"], "", None)
        one = await api.get(f"{QUERY}&uid=eve")
        assert [(user["uid"], user["recipient"]) for user in one["users"]] == [("eve", False)]


async def test_a_chat_of_two_is_named_in_two_ways() -> None:
    async with Api(await filled()) as api:
        for named in ("channel_id=bob&login_uid=alice", "channel_id=bob%40alice"):
            answer = await api.get(f"/message/explain?{named}&channel_type=1&message_seq=1")
            assert answer["channel_id"] == PAIR.id
            assert {user["uid"] for user in answer["users"]} == {"alice", "bob"}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("message_seq=1", "channel_id is missing"),
        ("channel_id=room", "message_seq or message_id is missing"),
        ("channel_id=room&message_seq=-1", "message_seq or message_id is missing"),
        ("channel_id=room&message_seq=x", "message_seq or message_id is missing"),
        ("channel_id=room&message_seq=1&channel_type=0", "channel_type is no number"),
        ("channel_id=room&message_seq=1&channel_type=256", "channel_type is no number"),
        ("channel_id=bob&message_seq=1&channel_type=1", "needs both"),
        ("channel_id=room&message_seq=9", "its last message is 1"),
        ("channel_id=room&message_seq=1&cmd=1", "it has no commands"),
        ("channel_id=room&message_id=5", "has this id"),
        (f"channel_id={'x' * 40_000}&message_seq=1", ""),
    ],
)
async def test_what_is_missing_or_not_there_is_said(query: str, text: str) -> None:
    async with Api(await filled()) as api:
        if text:
            assert text in await api.refused(f"/message/explain?{query}", method="GET")
        else:
            assert (await api.call("GET", f"/message/explain?{query}")).status == 400


async def test_without_a_token_it_is_for_this_machine_alone_and_no_web_page() -> None:
    stack = await filled()
    async with FromElsewhere(stack, "192.0.2.7") as api:
        answer = await api.call("GET", QUERY)
        assert (answer.status, answer.body) == (403, {"msg": NOT_LOCAL, "status": 403})
    async with Api(stack) as api:
        for headers in (
            {"X-Forwarded-For": "192.0.2.7"},
            {"Origin": "http://elsewhere.example"},
            {"Host": "rebound.example"},
        ):
            assert (await api.call("GET", QUERY, headers=headers)).status == 403
        answer = await api.call("GET", QUERY)
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


async def test_with_the_token_it_is_for_whoever_has_it() -> None:
    async with FromElsewhere(await filled(), "192.0.2.7", TOKEN) as api:
        assert (await api.call("GET", QUERY)).status == 401
        assert (await api.call("GET", QUERY, headers={"token": TOKEN})).status == 200


async def test_other_nodes_may_ask_this_one() -> None:
    nodes = FakeNodes()
    async with Api(await filled(), nodes=nodes):
        args = {"channel_id": "room", "channel_type": GROUP, "message_id": 5, "uids": ["bob"]}
        facts = msgspec.json.decode(await nodes.handlers[QUESTION](args), type=NodeFacts)
    assert (facts.node, facts.recording) == (NODE_ID, False)
