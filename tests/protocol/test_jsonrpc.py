import json
from typing import Any

import pytest

from tests.protocol.cases import vectors
from wukong.errors import ProtocolError
from wukong.protocol.json_fields import JsonRpcError
from wukong.protocol.json_stream import JsonSplitter
from wukong.protocol.jsonrpc import (
    ClientPacket,
    decode_client_message,
    encode_connack,
    encode_disconnect,
    encode_error,
    encode_event,
    encode_pong,
    encode_recv,
    encode_sendack,
)
from wukong.protocol.packets import (
    Connack,
    Connect,
    Disconnect,
    Event,
    Ping,
    Recv,
    Recvack,
    Send,
)

ROWS = vectors()["jsonrpc"]
C2S = [row for row in ROWS if row["direction"] == "c2s"]
SERVER_C2S = [row for row in C2S if "server_2.2.5" in row]
SERVER_S2C = [row for row in ROWS if row["direction"] == "s2c" and "server_2.2.5" in row]

# Rows in which we do what section 10 recommends and not what v2.2.5 does.
OURS: dict[str, ClientPacket] = {
    "connect with snake_case keys": Connect(5, "u", "t", "d", 1),
    "send, object payload": Send(0, 0, 0, "c", "b", 1, payload=b'{"a":1}'),
    # An empty number stays empty: who stores the message makes one.
    "send without clientMsgNo and payload": Send(0, 0, 0, "", "b", 1),
    "send with snake_case keys": Send(0, 0, 0, "c", "b", 1, payload=b"{}"),
    "recvack with snake_case keys": Recvack(0, 42, 7),
}


def recorded_packet(text: str) -> ClientPacket:
    """What `NAME with {fields}` of a row says: Go field names, absent ones zero."""
    name, _, fields_text = text.partition(" with ")
    fields = json.loads(fields_text)
    flags = sum(bit for key, bit in (("NoPersist", 1), ("RedDot", 2), ("SyncOnce", 4), ("DUP", 8)) if fields.get(key))
    match name:
        case "CONNECT":
            return Connect(
                version=fields["Version"],
                uid=fields["UID"],
                token=fields["Token"],
                device_id=fields.get("DeviceID", ""),
                device_flag=fields.get("DeviceFlag", 0),
                client_timestamp=fields.get("ClientTimestamp", 0),
            )
        case "SEND":
            return Send(
                flags=flags,
                setting=fields.get("Setting", 0),
                client_seq=0,
                client_msg_no=fields["ClientMsgNo"],
                channel_id=fields["ChannelID"],
                channel_type=fields["ChannelType"],
                expire=fields.get("Expire", 0),
                topic=fields.get("Topic", ""),
                payload={"eyJhIjoxfQ==": b'{"a":1}', "e30=": b"{}"}[fields["Payload"]],
            )
        case "RECVACK":
            return Recvack(flags, int(fields["MessageID"]), fields["MessageSeq"])
        case "PING":
            return Ping()
        case _:
            assert name == "DISCONNECT"
            return Disconnect(0)


@pytest.mark.parametrize("row", SERVER_C2S, ids=lambda row: row["what"])
def test_client_messages_are_read_as_the_old_server_reads_them_or_better(row: dict[str, Any]) -> None:
    text = row["text"].encode()
    if row["what"] == "cut off":
        splitter = JsonSplitter(limit_bytes=1000)
        splitter.receive_data(text)
        assert splitter.next_text() is None
        return
    value = json.loads(text)
    request_id = value.get("id") if isinstance(value, dict) else None
    if row["what"] in OURS or not row["server_2.2.5"].startswith("error"):
        message = decode_client_message(text)
        assert message.packet == (OURS.get(row["what"]) or recorded_packet(row["server_2.2.5"]))
        assert message.request_id == request_id
        assert message.payload_as_json == (row["what"] == "send, object payload")
        return
    with pytest.raises(JsonRpcError) as caught:
        decode_client_message(text)
    assert caught.value.request_id == (request_id if isinstance(request_id, str) else None)


@pytest.mark.parametrize("row", [row for row in C2S if "server_2.2.5" not in row], ids=lambda row: row["what"])
def test_messages_of_a_real_client_are_read(row: dict[str, Any]) -> None:
    message = decode_client_message(row["text"].encode())
    kinds = {"connect": Connect, "send": Send, "ping": Ping, "recvack": Recvack}
    assert type(message.packet) is kinds[json.loads(row["text"])["method"]]
    assert message.request_id == json.loads(row["text"]).get("id")
    if isinstance(message.packet, Send):
        assert message.packet.payload.decode() == '{"type":1,"content":"\u4f60\u597d"}'
        assert message.packet.flags == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"method":"ping","id":"1","params":[]}', "not an object"),
        ('{"method":"connect","id":"1","params":{"uid":1}}', "uid is not a string"),
        ('{"method":"connect","id":"1","params":{"uid":"u","version":256}}', "version is not between"),
        ('{"method":"connect","id":"1","params":{"uid":"u","deviceFlag":-1}}', "deviceflag is not between"),
        ('{"method":"send","id":"1","params":{"channelType":"1"}}', "channeltype is not an integer"),
        ('{"method":"send","id":"1","params":{"expire":4294967296}}', "expire is not between"),
        ('{"method":"send","id":"1","params":{"setting":{"topic":1}}}', "setting: topic is not a boolean"),
        ('{"method":"send","id":"1"}', "missing params"),
        ('{"method":"send","id":"1","params":null}', "missing params"),
        ('{"method":"PING","id":"1"}', "unknown method: PING"),
        ('{"method":5,"id":"1"}', "method is not a string"),
        ('{"id":"1","error":{"code":1}}', "unknown packet type: response"),
        ('{"id":"1"}', "missing id or method"),
        ("{}", "missing id or method"),
    ],
)
def test_a_wrong_message_is_refused_with_its_id(text: str, fault: str) -> None:
    with pytest.raises(JsonRpcError, match=fault) as caught:
        decode_client_message(text.encode())
    assert caught.value.request_id == json.loads(text).get("id")


def test_an_error_does_not_repeat_a_whole_wrong_word() -> None:
    with pytest.raises(JsonRpcError) as caught:
        decode_client_message(json.dumps({"method": "x" * 5000, "id": "1"}).encode())
    assert len(caught.value.text) < 100


@pytest.mark.parametrize("version", [None, 0])
def test_a_connect_without_a_version_means_the_latest(version: int | None) -> None:
    text = json.dumps({"method": "connect", "id": "1", "params": {"uid": "u", "version": version}})
    packet = decode_client_message(text.encode()).packet
    assert isinstance(packet, Connect)
    assert packet.version == 5


def test_a_payload_value_that_is_not_valid_utf_8_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        decode_client_message(b'{"method":"send","id":"1","params":{"payload":{"a":"\xff"}}}')


# Out -----------------------------------------------------------------------------------------------------------------

RECV = Recv(2, 0, "", "bob", "bob", 1, "c", 42, 3, 1700000001, payload=b'{"type":1}')
PLAIN_RECV = Recv(0, 0, "", "b", "g", 2, "", 42, 3, 1, payload=b"x")
FULL_RECV = Recv(0, 0x8A, "", "b", "g", 2, "", 42, 3, 1, expire=9, topic="t", payload=b"x")
OUTPUT: dict[str, bytes] = {
    "connect response": encode_connack(Connack(1, 12, node_id=1001, server_version=5), "req-1"),
    "connect response with time difference zero": encode_connack(
        Connack(1, 0, node_id=1001, server_version=5), "req-1"
    ),
    "send response": encode_sendack(2, 1234567890123456789, 7, 1, "req-1"),
    "send response, refused": encode_sendack(0, 5, 0, 13, "req-1"),
    "recv": encode_recv(RECV, "eyJ0eXBlIjoxfQ=="),
    "recv without any flag": encode_recv(PLAIN_RECV, "eA=="),
    "recv with setting, topic, expire": encode_recv(FULL_RECV, "eA=="),
    "event": encode_event(Event("e", "stream.delta", 1700000000123, b'{"a":1}')),
    "disconnect": encode_disconnect(Disconnect(12, "login in other device")),
    "pong": encode_pong("req-1"),
    "error reply of 2.2.5 to a message it cannot decode (id known)": encode_error(
        "jsonrpc: unknown method: nope", "req-1"
    ),
    "error reply of 2.2.5 when the id could not be read": encode_error("unexpected EOF"),
}


def ours(what: str, recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded message with what section 10.6 wants on top: header, timeDiff and a result in pong, always."""
    if what == "pong":
        return recorded | {"result": {}}
    inner: dict[str, Any] = recorded.get("result") or recorded.get("params") or {}
    if inner and what != "disconnect":
        inner.setdefault("header", {})
    if what.startswith("connect"):
        inner.setdefault("timeDiff", 0)
    if what.startswith("recv"):
        for name in ("streamNo", "streamId", "streamFlag"):
            inner.pop(name, None)  # streaming by RECV ended with version 5
    return recorded


@pytest.mark.parametrize("what", OUTPUT)
def test_answers_and_notifications_are_those_of_the_old_server_and_what_sdks_need_on_top(what: str) -> None:
    (row,) = (row for row in SERVER_S2C if row["what"] == what)
    assert json.loads(OUTPUT[what]) == ours(what, json.loads(row["server_2.2.5"]))


def test_a_refused_login_is_an_error_object_with_the_reason_because_a_result_is_taken_for_success() -> None:
    left = {row["what"] for row in SERVER_S2C} - set(OUTPUT)
    assert left == {"connect response, refused (2.2.5 never sends it)"}
    assert json.loads(encode_connack(Connack(2, 12, node_id=1), "req-1")) == {
        "jsonrpc": "2.0",
        "id": "req-1",
        "error": {"code": 2, "message": "ReasonAuthFail"},
    }


def test_event_data_that_is_not_text_still_gives_valid_json() -> None:
    assert json.loads(encode_event(Event("e", "t", 1, b"\xff")))["params"]["data"] == "\ufffd"


def test_a_recv_carries_the_payload_as_a_value_only_if_it_is_json() -> None:
    assert json.loads(encode_recv(RECV, "eyJ0eXBlIjoxfQ==", payload_as_json=True))["params"]["payload"] == {"type": 1}
    assert json.loads(encode_recv(PLAIN_RECV, "eA==", payload_as_json=True))["params"]["payload"] == "eA=="
