"""Answers that come piece by piece, on sockets: behaviour.md section 15, check 17 of section 21, wkproto.md 7.7."""

import asyncio
import base64
from typing import Any

import msgspec

from tests.scenarios.conftest import Clients
from tests.support.http import Api, open_api
from tests.support.server import ServerProcess
from tests.support.wire import Client, Kind, fence, unique
from wukong.protocol.packets import Event


async def post(api: Api, group: str, event_type: str, number: str, payload: Any = None, **more: Any) -> Any:
    body = {"channel_id": group, "channel_type": 2, "client_msg_no": number, "event_id": unique("e"), **more}
    return (await api.post("/message/event", body | {"event_type": event_type, "payload": payload}))["data"]


async def say(api: Api, group: str, number: str, text: str) -> None:
    await post(api, group, "stream.delta", number, {"kind": "text", "delta": text})


async def ask(api: Api, group: str, number: str) -> None:
    body = {"channel_id": group, "channel_type": 2, "from_uid": "bot", "client_msg_no": number, "is_stream": 1}
    await api.post("/message/send", body | {"payload": base64.b64encode(b"...").decode()})


def deltas(client: Client) -> str:
    found = [msgspec.json.decode(event.data) for event in client.events if event.type == "stream.delta"]
    return "".join(data["payload"]["delta"] for data in found)


async def test_every_client_that_can_reads_the_answer_as_it_grows_and_old_ones_stay_connected(
    api: Api, clients: Clients
) -> None:
    group, number = unique("g"), unique("m")
    kinds = [(Kind.TCP, 5), (Kind.WS, 5), (Kind.JSON, 5), (Kind.TCP, 4), (Kind.WS, 2)]
    members = [await clients.connect(unique("u"), kind, version=version) for kind, version in kinds]
    await api.create(group, [client.uid for client in members])
    await ask(api, group, number)
    pieces = [f"{at} " for at in range(100)]
    for piece in pieces:
        # Each at the next node.
        await say(api, group, number, piece)
    assert (await post(api, group, "stream.close", number))["from_uid"] == "bot"
    await fence(api, members)
    for client in members[:3]:
        assert len(client.events) == 101
        assert deltas(client) == "".join(pieces)
        data = msgspec.json.decode(client.events[-1].data)
        assert (data["from_uid"], data["stream_status"], data["msg_event_seq"]) == ("bot", "closed", 1)
        assert data["message_id"] == client.received[0].message_id
    for client in members[3:]:
        assert client.events == [] and not client.closed.is_set()
        assert len(client.received) == 1
        client.ping()
        await client.until(lambda client=client: client.pongs == 1)  # type: ignore[misc]
    [message] = await api.history(members[0].uid, group)
    assert base64.b64decode(message["stream_data"]) == "".join(pieces).encode()
    assert message["end"] == 1 and "open_event_count" not in message["event_meta"]


async def test_whoever_joins_in_the_middle_gets_the_rest_and_whoever_leaves_nothing_more(
    api: Api, clients: Clients
) -> None:
    group, number = unique("g"), unique("m")
    stays, leaves, joins = await clients.connect_all([unique("u") for _ in range(3)])
    await api.create(group, [stays.uid, leaves.uid])
    await say(api, group, number, "a")
    await api.add(group, [joins.uid])
    await say(api, group, number, "b")
    await api.remove(group, [leaves.uid])
    await say(api, group, number, "c")
    await fence(api, [stays, leaves, joins])
    assert [deltas(client) for client in (stays, leaves, joins)] == ["abc", "ab", "bc"]


async def test_deltas_at_once_on_any_node_are_all_in_the_text(api: Api, clients: Clients) -> None:
    group, number = unique("g"), unique("m")
    reader = await clients.connect(unique("u"))
    await api.create(group, [reader.uid])
    pieces = [f"<{at}>" for at in range(60)]
    await asyncio.gather(*(say(api, group, number, piece) for piece in pieces))
    await post(api, group, "stream.close", number)
    await fence(api, [reader])
    body = {"channel_id": group, "channel_type": 2, "client_msg_no": number}
    [entry] = (await api.post("/message/eventsync", body))["data"]["events"]
    assert entry["payload"]["text"] == deltas(reader), "the order of the pushes is that of the text"
    assert sorted(entry["payload"]["text"].replace("><", "> <").split()) == sorted(pieces)


async def test_an_open_stream_survives_a_kill(own_server: Any, own_clients: Clients) -> None:
    server: ServerProcess = own_server()
    server.start()
    group, number = unique("g"), unique("m")
    async with open_api(server.http_url) as api:
        await api.create(group, ["u"])
        await ask(api, group, number)
        await say(api, group, number, "Hel")
    server.kill()
    server.start()
    async with open_api(server.http_url) as api:
        reader = await own_clients.connect("u", to=server)
        await say(api, group, number, "lo")
        await reader.until(lambda: len(reader.events) == 1)
        event: Event = reader.events[0]
        assert msgspec.json.decode(event.data)["payload"] == {"kind": "text", "delta": "lo"}
        [message] = await api.history("u", group)
        assert base64.b64decode(message["stream_data"]) == b"Hello"
        await reader.close()


async def test_an_event_is_not_kept_for_whoever_is_offline(api: Api, clients: Clients) -> None:
    group, number = unique("g"), unique("m")
    uid = unique("u")
    await api.create(group, [uid])
    await say(api, group, number, "a")
    client = await clients.connect(uid)
    await fence(api, [client])
    assert client.events == [] and client.received == []
    assert await api.commands(uid) == []
