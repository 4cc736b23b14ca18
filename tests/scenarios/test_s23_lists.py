"""Deny and allow lists take effect with their Ok. Scenarios S23 and S24."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.scenarios.conftest import Clients
from tests.scenarios.judge import now
from tests.scenarios.room import Room, unread_seqs
from tests.support.http import Api
from tests.support.wire import PERSON, SUCCESS, Client, Kind, fence, unique

DENIED = 4
NOT_ALLOWED = 13


async def test_s23_a_denied_member_may_not_send_goes_on_receiving_and_comes_back(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    sender, denied = await clients.connect_all([unique("a"), unique("u")], any_kind)
    await room.create([sender.uid, denied.uid])
    await room.send(sender)
    for _ in range(20):
        await api.change_list("blacklist_add", room.id, [denied.uid])
        assert (await room.send(denied)).reason_code == DENIED
        assert room.id not in await api.conversations(denied.uid)
        assert (await room.send(sender)).reason_code == SUCCESS
        await api.change_list("blacklist_remove", room.id, [denied.uid])
        assert await unread_seqs(api, denied.uid, room.id) == []
        assert (await room.send(denied)).reason_code == SUCCESS
    await room.check([sender, denied], members=[sender.uid, denied.uid])


async def test_s23_the_denylist_is_replaced_and_cleared_in_one_step(
    api: Api, clients: Clients, room: Room, any_kind: Kind
) -> None:
    a, b = await clients.connect_all([unique("a"), unique("b")], any_kind)
    await room.create([a.uid, b.uid])

    async def reasons() -> list[int]:
        return [(await room.send(client)).reason_code for client in (a, b)]

    await api.change_list("blacklist_set", room.id, [a.uid])
    assert await reasons() == [DENIED, SUCCESS]
    await api.change_list("blacklist_set", room.id, [b.uid])
    assert await reasons() == [SUCCESS, DENIED]
    await api.change_list("blacklist_remove_all", room.id)
    assert await reasons() == [SUCCESS, SUCCESS]
    await room.check([a, b], members=[a.uid, b.uid])


async def test_s23_a_person_denies_another_with_the_ok(api: Api, clients: Clients, any_kind: Kind) -> None:
    owner, other = await clients.connect_all([unique("owner"), unique("other")], any_kind)

    async def reason() -> int:
        return (await other.send(owner.uid, b"hello", kind=PERSON)).reason_code

    for _ in range(20):
        assert await reason() == SUCCESS
        await api.change_list("blacklist_add", owner.uid, [other.uid], kind=PERSON)
        assert await reason() == DENIED
        await api.change_list("blacklist_remove", owner.uid, [other.uid], kind=PERSON)
    await fence(api, [owner])
    assert [each.message_seq for each in owner.of(other.uid)] == list(range(1, 21))


async def test_s24_an_allowlist_that_fills_and_empties_counts_from_its_ok_on(
    api: Api, clients: Clients, room: Room, kind: Kind
) -> None:
    allowed, outside, listener = await clients.connect_all([unique("in"), unique("out"), unique("u")], kind)
    await room.create([allowed.uid, outside.uid, listener.uid])
    closed: list[tuple[float, float]] = []  # between two Oks: surely in force
    opened: list[tuple[float, float]] = []  # surely not in force
    answers: list[tuple[float, float, int]] = []
    stop = asyncio.Event()

    async def keep_trying(client: Client, note: Callable[[float, float, int], None]) -> None:
        while not stop.is_set():
            began = now()
            reason = (await room.send(client)).reason_code
            note(began, now(), reason)

    always: list[int] = []
    trying = [
        asyncio.create_task(keep_trying(outside, lambda began, ended, reason: answers.append((began, ended, reason)))),
        asyncio.create_task(keep_trying(allowed, lambda began, ended, reason: always.append(reason))),
    ]

    async def phase(times: list[tuple[float, float]], change: Callable[[], Awaitable[None]]) -> None:
        began = now()
        seen = len(answers)
        while len(answers) < seen + 5:
            await asyncio.sleep(0.001)
        times.append((began, now()))
        await change()

    for turn in range(25):
        add = [lambda: api.change_list("whitelist_add", room.id, [allowed.uid]),
               lambda: api.change_list("whitelist_set", room.id, [allowed.uid])][turn % 2]  # fmt: skip
        remove = [lambda: api.change_list("whitelist_remove", room.id, [allowed.uid]),
                  lambda: api.change_list("whitelist_set", room.id, []),
                  lambda: api.change_list("whitelist_remove_all", room.id)][turn % 3]  # fmt: skip
        await phase(opened, add)
        await phase(closed, remove)
    stop.set()
    await asyncio.gather(*trying)
    assert set(always) == {SUCCESS}
    for times, reason in ((opened, SUCCESS), (closed, NOT_ALLOWED)):
        inside = [got for began, ended, got in answers if any(start <= began and ended <= end for start, end in times)]
        assert len(inside) >= 25
        assert set(inside) == {reason}
    await room.check([allowed, outside, listener], members=[allowed.uid, outside.uid, listener.uid])
