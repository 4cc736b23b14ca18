"""Slots of different moments: their copies agree with their homes again, at the latest when a node has started."""

import random

import pytest

from tests.service.stack import Stack
from wukong.backup.mend import mend
from wukong.channel import copies
from wukong.channel.commands import ChannelInfo
from wukong.channel.ids import PERSON, ChannelId, person_id, slot_of
from wukong.channel.state import Settings, State, channel_part
from wukong.node.node import Node
from wukong.service.channels import ALLOWLIST, DENYLIST
from wukong.store.generations import slot_prefix
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay, prefix_end

UIDS = [f"u{number}" for number in range(5)]
SLOTS = 4


async def act(stack: Stack, rng: random.Random) -> None:
    channels, users = stack.use_cases.channels, stack.use_cases.users
    owner = ChannelId(PERSON, rng.choice(UIDS))
    uids = rng.sample(UIDS, 2)
    which = rng.choice((ALLOWLIST, DENYLIST))
    kind = rng.randrange(5)
    if kind == 0:
        await channels.put_info(owner, ChannelInfo(send_ban=rng.random() < 0.5))
    elif kind == 1:
        await channels.add_to_list(owner, which, uids)
    elif kind == 2:
        await channels.remove_from_list(owner, which, uids)
    elif kind == 3:
        await channels.set_list(owner, which, uids)
    else:
        await (users.add_system_uids if rng.random() < 0.5 else users.remove_system_uids)(uids)


async def history(rng: random.Random) -> list[dict[bytes, bytes]]:
    """All rows after every batch of the store, from the first settings on."""
    moments: list[dict[bytes, bytes]] = []

    class Recorded(MemoryStore):
        def write(self, changes):  # type: ignore[no-untyped-def]
            super().write(changes)
            moments.append(dict(self._values))

    stack = await Stack(slot_count=SLOTS, store=Recorded()).start(Settings(members_per_command=7))
    moments.clear()
    for _ in range(25):
        await act(stack, rng)
    return moments


def cut(rng: random.Random, moments: list[dict[bytes, bytes]]) -> dict[bytes, bytes]:
    """Each slot as of a moment of its own."""
    rows: dict[bytes, bytes] = {}
    for slot in range(SLOTS):
        prefix = slot_prefix(slot, 0)
        of_slot = rng.choice(moments)
        rows |= {key: value for key, value in of_slot.items() if prefix <= key < prefix_end(prefix)}
    return rows


def states_of(overlay: Overlay) -> list[State]:
    return [State(slot, overlay.view(slot_prefix(slot, 0)), head_limit=0) for slot in range(SLOTS)]


def facts(states: list[State]) -> dict[str, object]:
    """What the homes say, and beside it what the slots go by."""
    found: dict[str, object] = {}

    def home(key: str) -> State:
        return states[slot_of(key, SLOTS)]

    for uid in UIDS:
        head = home(uid).head(channel_part(ChannelId(PERSON, uid)))
        banned = head is not None and head.send_ban
        assert [uid in state.send_banned for state in states] == [banned] * SLOTS, uid
        found[uid] = banned
        part = channel_part(ChannelId(PERSON, uid))
        for other in UIDS:
            bits = (home(uid).get(b"d" + part + other.encode()) is not None) + 2 * (
                home(uid).get(b"a" + part + other.encode()) is not None
            )
            pair = person_id(uid, other)
            row = home(pair).get(b"l" + channel_part(ChannelId(PERSON, pair)) + uid.encode())
            assert (copies._decode_copy(row)[1][0] if row is not None else 0) == bits, (uid, other)
            found[f"{uid} {other}"] = bits
    uids = set(copies.system_uids(states[0]))
    assert [state.system_uids for state in states] == [uids] * SLOTS
    assert len({state.settings.members_per_command for state in states}) == 1
    return found | {"system": uids}


async def started(store: MemoryStore) -> Node:
    stack = await Stack(slot_count=SLOTS, store=store).start()
    for slot in range(SLOTS):
        await stack.node.settled(slot)
    return stack.node


@pytest.mark.parametrize("seed", range(40))
async def test_after_a_start_every_slot_goes_by_what_the_homes_say(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = MemoryStore(cut(rng, await history(rng)))
    overlay = Overlay(store)
    homes = states_of(overlay)
    lists = [[key for key, _ in state.scan(b"a", b"b")] + [key for key, _ in state.scan(b"d", b"e")] for state in homes]
    mend(homes)
    overlay.commit()
    node = await started(store)
    facts(node.states)
    assert lists == [
        [key for key, _ in state.scan(b"a", b"b")] + [key for key, _ in state.scan(b"d", b"e")] for state in node.states
    ], "the homes' word stays"
    assert mend(node.states) == 0


@pytest.mark.parametrize("seed", range(5))
async def test_what_changes_afterwards_reaches_every_slot(seed: int) -> None:
    """A home that had forgotten a version it gave must not give it again."""
    rng = random.Random(seed)
    store = MemoryStore(cut(rng, await history(rng)))
    overlay = Overlay(store)
    mend(states_of(overlay))
    overlay.commit()
    stack = await Stack(slot_count=SLOTS, store=store).start()
    for _ in range(20):
        await act(stack, rng)
    for slot in range(SLOTS):
        await stack.node.settled(slot)
    facts(stack.node.states)


@pytest.mark.parametrize("seed", range(5))
async def test_slots_of_one_moment_are_left_as_they_are(seed: int) -> None:
    rng = random.Random(seed)
    rows = (await history(rng))[-1]
    overlay = Overlay(MemoryStore(rows))
    assert mend(states_of(overlay)) == 0
    assert overlay.changes == {}


async def test_without_it_slots_differ_for_ever() -> None:
    """The cuts above are such that something is wrong in them."""
    wrong = 0
    for seed in range(40):
        rng = random.Random(seed)
        node = await started(MemoryStore(cut(rng, await history(rng))))
        try:
            facts(node.states)
        except AssertionError:
            wrong += 1
    assert wrong > 10
