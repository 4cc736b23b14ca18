import base64
import gzip
import json

from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.state import Settings
from wukong.webhook.payloads import array, notify_item, offline_body, request_id, status_item

SETTINGS = Settings()
GROUP = ChannelId(2, "g")
PAIR = ChannelId(1, person_id("a", "b"))


def message(from_uid: str = "a", **fields: int | str) -> Message:
    return Message(
        2047193857731457024,
        12,
        2,
        0,
        from_uid,
        "c1",
        1_776_844_805,
        b'{"t',
        **fields,  # type: ignore[arg-type]
    )


def offline(
    channel: ChannelId, from_uid: str = "a", to_uids: tuple[str, ...] = ("b",), compress_above: int = 0
) -> dict:  # type: ignore[type-arg]
    return json.loads(  # type: ignore[no-any-return]
        offline_body(channel, message(from_uid), SETTINGS, list(to_uids), source_id=1001, compress_above=compress_above)
    )


def test_a_notification_is_the_message_as_back_ends_know_it() -> None:
    # http-api.md 16.3
    assert json.loads(notify_item(PAIR, message(), SETTINGS, is_cmd=False)) == {
        "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
        "setting": 0,
        "message_id": 2047193857731457024,
        "message_idstr": "2047193857731457024",
        "client_msg_no": "c1",
        "message_seq": 12,
        "from_uid": "a",
        "channel_id": "b",
        "channel_type": 1,
        "expire": 0,
        "timestamp": 1776844805,
        "payload": base64.b64encode(b'{"t').decode(),
    }


def test_a_command_is_notified_with_the_suffix_and_the_system_without_a_name() -> None:
    shown = json.loads(notify_item(GROUP, message("____system"), SETTINGS, is_cmd=True))
    assert (shown["channel_id"], shown["from_uid"]) == ("g____cmd", "")


def test_items_are_joined_to_an_array() -> None:
    assert array([]) == b"[]"
    assert json.loads(array([status_item('u"-0-1-5-1-1'), status_item("v-0-0-6-0-0")])) == [
        'u"-0-1-5-1-1',
        "v-0-0-6-0-0",
    ]


def test_offline_names_the_channel_as_the_sender_did() -> None:
    # http-api.md 16.4: the receiver's uid, and the system account's name is not blanked.
    assert offline(PAIR)["channel_id"] == "b"
    assert offline(PAIR, "b", ("a",))["channel_id"] == "a"
    assert offline(GROUP)["channel_id"] == "g"
    shown = offline(ChannelId(1, person_id("____system", "b")), "____system")
    assert (shown["from_uid"], shown["channel_id"]) == ("____system", "b")


def test_offline_lists_the_recipients_and_the_node() -> None:
    shown = offline(GROUP, to_uids=("b", "c"))
    assert (shown["to_uids"], shown["source_id"]) == (["b", "c"], 1001)
    assert not {"compress", "compress_to_uids"} & shown.keys()


def test_above_a_count_recipients_are_compressed_so_that_anybody_can_read_them() -> None:
    # Trap 51: WuKongIM's stream ends too early.
    shown = offline(GROUP, to_uids=("b", "c", "d"), compress_above=2)
    assert (shown["to_uids"], shown["compress"]) == ([], "gzip")
    assert json.loads(gzip.decompress(base64.b64decode(shown["compress_to_uids"]))) == ["b", "c", "d"]
    assert offline(GROUP, to_uids=("b", "c"), compress_above=2)["to_uids"] == ["b", "c"]


def test_a_request_is_named_by_what_it_tells_and_of_what() -> None:
    name = request_id("msg.notify", [(1, 5), (2, 7)], b"[]")
    assert len(name) == 32 and int(name, 16)
    assert request_id("msg.notify", [(1, 5), (2, 7)], b"[]") == name
    others = [
        request_id("msg.offline", [(1, 5), (2, 7)], b"[]"),
        request_id("msg.notify", [(1, 5), (2, 8)], b"[]"),
        request_id("msg.notify", [(1, 5), (2, 7)], b"[1]"),
    ]
    assert name not in others and len(set(others)) == 3
