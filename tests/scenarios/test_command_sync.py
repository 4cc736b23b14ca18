"""Offline commands, fetched from one node and confirmed at another. behaviour.md 12 and 21, check 12; D-15, D-16."""

import asyncio
import base64
from collections import Counter
from itertools import product
from typing import Any

import pytest

from tests.scenarios.conftest import Clients, Deployment
from tests.support.http import Api, open_api, payload_of
from tests.support.wire import PERSON, fence, unique

Handed = list[tuple[str, int, bytes]]
"""Channel id with the suffix, seq, payload."""


async def fetch(api: Api, uid: str, limit: int = 1_000) -> Handed:
    return [
        (message["channel_id"], message["message_seq"], payload_of(message))
        for message in await api.commands(uid, limit=limit)
    ]


async def send_to_names(api: Api, uids: list[str], payload: bytes, *, no_persist: bool = False) -> None:
    body: dict[str, Any] = {
        "header": {"sync_once": 1, "no_persist": int(no_persist)},
        "subscribers": uids,
        "payload": base64.b64encode(payload).decode(),
    }
    await api.post("/message/send", body)


@pytest.mark.parametrize("limit", [1, 3, 7, 200])
async def test_check_12_with_any_limit_every_command_is_handed_out_once_and_in_order(
    api: Api, clients: Clients, limit: int
) -> None:
    """Each fetch, each confirmation and each command goes to the next node."""
    uid, peer, visitor_agent = unique("u"), unique("peer"), unique("agent")
    groups = [unique("group") for _ in range(3)]
    for group in groups:
        await api.create(group, [uid, peer])
    sent: list[bytes] = []

    async def send(number: int) -> None:
        payload = f"command {number}".encode()
        sent.append(payload)
        match number % 5:
            case 3:
                await api.send(peer, uid, payload, kind=PERSON, sync_once=True)
            case 4:
                await send_to_names(api, [uid, peer], payload)
            case target:
                await api.send(visitor_agent, groups[target], payload, sync_once=True)

    for number in range(20):
        await send(number)
    # What is not a stored command, or not for him, never is among them.
    await api.send(peer, groups[0], b"a message")
    await api.send(peer, groups[0], b"passing", sync_once=True, no_persist=True)
    await send_to_names(api, [peer], b"for another")
    await send_to_names(api, [uid], b"passing", no_persist=True)

    handed: Handed = []
    while page := await fetch(api, uid, limit):
        assert len(page) <= limit
        assert await fetch(api, uid, limit) == page, "until it is confirmed the same comes again"
        handed += page
        if len(handed) < 10:
            # While he is fetching more arrive; a confirmation must not cover them.
            await send(len(sent))
        # The number is not what counts; it only has to be above 0.
        await api.acknowledge_commands(uid, 1)
        await api.acknowledge_commands(uid, 1)
    assert Counter(payload for _, _, payload in handed) == Counter(sent)
    for channel in {channel for channel, _, _ in handed}:
        seqs = [seq for name, seq, _ in handed if name == channel]
        assert seqs == sorted(seqs) and channel.endswith("____cmd")
    assert set(await api.conversations(uid)) == {groups[0]}, "commands make no conversation"


async def test_what_one_node_handed_out_any_other_confirms(deployment: Deployment) -> None:
    group = unique("group")
    urls = [node.http_url for node in deployment.nodes]
    pairs = list(product(urls, repeat=2))
    uids = {pair: unique("u") for pair in pairs}
    async with open_api(*urls) as everywhere:
        await everywhere.create(group, uids.values())
        for number in range(3):
            await everywhere.send("back-end", group, b"%d" % number, sync_once=True)

    async def fetch_and_confirm(pair: tuple[str, str]) -> None:
        uid = uids[pair]
        async with open_api(pair[0]) as here, open_api(pair[1]) as there:
            assert [payload for *_, payload in await fetch(here, uid, 2)] == [b"0", b"1"]
            await there.acknowledge_commands(uid, 1)
            assert [payload for *_, payload in await fetch(there, uid)] == [b"2"]
            # A newer fetch, and be it empty, is what the next confirmation is about.
            await here.acknowledge_commands(uid, 1)
        for url in urls:
            async with open_api(url) as api:
                assert await fetch(api, uid) == []

    await asyncio.gather(*(fetch_and_confirm(pair) for pair in pairs))


async def test_check_12_live_a_command_has_the_id_of_its_channel_and_offline_the_suffix(
    api: Api, clients: Clients
) -> None:
    uid, visitor, group = unique("u"), unique("visitor"), unique("group")
    client, guest = await clients.connect_all([uid, visitor])
    await api.create(group, [uid])
    await api.send("back-end", group, b"to the group", sync_once=True)
    # The visitor belongs to his channel without having been added (D-8).
    await api.send("back-end", visitor, b"to the visitor", kind=10, sync_once=True)
    await fence(api, [client, guest])
    assert [(m.channel_id, m.is_command) for m in client.received] == [(group, True)]
    assert [(m.channel_id, m.is_command) for m in guest.received] == [(visitor, True)]
    assert [channel for channel, *_ in await fetch(api, uid)] == [f"{group}____cmd"]
    assert [channel for channel, *_ in await fetch(api, visitor)] == [f"{visitor}____cmd"]


async def test_recipients_of_a_temporary_channel_count_on_every_node(api: Api, clients: Clients) -> None:
    a, b, c = await clients.connect_all([unique(name) for name in "abc"])
    channel = unique("temp")
    for listed in ([a, b], [b, c]):
        body = {"channel_id": channel, "uids": [client.uid for client in listed]}
        await api.post("/tmpchannel/subscriber_set", body)
        payload = unique("payload").encode()
        await api.send("back-end", channel, payload, kind=8)
        await fence(api, [a, b, c])
        got = [client for client in (a, b, c) if any(m.payload == payload for m in client.received)]
        assert got == listed
    assert channel not in await api.conversations(b.uid)
