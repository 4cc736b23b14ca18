import pytest

from wukong.errors import ProtocolError
from wukong.protocol.json_fields import (
    HEADER_BITS,
    Fields,
    JsonRpcError,
    call,
    check_version,
    header_of,
    present,
    read_envelope,
)
from wukong.protocol.packets import DUP, NO_PERSIST, RED_DOT, SYNC_ONCE


@pytest.mark.parametrize("key", ["channelId", "channel_id", "ChannelID", "CHANNELID", "channelid", "channel_ID"])
def test_a_field_is_found_in_any_spelling(key: str) -> None:
    assert Fields(f'{{"{key}":"bob"}}'.encode(), "params").text("channelid") == "bob"


def test_of_two_spellings_the_last_one_counts() -> None:
    assert Fields(b'{"channelId":"a","channel_id":"b"}', "params").text("channelid") == "b"


def test_absent_and_null_fields_are_zero_or_empty() -> None:
    for text in (b"{}", b'{"x":null}'):
        fields = Fields(text, "params")
        assert fields.text("x") == ""
        assert fields.number("x", 0, 9) == 0
        assert fields.number_text("x", 0, 9) == 0
        assert fields.bits("x", HEADER_BITS) == 0
        assert fields.switch("x") is False
        assert fields.data("x") == b""
        assert fields.raw("x") is None
    assert Fields(b"{}", "params").payload() == (b"", False)
    assert Fields(b'{"payload":null}', "params").payload() == (b"", False)


@pytest.mark.parametrize("value", ["1", "true", "{}", "[]", "1.5"])
def test_a_string_has_to_be_a_string(value: str) -> None:
    fields = Fields(f'{{"x":{value}}}'.encode(), "params")
    with pytest.raises(JsonRpcError, match="params: x is not a string"):
        fields.text("x")
    with pytest.raises(JsonRpcError, match="not a string"):
        fields.data("x")


def test_a_string_has_to_fit_the_binary_form() -> None:
    longest = "x" * 32767
    assert Fields(f'{{"x":"{longest}"}}'.encode(), "params").text("x") == longest
    for text in (longest + "x", "\u4f60" * 10923):
        with pytest.raises(JsonRpcError, match="longer than 32767 bytes"):
            Fields(f'{{"x":"{text}"}}'.encode(), "params").text("x")
        assert Fields(f'{{"x":"{text}"}}'.encode(), "params").data("x") == text.encode()


@pytest.mark.parametrize("value", ['"1"', "true", "1.5", "{}", "-1", "10", "1e400", "123456789012345678901234567890"])
def test_a_number_has_to_be_an_integer_in_its_range(value: str) -> None:
    with pytest.raises(JsonRpcError):
        Fields(f'{{"x":{value}}}'.encode(), "params").number("x", 0, 9)


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("9", 9), ("-9", -9), ("007", 7)])
def test_a_number_may_travel_as_a_string_where_that_is_the_form(value: str, number: int) -> None:
    assert Fields(f'{{"x":"{value}"}}'.encode(), "params").number_text("x", -9, 9) == number


@pytest.mark.parametrize(
    "value", ["1", '"x"', '"--1"', '"-"', '"10"', '"1.0"', '" 1"', '"\u0661"', '"' + "1" * 5000 + '"']
)
def test_what_is_not_a_number_in_a_string_is_refused(value: str) -> None:
    with pytest.raises(JsonRpcError):
        Fields(f'{{"x":{value}}}'.encode(), "params").number_text("x", -9, 9)


def test_a_header_is_read_in_any_spelling_and_unknown_keys_mean_nothing() -> None:
    text = b'{"header":{"no_persist":true,"RedDot":true,"syncOnce":false,"dup":null,"end":true,"other":[1]}}'
    assert Fields(text, "params").bits("header", HEADER_BITS) == NO_PERSIST | RED_DOT


@pytest.mark.parametrize("header", ["1", "[]", '{"redDot":1}', '{"redDot":"true"}'])
def test_a_header_has_to_hold_booleans(header: str) -> None:
    with pytest.raises(JsonRpcError, match="header"):
        Fields(f'{{"header":{header}}}'.encode(), "params").bits("header", HEADER_BITS)


def test_a_header_is_written_with_what_is_set_only() -> None:
    assert header_of(0) == {}
    assert header_of(RED_DOT | DUP) == {"redDot": True, "dup": True}
    assert list(header_of(0x0F)) == ["noPersist", "redDot", "syncOnce", "dup"]
    assert header_of(SYNC_ONCE) == {"syncOnce": True}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('"eyJhIjoxfQ=="', (b'{"a":1}', False)),
        ('""', (b"", False)),
        ('{"a" : 1, "b":"\\u4f60"}', (b'{"a" : 1, "b":"\\u4f60"}', True)),
        ("[1]", (b"[1]", True)),
        ("12", (b"12", True)),
        ("false", (b"false", True)),
    ],
)
def test_a_payload_is_base64_or_the_value_as_it_was_written(payload: str, expected: tuple[bytes, bool]) -> None:
    assert Fields(f'{{"payload":{payload}}}'.encode(), "params").payload() == expected


@pytest.mark.parametrize("payload", ["hello world", "eyJhIjoxfQ", "\u4f60", "e30=="])
def test_a_text_payload_has_to_be_base64(payload: str) -> None:
    with pytest.raises(JsonRpcError, match="not base64"):
        Fields(f'{{"payload":"{payload}"}}'.encode(), "params").payload()


def test_an_envelope_has_its_id_if_it_is_a_string() -> None:
    assert read_envelope(b'{"id":"7"}')[1] == "7"
    assert read_envelope(b'{"ID":""}')[1] == ""
    assert read_envelope(b"{}")[1] is None
    assert read_envelope(b'{"id":null}')[1] is None
    for text in (b'{"id":7}', b'{"id":{}}', b"[]", b"[1]"):
        with pytest.raises(JsonRpcError) as caught:
            read_envelope(text)
        assert caught.value.request_id is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{1:2}",
        b'{"a":yes}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\x01"}',
        b'{"a":1}{}',
        b'{"\xff":1}',
        b'{"a":"\\x"}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_text_that_is_not_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_envelope(text)


def test_half_a_surrogate_pair_is_answered_not_closed() -> None:
    with pytest.raises(JsonRpcError, match="Unicode") as caught:
        read_envelope(b'{"id":"7","params":{"payload":{"content":"\\ud83d"}}}')
    assert caught.value.request_id == "7"
    with pytest.raises(JsonRpcError, match="Unicode") as caught:
        read_envelope(b'{"id":"\\ud83d"}')
    assert caught.value.request_id is None


def test_the_version_may_be_missing_but_not_wrong() -> None:
    check_version(Fields(b"{}", "message"))
    check_version(Fields(b'{"jsonrpc":"2.0"}', "message"))
    for version in ('"1.0"', "2.0", '""'):
        with pytest.raises(JsonRpcError):
            check_version(Fields(f'{{"jsonrpc":{version}}}'.encode(), "message"))


def test_keys_that_peers_invent_are_not_remembered_without_end() -> None:
    from wukong.protocol import json_fields

    for number in range(3000):
        Fields(f'{{"k{number}":1}}'.encode(), "params")
    Fields(b'{"' + b"x" * 100_000 + b'":1}', "params")
    assert len(json_fields._canonical_names) <= 1024
    assert max(map(len, json_fields._canonical_names)) <= 64
    assert Fields(b'{"brandNew_Key":"x"}', "params").text("brandnewkey") == "x"


def test_calls_are_requests_with_an_id_and_notifications_without() -> None:
    assert call("ping", {}, "1") == b'{"jsonrpc":"2.0","method":"ping","params":{},"id":"1"}'
    assert call("event", {"a": 1}) == b'{"jsonrpc":"2.0","method":"event","params":{"a":1}}'
    assert present(a=0, b="", c=None, d=1) == {"d": 1}
