"""Who gets a message and how it looks to them: behaviour.md 8.1 to 8.3 as tables."""

import msgspec
import pytest

from wukong.channel.effects import EventPush, FanOut, Message
from wukong.channel.ids import ChannelId, person_id
from wukong.dispatch import plan
from wukong.session.audience import Audience

SYSTEM = "____system"


def fan_out(channel: ChannelId, *, sender: str = "a", is_cmd: bool = False, to: list[str] | None = None) -> FanOut:
    message = Message(9, 1, plan.RED_DOT | 8, 0, sender, "no", 0, b"x", recipients=to)
    return FanOut(channel, is_cmd, message, 1, 0)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (ChannelId(1, person_id("a", "b")), {"a", "b"}),
        (ChannelId(1, person_id("a", "a")), {"a"}),
        (ChannelId(2, "g"), {"m1", "m2"}),
        (ChannelId(9, "g"), {"m1", "m2"}),
        (ChannelId(3, "visitor|desk"), {"m1", "m2", "visitor"}),
        (ChannelId(10, "visitor"), {"m1", "m2", "visitor"}),
        (ChannelId(11, "a@bot"), {"a", "bot"}),
    ],
)
@pytest.mark.parametrize("is_cmd", [False, True])
def test_recipients_follow_from_members_and_id(channel: ChannelId, expected: set[str], is_cmd: bool) -> None:
    audience = Audience()
    for uid in ("m1", "m2"):
        audience.join(channel, uid)
    found = list(plan.recipients(fan_out(channel, is_cmd=is_cmd), audience))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_explicit_recipients_travel_with_the_message() -> None:
    effect = fan_out(ChannelId(8, "123"), is_cmd=True, to=["x", "y", "x"])
    assert list(plan.recipients(effect, Audience())) == ["x", "y"]


@pytest.mark.parametrize(
    ("channel", "sender", "others", "own"),
    [
        (ChannelId(1, person_id("a", "b")), "a", ("a", "a"), ("a", "b")),
        (ChannelId(1, person_id("a", "a")), "a", ("a", "a"), ("a", "a")),
        (ChannelId(1, person_id(SYSTEM, "b")), SYSTEM, ("", ""), ("", "b")),
        (ChannelId(2, "g"), "a", ("a", "g"), ("a", "g")),
        (ChannelId(2, "g"), SYSTEM, ("", "g"), ("", "g")),
        (ChannelId(11, "a@bot"), "a", ("a", "bot"), ("a", "bot")),
        (ChannelId(11, "a@bot"), "bot", ("bot", "bot"), ("bot", "bot")),
    ],
)
def test_ids_are_shown_as_the_receiver_knows_them(
    channel: ChannelId, sender: str, others: tuple[str, str], own: tuple[str, str]
) -> None:
    effect = fan_out(channel, sender=sender)
    assert plan.shown_to_others(effect, SYSTEM, "____cmd")[:2] == others
    assert plan.shown_to_sender(effect, SYSTEM, "____cmd")[:2] == own


def test_the_senders_other_devices_get_no_red_dot_and_nobody_gets_dup() -> None:
    effect = fan_out(ChannelId(2, "g"))
    assert plan.shown_to_others(effect, SYSTEM, "____cmd")[2] == plan.RED_DOT
    assert plan.shown_to_sender(effect, SYSTEM, "____cmd")[2] == 0


def test_commands_to_listed_users_show_the_channel_with_its_suffix_when_stored() -> None:
    stored = fan_out(ChannelId(8, "123"), is_cmd=True, to=["x"])
    live_only = fan_out(ChannelId(8, "systemcmdonline"), to=["x"])
    assert plan.shown_to_others(stored, SYSTEM, "____cmd")[1] == "123____cmd"
    assert plan.shown_to_others(live_only, SYSTEM, "____cmd")[1] == "systemcmdonline"


def test_an_events_data_has_the_members_that_clients_read() -> None:
    push = EventPush(
        ChannelId(1, "a@b"), "b", "m", "main", "e", "t", "a", 1 << 60, 2, "open", "private", 9, b'{"n": 1.0}'
    )
    assert msgspec.json.decode(plan.event_data(push)) == {
        "client_msg_no": "m",
        "channel_id": "b",
        "channel_type": 1,
        "from_uid": "a",
        "message_id": 1 << 60,
        "event_key": "main",
        "msg_event_seq": 2,
        "stream_status": "open",
        "visibility": "private",
        "payload": {"n": 1.0},
    }
    bare = msgspec.json.decode(plan.event_data(msgspec.structs.replace(push, visibility="", payload=b"")))
    assert not bare.keys() & {"visibility", "payload"}
