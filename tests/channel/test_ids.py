"""Identifiers: joined person ids, what a user sees, implicit members, slots. behaviour.md 2, http-api.md 3.3."""

from itertools import permutations
from zlib import crc32

import pytest

from tests.channel import model
from tests.channel.world import UIDS
from wukong.channel.ids import (
    ChannelId,
    has_special,
    implicit_members,
    peer_of,
    person_id,
    shown_id,
    slot_of,
    split_pair,
    stored_channel,
)


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [
        # http-api.md 3.3, run on the old server
        ("u1", "u2", "u2@u1"),
        ("alice", "bob", "bob@alice"),
        ("____system", "u1", "u1@____system"),
        ("u1", "u1", "u1@u1"),
        # Equal CRC-32: the larger text first, whoever asks.
        ("plumless", "buckeroo", "plumless@buckeroo"),
        ("lwhuxoij", "tcfiejin", "tcfiejin@lwhuxoij"),
    ],
)
def test_a_person_channel_has_one_id_for_both(a: str, b: str, joined: str) -> None:
    assert person_id(a, b) == person_id(b, a) == joined


@pytest.mark.parametrize(("a", "b"), [("plumless", "buckeroo"), ("lwhuxoij", "tcfiejin")])
def test_the_uids_that_are_said_to_collide_do(a: str, b: str) -> None:
    assert crc32(a.encode()) == crc32(b.encode())


@pytest.mark.parametrize(("a", "b"), list(permutations(UIDS, 2)))
def test_joined_ids_follow_the_rule_for_hard_uids(a: str, b: str) -> None:
    joined = person_id(a, b)
    assert joined == model.joined(a, b)
    assert set(split_pair(joined)) == {a, b}
    assert (peer_of(joined, a), peer_of(joined, b)) == (b, a)


def test_no_two_pairs_share_an_id() -> None:
    pairs = {frozenset((a, b)) for a in UIDS for b in UIDS}
    assert len({person_id(*sorted(pair), *(pair if len(pair) == 1 else ())) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("channel_id", "channel_type", "uid", "stored"),
    [
        ("bob", 1, "alice", ChannelId(1, "bob@alice")),
        ("alice", 1, "bob", ChannelId(1, "bob@alice")),
        ("alice", 1, "alice", ChannelId(1, "alice@alice")),
        # The agent's channel is never reordered.
        ("agent", 11, "alice", ChannelId(11, "alice@agent")),
        ("alice", 11, "agent", ChannelId(11, "agent@alice")),
        ("g", 2, "alice", ChannelId(2, "g")),
        ("bob____cmd", 1, "alice", ChannelId(1, person_id("alice", "bob____cmd"))),
    ],
)
def test_the_stored_channel_and_what_its_user_sees(
    channel_id: str, channel_type: int, uid: str, stored: ChannelId
) -> None:
    assert stored_channel(channel_id, channel_type, uid) == stored
    assert shown_id(stored, uid) == channel_id


def test_both_sides_of_an_agent_channel_see_the_agent() -> None:
    """behaviour.md 8.3."""
    assert {shown_id(ChannelId(11, "alice@agent"), uid) for uid in ("alice", "agent")} == {"agent"}


@pytest.mark.parametrize(
    ("channel", "members"),
    [
        (ChannelId(1, "bob@alice"), ("bob", "alice")),
        (ChannelId(1, "u@u"), ("u",)),
        (ChannelId(11, "alice@agent"), ("alice", "agent")),
        (ChannelId(3, "visitor|desk"), ("visitor",)),
        (ChannelId(3, "visitor|desk|two"), ("visitor",)),
        (ChannelId(3, "desk"), ()),
        (ChannelId(3, "|desk"), ()),
        (ChannelId(10, "visitor"), ("visitor",)),
        *((ChannelId(kind, "a@b"), ()) for kind in (2, 4, 5, 6, 7, 8, 9, 12)),
    ],
)
def test_members_by_the_id_alone(channel: ChannelId, members: tuple[str, ...]) -> None:
    """behaviour.md 8.1."""
    assert implicit_members(channel) == members


def test_a_uid_that_ends_like_a_command_twin_is_just_a_uid() -> None:
    """The twin of alice@bob and the chat of alice with bob____cmd have the same text in the old server."""
    assert implicit_members(ChannelId(1, person_id("alice", "bob____cmd"))) != implicit_members(
        ChannelId(1, person_id("alice", "bob"))
    )


@pytest.mark.parametrize(
    ("key", "count", "slot"), [("", 16, 0), ("g", 16, crc32(b"g") % 16), ("群", 64, crc32("群".encode()) % 64)]
)
def test_a_slot_is_the_crc_of_the_key(key: str, count: int, slot: int) -> None:
    assert slot_of(key, count) == slot


@pytest.mark.parametrize("text", ["@", "a#", "&a", "a@b#c"])
def test_special_characters_are_found(text: str) -> None:
    assert has_special(text)


@pytest.mark.parametrize("text", ["", "a", "a|b", "用户", "____cmd", "a-b:c"])
def test_other_characters_are_not_special(text: str) -> None:
    assert not has_special(text)
