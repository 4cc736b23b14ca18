"""Names that are hard to keep apart. Scenario S39."""

from zlib import crc32

import pytest

from tests.scenarios.conftest import Clients
from tests.scenarios.room import Room, commands_of, unread_seqs
from tests.support.http import Api
from tests.support.wire import PERSON, SUCCESS, Client, Kind, fence, unique

EQUAL_CRC32 = ("u2c98d205c6db", "u57808413f291")
# FNV-1a with 64 bits is what WuKongIM keys its rows by.
EQUAL_FNV1A_64 = (
    ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"),
    ("gMPflVXtwGDXbIhP73TX", "LtHf1prlU1bCeYZEdqWf"),
)
PAIRS = [
    EQUAL_CRC32,
    *EQUAL_FNV1A_64,
    ("bob", "bob____cmd"),
    ("____cmd", "____cmd____cmd"),
    ("张三", "张三丰"),
    ("caf\u00e9", "cafe\u0301"),  # composed and decomposed
    ("😀" * 30, "😀" * 31),
    ("u" * 500, "u" * 501),
    ("Case", "case"),
    ("dot.and/slash", "dot.and|bar"),
    ("with space", "with  space"),
]


def fnv1a_64(text: str) -> int:
    number = 0xCBF29CE484222325
    for byte in text.encode():
        number = (number ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return number


def test_s39_the_names_are_as_hard_as_they_claim() -> None:
    assert crc32(EQUAL_CRC32[0].encode()) == crc32(EQUAL_CRC32[1].encode())
    for a, b in EQUAL_FNV1A_64:
        assert fnv1a_64(a) == fnv1a_64(b)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: ascii(pair[0])[1:25])
async def test_s39_two_names_that_are_hard_to_tell_apart_are_two_members(
    api: Api, clients: Clients, room: Room, any_kind: Kind, pair: tuple[str, str]
) -> None:
    sender = await clients.connect(unique("a"), any_kind)
    one, other = await clients.connect_all(pair, any_kind)
    await room.create([sender.uid, one.uid])
    await room.send(sender)
    await room.command(sender.uid)
    await room.add(other.uid)
    await room.send(sender)
    await room.command(sender.uid)
    await room.remove(one.uid)
    await room.send(sender)
    await room.command(sender.uid)
    assert (await room.send(one)).reason_code == 3
    assert (await room.send(other)).reason_code == SUCCESS
    assert set(await commands_of(api, one.uid, room.id)) == {1, 2}
    assert set(await commands_of(api, other.uid, room.id)) == {2, 3}
    await room.check([sender, one, other], members=[sender.uid, other.uid])


@pytest.mark.parametrize("pair", [EQUAL_CRC32, EQUAL_FNV1A_64[0], ("bob", "bob____cmd")], ids=lambda pair: pair[0])
async def test_s39_hard_names_write_to_each_other(
    api: Api, clients: Clients, any_kind: Kind, pair: tuple[str, str]
) -> None:
    # Names of this test alone would not be equal in hash; so count from what is there.
    one, other = await clients.connect_all(pair, any_kind)
    before = {client.uid: await last_seq(api, client, other_of(pair, client.uid)) for client in (one, other)}
    assert len(set(before.values())) == 1
    first = await one.send(other.uid, b"ping", kind=PERSON)
    second = await other.send(one.uid, b"pong", kind=PERSON)
    assert second.message_seq == first.message_seq + 1 == before[one.uid] + 2
    await fence(api, [one, other])
    assert [each.payload for each in other.of(one.uid)] == [b"ping"]
    assert [each.payload for each in one.of(other.uid)] == [b"pong"]
    assert await last_seq(api, one, other.uid) == second.message_seq


def other_of(pair: tuple[str, str], uid: str) -> str:
    return pair[1] if uid == pair[0] else pair[0]


async def last_seq(api: Api, client: Client, peer: str) -> int:
    found = await api.history(client.uid, peer, kind=PERSON)
    return found[-1]["message_seq"] if found else 0


@pytest.mark.parametrize("name", ["g____cmd-", "群组", "g" * 500, "g.with/slash|bar space", "0"], ids=ascii)
async def test_s39_channels_with_hard_names_are_apart(api: Api, clients: Clients, any_kind: Kind, name: str) -> None:
    sender, member = await clients.connect_all([unique("a"), unique("u")], any_kind)
    one = Room(api, name + unique(""))
    other = Room(api, one.id + "____cmd-too")
    for room in (one, other):
        await room.create([sender.uid])
    await one.add(member.uid)
    for room in (one, other):
        await room.send(sender)
    assert await unread_seqs(api, member.uid, one.id) == [1]
    assert await unread_seqs(api, member.uid, other.id) == []
    await one.check([sender, member], members=[sender.uid, member.uid])
    await other.check([sender, member], members=[sender.uid])
