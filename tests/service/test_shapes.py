"""Messages as the outside reads them: http-api.md 3.5."""

import msgspec
import pytest

from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.state import Settings
from wukong.service.shapes import shape_message

SETTINGS = Settings()
SYSTEM = SETTINGS.system_uid


def message(from_uid: str = "a", *, flags: int = 0, topic: str = "") -> Message:
    return Message(2047193857731457024, 12, flags, 8, from_uid, "no", 1_776_844_805, b"hi", 60, topic)


def test_a_message_has_exactly_the_documented_fields_and_order() -> None:
    shape = shape_message(ChannelId(2, "g"), message(flags=2), SETTINGS)
    assert msgspec.json.encode(shape) == (
        b'{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"setting":8,"message_id":2047193857731457024,'
        b'"message_idstr":"2047193857731457024","client_msg_no":"no","message_seq":12,"from_uid":"a",'
        b'"channel_id":"g","channel_type":2,"expire":60,"timestamp":1776844805,"payload":"aGk="}'
    )


def test_a_topic_is_shown_only_if_there_is_one() -> None:
    shape = shape_message(ChannelId(2, "g"), message(topic="T"), SETTINGS)
    assert msgspec.json.decode(msgspec.json.encode(shape))["topic"] == "T"


@pytest.mark.parametrize(
    ("flags", "header"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (0, 1, 0)), (4, (0, 0, 1)), (7, (1, 1, 1)), (15, (1, 1, 1))],
)
def test_flags_become_the_header(flags: int, header: tuple[int, int, int]) -> None:
    shape = shape_message(ChannelId(2, "g"), message(flags=flags), SETTINGS).header
    assert (shape.no_persist, shape.red_dot, shape.sync_once) == header


@pytest.mark.parametrize(
    ("channel", "from_uid", "is_cmd", "shown"),
    [
        (ChannelId(2, "g"), "a", False, "g"),
        (ChannelId(2, "g"), "a", True, "g____cmd"),
        (ChannelId(8, "17922244540036557902"), "a", True, "17922244540036557902____cmd"),
        (ChannelId(1, "bob@alice"), "alice", False, "bob"),
        (ChannelId(1, "bob@alice"), "bob", False, "alice"),
        (ChannelId(1, "u@u"), "u", False, "u@u"),
        # Whoever sent a command, its second part differs from his name.
        (ChannelId(1, "bob@alice"), "alice", True, "alice____cmd"),
        (ChannelId(1, "bob@alice"), "bob", True, "alice____cmd"),
        # The system account is shown without a name, so both parts differ and the second one wins.
        (ChannelId(1, person_id("u1", SYSTEM)), SYSTEM, False, SYSTEM),
        (ChannelId(11, "u@bot"), "u", False, "u@bot"),
        (ChannelId(3, "visitor|desk"), "visitor", False, "visitor|desk"),
    ],
)
def test_the_channel_is_named_as_upstream_does(channel: ChannelId, from_uid: str, is_cmd: bool, shown: str) -> None:
    shape = shape_message(channel, message(from_uid), SETTINGS, is_cmd=is_cmd)
    assert (shape.channel_id, shape.channel_type) == (shown, channel.type)


def test_only_the_built_in_system_account_has_no_name() -> None:
    assert shape_message(ChannelId(2, "g"), message(SYSTEM), SETTINGS).from_uid == ""
    assert shape_message(ChannelId(2, "g"), message("other"), SETTINGS).from_uid == "other"
