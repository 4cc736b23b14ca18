import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol import cases
from tests.protocol.cases import vectors
from wukong.errors import ProtocolError
from wukong.protocol import jsonrpc
from wukong.protocol.json_fields import JsonRpcError
from wukong.protocol.jsonrpc import ClientPacket, decode_client_message
from wukong.protocol.jsonrpc_client import Answer, connack_of, decode_server_message, encode_request, sendack_of
from wukong.protocol.packets import Connack, Connect, Disconnect, Event, Ping, Recv, Recvack, Send, Sendack

known_settings = st.sets(st.sampled_from([0x80, 0x20, 0x08, 0x02])).map(sum)
requests = st.one_of(
    st.builds(Connect, st.integers(1, 255), cases.text, cases.text, cases.text, cases.u8, cases.i64),
    st.builds(
        Send,
        cases.flags,
        known_settings,
        st.just(0),
        cases.text,
        cases.text,
        cases.u8,
        cases.u32,
        st.just(""),
        cases.text,
        cases.data,
        cases.text,
    ),
    st.builds(Recvack, cases.flags, cases.i64, cases.u64),
    st.just(Ping()),
    st.builds(Disconnect, cases.u8, cases.text),
)


@given(requests, cases.text)
@settings(max_examples=300, deadline=None)
def test_what_a_client_writes_the_server_reads(packet: ClientPacket, request_id: str) -> None:
    message = decode_client_message(encode_request(packet, request_id))
    assert message.packet == packet
    assert message.request_id == (None if isinstance(packet, Recvack) else request_id)
    assert not message.payload_as_json


@given(
    st.builds(
        Recv,
        cases.flags,
        known_settings,
        st.just(""),
        cases.text,
        cases.text,
        cases.u8,
        cases.text,
        cases.i64,
        cases.u64,
        cases.i32,
        cases.u32,
        cases.text,
        cases.data,
    )
)
@settings(max_examples=200, deadline=None)
def test_a_recv_of_the_server_is_read_back(packet: Recv) -> None:
    assert decode_server_message(jsonrpc.encode_recv(packet, b64encode(packet.payload).decode())) == packet


@given(st.builds(Event, cases.text, cases.text, cases.i64, cases.text.map(str.encode)))
@settings(deadline=None)
def test_an_event_of_the_server_is_read_back(packet: Event) -> None:
    assert decode_server_message(jsonrpc.encode_event(packet)) == packet


def test_answers_of_the_server_are_read_back() -> None:
    connack = Connack(1, -57, node_id=1 << 63, server_version=5)
    answer = decode_server_message(jsonrpc.encode_connack(connack, "7"))
    assert isinstance(answer, Answer)
    assert answer.request_id == "7"
    assert connack_of(answer) == connack

    refused = decode_server_message(jsonrpc.encode_connack(Connack(19), "7"))
    assert refused == Answer("7", None, (19, "ReasonBan"))
    assert connack_of(refused) == Connack(19)
    assert connack_of(Answer("7", None, (-32600, "other servers"))).reason_code == 0

    sendack = decode_server_message(jsonrpc.encode_sendack(2, -5, 9, 3, "8"))
    assert isinstance(sendack, Answer)
    assert sendack_of(sendack) == Sendack(2, -5, 0, 9, 3)
    error = decode_server_message(jsonrpc.encode_error("nope", "8"))
    assert isinstance(error, Answer)
    assert sendack_of(error).reason_code == 15

    assert decode_server_message(jsonrpc.encode_pong("9")) == Answer("9", b"{}", None)
    assert decode_server_message(jsonrpc.encode_disconnect(Disconnect(12, "kick"))) == Disconnect(12, "kick")
    assert decode_server_message(jsonrpc.encode_error("no id")) == Answer("", None, (0, "no id"))


def recorded_texts() -> list[tuple[str, str]]:
    return [
        (f"{row['what']} {key}", row[key])
        for row in vectors()["jsonrpc"]
        if row["direction"] == "s2c"
        for key in ("text", "server_2.2.5", "v3_head")
        if key in row
    ]


@pytest.mark.parametrize("text", [text for _, text in recorded_texts()], ids=[name for name, _ in recorded_texts()])
def test_recorded_messages_of_servers_are_understood(text: str) -> None:
    value: dict[str, Any] = json.loads(text)
    message = decode_server_message(text.encode())
    if "method" not in value:
        assert isinstance(message, Answer)
        assert message.request_id == value.get("id", "")
        assert (message.error is not None) == ("error" in value)
        if "messageId" in value.get("result", {}):
            assert sendack_of(message).message_id == int(value["result"]["messageId"])
        elif "nodeId" in value.get("result", {}):
            assert connack_of(message).reason_code == value["result"]["reasonCode"]
        return
    params = value["params"]
    if value["method"] == "recv":
        assert isinstance(message, Recv)
        assert (message.message_id, message.message_seq) == (int(params["messageId"]), params["messageSeq"])
        assert message.payload in (b'{"type":1,"content":"hi"}', b'{"type":1}', b"x")
    elif value["method"] == "event":
        assert message == Event(params["id"], params["type"], params["timestamp"], params["data"].encode())
    else:
        assert message == Disconnect(12, "login in other device")


@pytest.mark.parametrize(
    "text", ['{"method":"nope","params":{}}', '{"result":{}}', "[]", '{"jsonrpc":"1.0","id":"1","result":{}}']
)
def test_a_message_no_server_sends_is_refused(text: str) -> None:
    with pytest.raises(JsonRpcError):
        decode_server_message(text.encode())


def test_text_that_is_not_json_is_a_protocol_error() -> None:
    for text in (b"{x}", b'{"method":"recv","params":{"channelId":"\xff"}}'):
        with pytest.raises(ProtocolError):
            decode_server_message(text)
