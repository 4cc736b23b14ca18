import pytest

from wukong.client.message import Message, json_payload, payload_bytes, text_payload


def message(payload: bytes, flags: int = 0) -> Message:
    return Message(
        channel_id="g",
        channel_type=2,
        from_uid="x",
        message_seq=1,
        message_id=1,
        client_msg_no="n",
        timestamp=0,
        payload=payload,
        flags=flags,
    )


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (text_payload("grüße"), "grüße"),
        (b"plain", "plain"),
        (b'{"type":2,"url":"u"}', '{"type":2,"url":"u"}'),
        (b'{"content":5}', '{"content":5}'),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_the_text_of_a_message_is_what_people_read(payload: bytes, text: str) -> None:
    assert message(payload).text == text


def test_flags_have_names() -> None:
    flagged = message(b"", flags=5)
    assert (flagged.no_persist, flagged.red_dot, flagged.sync_once) == (True, False, True)


def test_json_payloads_are_compact_and_keep_their_letters() -> None:
    assert json_payload({"a": "ü", "b": [1, 2]}) == '{"a":"ü","b":[1,2]}'.encode()
    assert payload_bytes({"a": 1}) == b'{"a":1}'
