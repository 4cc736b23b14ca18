"""Rows in the order of their keys, page by page."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.channel.slot import Slot
from wukong.channel import browse
from wukong.channel.commands import Append, OpenSession, PutChannel, QuitDevices, SetToken
from wukong.channel.ids import GROUP, PERSON, ChannelId
from wukong.channel.state import State

# Prefixes of one another, and longer than one byte per character.
NAMES = ["a", "ab", "abc", "b", "é", "x" * 100]


@pytest.fixture
def slot() -> Slot:
    slot = Slot()
    for name in NAMES:
        slot.do(PutChannel(ChannelId(GROUP, name), add=[name, f"{name}-2"]))
        slot.do(SetToken(name, 0, b"hash", 1))
        slot.do(SetToken(name, 2, b"hash", 0))
        slot.do(OpenSession(name, 1, 0, "d", b"hash"))
        slot.do(OpenSession(name, 2, 1, "e", b"hash"))
    slot.do(Append(ChannelId(PERSON, "a@b"), False, "a", b"hi"))
    slot.do(QuitDevices("ab", [2]))
    return slot


def all_pages(slot: Slot, read: Callable[..., tuple[list[Any], bytes]], limit: int, **options: Any) -> list[Any]:
    found: list[Any] = []
    start = b""
    while True:
        page, start = read(slot.state, start=start, limit=limit, **options)
        assert len(page) <= limit
        found += page
        if not start:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1_000])
def test_every_row_is_there_once_however_long_a_page_is(slot: Slot, limit: int) -> None:
    heads = all_pages(slot, browse.heads, limit)
    assert sorted(channel for channel, _ in heads) == sorted(
        [ChannelId(PERSON, "a@b"), *(ChannelId(GROUP, name) for name in NAMES)]
    )
    assert {channel.id: head.members for channel, head in heads}["abc"] == 2
    devices = all_pages(slot, browse.devices, limit)
    assert sorted((device.uid, device.device_flag) for device in devices) == sorted(
        (name, flag) for name in NAMES for flag in (0, 2)
    )
    assert {device for device in devices if not device.has_token} == {browse.Device("ab", 2, 1, False)}
    assert set(all_pages(slot, browse.session_uids, limit)) == set(NAMES)
    chats = all_pages(slot, browse.chats, limit)
    members = [(ChannelId(GROUP, name), uid) for name in NAMES for uid in (name, f"{name}-2")]
    assert sorted(chats) == sorted([*members, (ChannelId(PERSON, "a@b"), "a"), (ChannelId(PERSON, "a@b"), "b")])


def test_devices_of_one_user_are_his_alone(slot: Slot) -> None:
    for name in NAMES:
        found = all_pages(slot, browse.devices, 1, uid=name)
        assert [(device.uid, device.device_flag) for device in found] == [(name, 0), (name, 2)]
    assert all_pages(slot, browse.devices, 5, uid="nobody") == []


def test_channels_are_found_by_their_id_alone(slot: Slot) -> None:
    slot.do(PutChannel(ChannelId(7, "ab")))
    assert browse.channels_named(slot.state, "ab") == [ChannelId(GROUP, "ab"), ChannelId(7, "ab")]
    assert browse.channels_named(slot.state, "nothing") == []


def test_an_empty_slot_has_nothing() -> None:
    state: State = Slot().state
    for read in (browse.heads, browse.devices, browse.session_uids, browse.chats):
        assert read(state, limit=5) == ([], b"")
