"""Who gets a push: what a node computes from the effects it saw is the membership at the message's position. R0."""

from tests.channel.slot import Slot
from wukong.channel.commands import (
    Append,
    ChannelInfo,
    Command,
    PutChannel,
    RemoveAllMembers,
    RemoveMembers,
    UpdateList,
)
from wukong.channel.effects import FanOut, MembersChanged
from wukong.channel.ids import ChannelId

GROUP = ChannelId(2, "g")


def message(text: str, **fields: object) -> Append:
    return Append(GROUP, False, "____system", text.encode(), trusted=True, **fields)  # type: ignore[arg-type]


def deliveries(slot: Slot) -> dict[str, set[str]]:
    """Payload -> members, as somebody who reads nothing but the effects knows them."""
    members: set[str] = set()
    found = {}
    for effect in slot.effects():
        if isinstance(effect, MembersChanged):
            members = (set() if effect.cleared else members - set(effect.removed)) | set(effect.added)
        if isinstance(effect, FanOut):
            named = effect.message.recipients
            found[effect.message.payload.decode()] = set(members if named is None else named)
    return found


def run(*commands: Command) -> dict[str, set[str]]:
    slot = Slot()
    for command in commands:
        slot.do(command)
    return deliveries(slot)


def test_members_at_the_position_get_the_message() -> None:
    assert run(
        message("nobody"),
        PutChannel(GROUP, None, ["a"]),
        message("a"),
        PutChannel(GROUP, None, ["b", "a", "b", " ", ""]),
        message("a b"),
        RemoveMembers(GROUP, ["a", "stranger"]),
        message("b"),
        PutChannel(GROUP, None, ["a"]),
        message("a b again"),
        RemoveAllMembers(GROUP),
        message("none"),
    ) == {"nobody": set(), "a": {"a"}, "a b": {"a", "b"}, "b": {"b"}, "a b again": {"a", "b"}, "none": set()}


def test_a_reset_is_one_step() -> None:
    """D-12, S16: who is in both lists is never out."""
    slot = Slot()
    slot.do(PutChannel(GROUP, None, ["a", "b", "c"]))
    slot.effects()
    slot.do(PutChannel(GROUP, None, ["c", "d"], reset=True))
    assert slot.effects() == [MembersChanged(GROUP, ["d"], ["a", "b"])]


def test_denied_members_get_messages() -> None:
    """behaviour.md 8.1: the deny list only blocks sending."""
    assert run(PutChannel(GROUP, None, ["a"]), UpdateList(GROUP, 0, 0, ["a"]), message("x")) == {"x": {"a"}}


def test_a_message_with_recipients_goes_to_them_alone() -> None:
    assert run(PutChannel(GROUP, None, ["a"]), message("x", recipients=["b"])) == {"x": {"b"}}


def test_a_change_that_changes_nothing_has_no_effect() -> None:
    slot = Slot()
    slot.do(PutChannel(GROUP, None, ["a"]))
    slot.effects()
    slot.do(PutChannel(GROUP, ChannelInfo(), ["a"]))
    slot.do(PutChannel(GROUP, None, ["a"], reset=True))
    slot.do(RemoveMembers(GROUP, ["b"]))
    slot.do(RemoveMembers(ChannelId(2, "unknown"), ["b"]))
    slot.do(RemoveAllMembers(ChannelId(2, "unknown")))
    assert slot.effects() == []
