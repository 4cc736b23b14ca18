"""Who may send, at a real server: the tables of behaviour.md 5.1 to 5.3, each row alone and each pair of neighbours.

All combinations are set up and tried at once, on one node and on three: by SEND over TCP and by JSON-RPC, as
/message/send of the same user (D-5: refused in its answer), as its command, and from a system account and the manager.
Every combination of rows is in tests/channel/test_permissions.py, where one costs nothing. One row decides before all
others, though 5.1 has it second: a SEND with a wrong msg_key is told so, whoever sent it, before anything is looked up.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

from tests.scenarios.conftest import Clients, open_clients
from tests.support.http import Api, ApiError, open_api
from tests.support.server import ServerProcess
from tests.support.wire import Client, Kind, unique

PERSON, GROUP, CUSTOMER_SERVICE, INFO, TEMP, VISITORS, AGENT = 1, 2, 3, 6, 8, 10, 11
# Group, community, topic, data, temporary, live, agent group: no rule of their own.
PLAIN_TYPES = (2, 4, 5, 7, 8, 9, 12)
MANAGER = "____manager"

SUCCESS, NOT_SUBSCRIBER, DENIED, NOT_ALLOWED, BAN, DISBAND, SEND_BAN = 1, 3, 4, 13, 19, 24, 25

# Rows in their order.
SENDER_SEND_BAN = "the sender has send_ban"
CHANNEL_BAN = "the channel is banned"
CHANNEL_DISBAND = "the channel is disbanded"
CHANNEL_SEND_BAN = "the channel has send_ban"
SENDER_DENIED = "the sender is denied"
STRANGER = "the sender is no member"
NOT_LISTED = "the allow list is of others"
CODES = {
    SENDER_SEND_BAN: SEND_BAN,
    CHANNEL_BAN: BAN,
    CHANNEL_DISBAND: DISBAND,
    CHANNEL_SEND_BAN: SEND_BAN,
    SENDER_DENIED: DENIED,
    STRANGER: NOT_SUBSCRIBER,
    NOT_LISTED: NOT_ALLOWED,
}
FLAGS = {CHANNEL_BAN: "ban", CHANNEL_DISBAND: "disband", CHANNEL_SEND_BAN: "send_ban"}
LISTS = (SENDER_DENIED, STRANGER, NOT_LISTED)

RECEIVER_IS_SYSTEM = "the receiver is a system account"
RECEIVER_DENIES = "the receiver denies the sender"
STRANGERS_OFF = "strangers may not write"
PERSON_CODES = {SENDER_SEND_BAN: SEND_BAN, RECEIVER_IS_SYSTEM: SUCCESS, RECEIVER_DENIES: DENIED}
STRICT_PERSON_CODES = {**PERSON_CODES, STRANGERS_OFF: NOT_ALLOWED}

Rows = tuple[str, ...]
Reasons = Mapping[str, int]
"""Who sends, and how -> the reason code he gets."""


def alone_and_in_pairs(rows: Mapping[str, int]) -> list[Rows]:
    return [(), *((row,) for row in rows), *pairwise(rows)]


def first_of(rows: Rows, codes: Mapping[str, int]) -> int:
    return next((code for row, code in codes.items() if row in rows), SUCCESS)


def without(*rows: str) -> dict[str, int]:
    return {row: code for row, code in CODES.items() if row not in rows}


class Case(NamedTuple):
    kind: int
    rows: Rows

    def expected(self) -> Reasons:
        """By the words of behaviour.md; nothing here asks the server's code."""
        has_flags = self.kind in PLAIN_TYPES
        asks_sender = self.kind not in (CUSTOMER_SERVICE, INFO)
        passed = (() if has_flags else tuple(FLAGS)) + (() if asks_sender else LISTS)
        member = first_of(self.rows, without(*passed))
        trusted = first_of(self.rows, without(*passed, SENDER_SEND_BAN, CHANNEL_SEND_BAN, *LISTS))
        return {
            "SEND": member,
            "JSON-RPC": member,
            "/message/send": trusted,
            # No flag of the channel is asked for its commands; a temporary channel has none apart from it.
            "/message/send of a command": trusted if self.kind == TEMP else SUCCESS,
            "system account": first_of(self.rows, without(*passed, CHANNEL_SEND_BAN, *LISTS)),
            # Nobody special: a stranger that is on no list.
            "manager": first_of((*self.rows, STRANGER), without(*passed, SENDER_SEND_BAN, SENDER_DENIED, NOT_LISTED)),
        }


async def channel_case(api: Api, clients: Clients, manager: Client, case: Case) -> Reasons:
    channel, uid, system_uid = unique("channel"), unique("u"), unique("system")
    plain, json, system = await asyncio.gather(
        clients.connect(uid, Kind.TCP), clients.connect(uid, Kind.JSON), clients.connect(system_uid)
    )
    rows, kind = case.rows, case.kind
    flags = {name: int(row in rows) for row, name in FLAGS.items()}
    await api.create(channel, ["other"] if STRANGER in rows else ["other", uid], kind=kind, **flags)
    await api.post("/user/systemuids_add", {"uids": [system_uid]})
    if SENDER_SEND_BAN in rows:
        for banned in (uid, system_uid):
            await ban_sending(api, banned)
    if SENDER_DENIED in rows:
        await api.change_list("blacklist_add", channel, [uid, system_uid], kind=kind)
    if NOT_LISTED in rows:
        await api.change_list("whitelist_add", channel, ["other"], kind=kind)
    return {
        "SEND": await sent(plain, channel, kind),
        "JSON-RPC": await sent(json, channel, kind),
        "/message/send": await posted(api, uid, channel, kind),
        "/message/send of a command": await posted(api, uid, channel, kind, sync_once=True),
        "system account": await sent(system, channel, kind),
        "manager": await sent(manager, channel, kind),
    }


async def ban_sending(api: Api, uid: str) -> None:
    await api.post("/channel/info", {"channel_id": uid, "channel_type": PERSON, "send_ban": 1})


async def sent(client: Client, channel: str, kind: int) -> int:
    ack = await client.send(channel, b"may I?", kind=kind)
    assert bool(ack.message_seq) is (ack.reason_code == SUCCESS) and ack.message_id
    return ack.reason_code


async def posted(api: Api, uid: str, channel: str, kind: int, *, sync_once: bool = False) -> int:
    try:
        await api.send(uid, channel, b"may I?", kind=kind, sync_once=sync_once)
    except ApiError as error:
        assert error.status == 400
        found = re.search(r"\(reason (\d+)\)", error.body)
        assert found is not None, error
        return int(found[1])
    return SUCCESS


async def differences(cases: Mapping[str, Reasons], play: Callable[[str], Awaitable[Reasons]]) -> list[str]:
    """What came otherwise, all cases played at once."""
    outcomes = await asyncio.gather(*(play(name) for name in cases))
    return [
        f"{name}, {way}: {outcome[way]} instead of {reason}"
        for (name, expected), outcome in zip(cases.items(), outcomes, strict=True)
        for way, reason in expected.items()
        if outcome[way] != reason
    ]


async def test_each_row_and_each_pair_of_rows_gives_the_code_of_the_first(api: Api, clients: Clients) -> None:
    manager = await clients.connect(MANAGER)
    kinds = (*PLAIN_TYPES, CUSTOMER_SERVICE, INFO, VISITORS)
    cases = {f"type {kind}, {rows}": Case(kind, rows) for kind in kinds for rows in alone_and_in_pairs(CODES)}
    assert len(cases) == 10 * 14
    faults = await differences(
        {name: case.expected() for name, case in cases.items()},
        lambda name: channel_case(api, clients, manager, cases[name]),
    )
    assert not faults, "\n".join(faults)


# -- persons --


async def person_case(api: Api, clients: Clients, rows: Rows) -> Reasons:
    """Without STRANGERS_OFF among the rows the sender is on the receiver's allow list."""
    uid, receiver = unique("u"), unique("receiver")
    plain, json = await asyncio.gather(clients.connect(uid, Kind.TCP), clients.connect(uid, Kind.JSON))
    if SENDER_SEND_BAN in rows:
        await ban_sending(api, uid)
    if RECEIVER_IS_SYSTEM in rows:
        await api.post("/user/systemuids_add", {"uids": [receiver]})
    if RECEIVER_DENIES in rows:
        await api.change_list("blacklist_add", receiver, [uid], kind=PERSON)
    if STRANGERS_OFF not in rows:
        await api.change_list("whitelist_add", receiver, [uid], kind=PERSON)
    # The receiver's own ban stops his login, not what others write to him.
    await api.post("/channel/info", {"channel_id": receiver, "channel_type": PERSON, "ban": 1, "disband": 1})
    return {
        "SEND": await sent(plain, receiver, PERSON),
        "JSON-RPC": await sent(json, receiver, PERSON),
        "/message/send": await posted(api, uid, receiver, PERSON),
        "/message/send of a command": await posted(api, uid, receiver, PERSON, sync_once=True),
    }


def person_reasons(rows: Rows, codes: Mapping[str, int]) -> Reasons:
    reason = first_of(rows, codes)
    return {"SEND": reason, "JSON-RPC": reason, "/message/send": SUCCESS, "/message/send of a command": SUCCESS}


async def person_faults(api: Api, clients: Clients, codes: Mapping[str, int]) -> list[str]:
    cases = {", ".join(rows): rows for rows in alone_and_in_pairs(codes)}
    return await differences(
        {name: person_reasons(rows, codes) for name, rows in cases.items()},
        lambda name: person_case(api, clients, cases[name]),
    )


async def test_a_person_asks_the_receivers_lists(api: Api, clients: Clients) -> None:
    assert not await person_faults(api, clients, PERSON_CODES)
    # Strangers may write, unless they are denied.
    stranger = await clients.connect(unique("stranger"))
    assert await sent(stranger, unique("somebody"), PERSON) == SUCCESS


async def test_where_strangers_may_not_write_only_listed_senders_pass(
    own_server: Callable[..., ServerProcess],
) -> None:
    """Acceptance check 5 too: 13 until whitelist_add, then 1."""
    server = own_server(whitelistOffOfPerson=False)
    await asyncio.to_thread(server.start)
    async with open_api(server.http_url) as api, open_clients(server) as clients:
        assert not await person_faults(api, clients, STRICT_PERSON_CODES)
        sender, receiver = await clients.connect_all([unique("u"), unique("receiver")])
        assert await sent(sender, receiver.uid, PERSON) == NOT_ALLOWED
        await api.change_list("whitelist_add", receiver.uid, [sender.uid], kind=PERSON)
        assert await sent(sender, receiver.uid, PERSON) == SUCCESS
        assert await sent(receiver, sender.uid, PERSON) == NOT_ALLOWED, "a list of one side is not the other's"
        await api.change_list("whitelist_remove", receiver.uid, [sender.uid], kind=PERSON)
        assert await sent(sender, receiver.uid, PERSON) == NOT_ALLOWED
        # A group's allow list has nothing to do with it.
        group = unique("group")
        await api.create(group, [sender.uid])
        assert await sent(sender, group, GROUP) == SUCCESS


# -- implicit members --


async def test_the_visitor_and_both_sides_of_an_agent_channel_may_write_and_nobody_else(
    api: Api, clients: Clients
) -> None:
    visitor, agent, stranger = await clients.connect_all([unique("visitor"), unique("agent"), unique("stranger")])
    for channel, kind, writers in [
        (visitor.uid, VISITORS, [visitor]),
        (f"{visitor.uid}@{agent.uid}", AGENT, [visitor, agent]),
        (f"{visitor.uid}|team", CUSTOMER_SERVICE, [visitor, agent, stranger]),
    ]:
        reasons = {client.uid: await sent(client, channel, kind) for client in (visitor, agent, stranger)}
        assert reasons == {
            client.uid: SUCCESS if client in writers else NOT_SUBSCRIBER for client in (visitor, agent, stranger)
        }, channel
    await ban_sending(api, visitor.uid)
    for channel, kind in [(visitor.uid, VISITORS), (agent.uid, AGENT), (f"{visitor.uid}|team", CUSTOMER_SERVICE)]:
        assert await sent(visitor, channel, kind) == SEND_BAN
        assert await posted(api, visitor.uid, channel, kind) == SUCCESS


async def test_nobody_is_a_member_of_an_unknown_channel_or_of_commands_by_their_stored_name(
    api: Api, clients: Clients
) -> None:
    member = await clients.connect(unique("u"))
    group = unique("group")
    await api.create(group, [member.uid])
    assert await sent(member, unique("unknown"), GROUP) == NOT_SUBSCRIBER
    assert await sent(member, f"{group}____cmd", GROUP) == NOT_SUBSCRIBER
    assert await sent(member, group, GROUP) == SUCCESS
