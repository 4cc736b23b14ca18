"""Versioned copies: owed by the authority, taken once, newest wins, forgotten when applied. architecture.md 4."""

from itertools import permutations
from typing import Any

import msgspec
import pytest

from tests.channel.slot import Slot
from wukong.channel.commands import (
    Append,
    ChannelInfo,
    Command,
    ForgetOutbox,
    PutChannel,
    PutCopy,
    PutSettings,
    Reply,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.copies import (
    COPY_PAIR,
    COPY_SETTINGS,
    COPY_SYSTEM_UIDS,
    COPY_USER,
    datasource_uids,
    owed,
    settings_version,
    system_uids,
)
from wukong.channel.effects import Propagate
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.state import Settings, channel_part, encode

OWNER = ChannelId(1, "bob")
PAIR = ChannelId(1, "bob@alice")
DENY, ALLOW = 0, 1
ADD, REMOVE, SET, CLEAR = 0, 1, 2, 3

_decode = msgspec.msgpack.Decoder(Command).decode


def copies(slot: Slot) -> list[tuple[str, Command]]:
    """(target, command) of what was asked to be copied."""
    return [(e.target, _decode(e.command)) for e in slot.effects() if isinstance(e, Propagate)]


def pair_copy(version: int, uid: str, bits: int, chat: str = "") -> tuple[str, Command]:
    pair = person_id("bob", uid)
    return pair, PutCopy(COPY_PAIR, version, [pair, "bob", chat], bytes((bits,)))


def test_a_persons_list_goes_to_the_slot_of_each_pair() -> None:
    slot = Slot()
    assert slot.do(UpdateList(OWNER, DENY, ADD, ["alice", "carol"])).version == 1
    assert copies(slot) == [pair_copy(1, "alice", 1), pair_copy(1, "carol", 1)]
    assert slot.do(UpdateList(OWNER, ALLOW, ADD, ["alice"])).version == 2
    assert copies(slot) == [pair_copy(2, "alice", 3, chat="alice")]
    assert slot.do(UpdateList(OWNER, DENY, CLEAR)).version == 3
    assert copies(slot) == [pair_copy(3, "alice", 2), pair_copy(3, "carol", 0)]
    assert slot.do(UpdateList(OWNER, ALLOW, SET, ["carol", "bob"])).version == 4
    assert copies(slot) == [pair_copy(4, "carol", 2), pair_copy(4, "bob", 2), pair_copy(4, "alice", 0)]


def test_an_allow_list_never_makes_the_owner_a_conversation_with_himself() -> None:
    slot = Slot()
    slot.do(UpdateList(OWNER, ALLOW, ADD, ["bob"]))
    assert copies(slot) == [pair_copy(1, "bob", 2)]


def test_nothing_touched_needs_no_copy() -> None:
    slot = Slot()
    assert slot.do(UpdateList(OWNER, DENY, SET, ["", " "])).version == 0
    assert slot.do(UpdateList(ChannelId(2, "g"), DENY, ADD, ["alice"])).version == 0
    assert copies(slot) == []


@pytest.mark.parametrize(
    ("infos", "bits"),
    [
        ([ChannelInfo(send_ban=True)], [b"\x01"]),
        ([ChannelInfo(ban=True, disband=True)], []),
        ([ChannelInfo(send_ban=True), ChannelInfo(send_ban=True, ban=True)], [b"\x01", b"\x01"]),
        ([ChannelInfo(send_ban=True), ChannelInfo()], [b"\x01", b"\x00"]),
        ([ChannelInfo(send_ban=True), ChannelInfo(), ChannelInfo()], [b"\x01", b"\x00", b"\x00"]),
        ([ChannelInfo(send_ban=True), None], [b"\x01"]),
    ],
)
def test_a_users_send_ban_goes_to_every_slot_with_every_request(
    infos: list[ChannelInfo | None], bits: list[bytes]
) -> None:
    slot = Slot()
    for info in infos:
        slot.do(PutChannel(OWNER, info))
    found = copies(slot)
    assert [target for target, _ in found] == [""] * len(bits)
    assert [command for _, command in found] == [
        PutCopy(COPY_USER, version, ["bob"], value) for version, value in enumerate(bits, start=1)
    ]


def test_a_groups_send_ban_needs_no_copy() -> None:
    slot = Slot()
    slot.do(PutChannel(ChannelId(2, "g"), ChannelInfo(send_ban=True)))
    assert copies(slot) == []


def test_system_uids_are_kept_in_order_and_copied_whole() -> None:
    slot = Slot()
    for op, uids in ((ADD, ["b", "a"]), (ADD, ["c", "a"]), (REMOVE, ["b", "unknown"]), (ADD, ["b"])):
        slot.do(UpdateSystemUids(op, uids))
    assert system_uids(slot.state) == ["a", "c", "b"]
    assert slot.state.system_uids == frozenset(), "the authority decides by its copy as well"
    found = copies(slot)
    assert [command for _, command in found] == [
        PutCopy(COPY_SYSTEM_UIDS, version, [], encode(uids))
        for version, uids in enumerate((["b", "a"], ["b", "a", "c"], ["a", "c"], ["a", "c", "b"]), start=1)
    ]
    for _, command in found:
        slot.do(command)
    assert slot.state.system_uids == {"a", "b", "c"}


def test_what_the_datasource_names_and_what_was_added_do_not_touch_each_other() -> None:
    slot = Slot()
    steps: list[tuple[UpdateSystemUids, list[str], list[str]]] = [
        (UpdateSystemUids(ADD, ["a", "both"]), ["a", "both"], []),
        (UpdateSystemUids(SET, ["both", "x", "x"], True), ["a", "both"], ["both", "x"]),
        (UpdateSystemUids(REMOVE, ["both", "x"]), ["a"], ["both", "x"]),
        (UpdateSystemUids(SET, ["y"], True), ["a"], ["y"]),
        (UpdateSystemUids(ADD, ["y"]), ["a", "y"], ["y"]),
        (UpdateSystemUids(SET, [], True), ["a", "y"], []),
    ]
    for command, added, named in steps:
        slot.do(command)
        assert (system_uids(slot.state), datasource_uids(slot.state)) == (added, named)
        copy = copies(slot)[-1][1]
        slot.do(copy)
        assert slot.state.system_uids == {*added, *named}


def facts(slot: Slot) -> tuple[object, ...]:
    """What the copies say, read from the rows."""
    rows = slot.rows()
    return (
        slot.state.settings,
        slot.state.system_uids,
        rows.get(b"falice"),
        rows.get(b"l" + channel_part(PAIR) + b"bob"),
    )


THREE = {
    COPY_USER: [PutCopy(COPY_USER, v, ["alice"], bytes((v & 1,))) for v in (1, 2, 3)],
    COPY_PAIR: [PutCopy(COPY_PAIR, v, ["bob@alice", "bob", ""], bytes((v & 3,))) for v in (1, 2, 3)],
    COPY_SETTINGS: [PutCopy(COPY_SETTINGS, v, [], encode(Settings(members_per_command=v))) for v in (1, 2, 3)],
    COPY_SYSTEM_UIDS: [PutCopy(COPY_SYSTEM_UIDS, v, [], encode([f"robot {v}"])) for v in (1, 2, 3)],
}


@pytest.mark.parametrize("kind", THREE)
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_newest_version_wins_in_any_order_and_however_often(kind: int, order: tuple[int, ...]) -> None:
    slot, expected = Slot(), Slot()
    expected.do(THREE[kind][2])
    for at in (*order, *order):
        slot.do(THREE[kind][at])
    assert facts(slot) == facts(expected)
    slot.restart()
    assert facts(slot) == facts(expected)


def test_copies_of_two_owners_for_one_pair_do_not_meet() -> None:
    slot = Slot()
    slot.do(PutCopy(COPY_PAIR, 9, ["bob@alice", "bob", ""], b"\x01"))
    slot.do(PutCopy(COPY_PAIR, 1, ["bob@alice", "alice", ""], b"\x02"))

    def reason(uid: str) -> int:
        return slot.do(Append(PAIR, False, uid, b"hi")).reason

    assert (reason("alice"), reason("bob")) == (4, 1)
    slot.do(PutCopy(COPY_PAIR, 10, ["bob@alice", "bob", ""], b"\x00"))
    assert reason("alice") == 1


def test_a_late_copy_of_an_allow_list_still_makes_the_conversation_and_never_resets_one() -> None:
    slot = Slot(whitelist_off_of_person=False)
    new = PutCopy(COPY_PAIR, 5, ["bob@alice", "bob", ""], b"\x00")
    old = PutCopy(COPY_PAIR, 4, ["bob@alice", "bob", "alice"], b"\x02")
    slot.do(new)
    slot.do(old)
    row = slot.state.user(channel_part(PAIR), "alice")
    assert row is not None and row.chat and row.read_seq == 0
    slot.do(Append(PAIR, False, "bob", b"hi", trusted=True))
    slot.do(UpdateChat(PAIR, "alice", 0))
    before = slot.state.user(channel_part(PAIR), "alice")
    slot.do(old)
    assert slot.state.user(channel_part(PAIR), "alice") == before


def test_the_outbox_owes_until_it_is_told_to_forget() -> None:
    slot = Slot()
    slot.do(UpdateList(OWNER, DENY, ADD, ["alice", "carol"]))
    slot.do(PutSettings(encode(Settings(token_auth_on=True))))
    asked = [effect for effect in slot.effects() if isinstance(effect, Propagate)]
    assert owed(slot.state) == asked and len(asked) == 3
    slot.restart()
    assert owed(slot.state) == asked
    slot.do(ForgetOutbox([asked[0].outbox_id, asked[2].outbox_id, 999]))
    assert owed(slot.state) == asked[1:2]
    slot.do(ForgetOutbox([asked[1].outbox_id]))
    assert owed(slot.state) == []
    slot.do(UpdateSystemUids(ADD, ["robot"]))
    assert owed(slot.state)[0].outbox_id not in {effect.outbox_id for effect in asked}, "numbers are not used again"


def test_the_outbox_is_read_from_where_it_begins_and_not_from_what_was_forgotten() -> None:
    slot = Slot()
    starts: list[bytes] = []
    scan = slot.state.scan

    def watched(start: bytes, end: bytes | None = None, **limits: Any) -> list[tuple[bytes, bytes]]:
        starts.append(start)
        return scan(start, end, **limits)

    slot.state.scan = watched  # type: ignore[method-assign, assignment]
    for n in range(5):
        slot.do(UpdateSystemUids(ADD, [f"robot {n}"]))
    slot.do(ForgetOutbox([1, 2, 4]))
    starts.clear()
    assert [[record.outbox_id for record in owed(slot.state, limit=limit)] for limit in (0, 1, None)] == [
        [],
        [3],
        [3, 5],
    ]
    slot.do(ForgetOutbox([3, 5]))
    assert owed(slot.state) == owed(slot.state) == []
    slot.do(UpdateSystemUids(ADD, ["another"]))
    assert [record.outbox_id for record in owed(slot.state)] == [6]
    assert [int.from_bytes(start[1:], "big") for start in starts if start[:1] == b"x"] == [0, 0, 3, 3, 6, 6]
    slot.restart()
    assert [record.outbox_id for record in owed(slot.state)] == [6]


def test_settings_take_effect_with_their_copy() -> None:
    slot = Slot()
    slot.do(PutSettings(encode(Settings(system_uid="root"))))
    assert slot.state.settings == Settings()
    slot.deliver()
    assert slot.state.settings == Settings(system_uid="root")
    slot.restart()
    assert slot.state.settings == Settings(system_uid="root")


def test_a_slot_says_under_which_version_of_the_settings_it_goes() -> None:
    slot = Slot()
    slot.do(UpdateSystemUids(ADD, ["robot"]))
    version = slot.do(PutSettings(encode(Settings(system_uid="root")))).version
    assert (version, settings_version(slot.state)) == (2, 0)
    slot.deliver()
    assert settings_version(slot.state) == 2
    slot.restart()
    assert settings_version(slot.state) == 2


def settings(system_uid: str, *, initial: bool = False) -> PutSettings:
    return PutSettings(encode(Settings(system_uid=system_uid)), initial)


def test_of_several_first_settings_the_first_in_the_log_count() -> None:
    """Nodes come up at once, and no copy is applied yet."""
    slot = Slot()
    assert slot.do(settings("one", initial=True), node=1) == Reply(version=1)
    assert slot.do(settings("two", initial=True), node=2) == Reply(version=1, duplicate=True)
    slot.restart()
    assert slot.do(settings("three", initial=True), node=3) == Reply(version=1, duplicate=True)
    (record,) = owed(slot.state)
    slot.do(_decode(record.command))
    assert slot.state.settings == Settings(system_uid="one")
    assert slot.do(settings("two", initial=True), node=2) == Reply(version=1, duplicate=True)


def test_first_settings_change_nothing_where_the_copy_is_all_that_is_left() -> None:
    slot = Slot()
    slot.do(settings("one"))
    slot.deliver()
    slot.do(ForgetOutbox([1]))
    slot.restart()
    assert slot.do(settings("two", initial=True)) == Reply(version=1, duplicate=True)
    assert owed(slot.state) == []


def test_first_settings_are_told_the_newest_decision_also_before_its_copy() -> None:
    slot = Slot()
    slot.do(settings("one"))
    slot.deliver()
    slot.do(UpdateSystemUids(ADD, ["robot"]))
    slot.do(settings("two"))
    slot.do(UpdateSystemUids(ADD, ["another"]))
    assert slot.do(settings("three", initial=True)) == Reply(version=3, duplicate=True)
    assert slot.state.settings == Settings(system_uid="one")


def test_other_copies_are_no_settings() -> None:
    slot = Slot()
    slot.do(UpdateSystemUids(ADD, ["robot"]))
    slot.do(PutChannel(OWNER, ChannelInfo(send_ban=True)))
    assert slot.do(settings("one", initial=True)) == Reply(version=3)


def test_settings_that_are_changed_on_purpose_change() -> None:
    slot = Slot()
    slot.do(settings("one", initial=True))
    assert slot.do(settings("two")) == Reply(version=2)
    slot.deliver()
    assert slot.state.settings == Settings(system_uid="two")


def test_settings_of_another_version_are_read_with_defaults_and_without_what_is_unknown() -> None:
    slot = Slot()
    value = encode({"token_auth_on": True, "of_a_later_version": 1})
    assert slot.do(PutCopy(COPY_SETTINGS, 1, [], value)).reason == 1
    assert slot.state.settings == Settings(token_auth_on=True)
