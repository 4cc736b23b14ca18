import json
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.cases import packets, vectors
from wukong.errors import FrameTooLarge
from wukong.protocol.codec import decode, encode
from wukong.protocol.connection import (
    TRANSITIONS,
    Connection,
    ConnectionEvent,
    ConnectionOptions,
    ConnectReceived,
    PingReceived,
    ProtocolBroken,
    ReplyReady,
    SendReceived,
    SendRefused,
    State,
    Step,
)
from wukong.protocol.crypto import Cipher, ClientHandshake, ServerHandshake, accept_client_key, send_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import (
    RED_DOT,
    SETTING_NO_ENCRYPT,
    Connack,
    Connect,
    Disconnect,
    Event,
    Packet,
    Ping,
    Pong,
    Recv,
    Recvack,
    Send,
    Sendack,
    Sub,
    Suback,
)
from wukong.protocol.proxy import ProxyAddress
from wukong.protocol.recv_frame import SharedRecv

SALT = "abcdefghijklmnop"
SERVER_KEY = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
CLIENT = ClientHandshake(X25519PrivateKey.from_private_bytes(bytes(range(33, 65))))
PLAIN = ConnectionOptions(encryption=False)
SEALED = ConnectionOptions()
NOW_MS = 1_700_000_000_180
CLIENT_MS = 1_700_000_000_123


def connect(version: int = 5, **changes: Any) -> Connect:
    fields: dict[str, Any] = {
        "uid": "alice",
        "token": "t",
        "client_timestamp": CLIENT_MS,
        "client_key": CLIENT.client_key,
    }
    return Connect(version, **(fields | changes))


def handshake() -> ServerHandshake:
    return accept_client_key(CLIENT.client_key, salt=SALT, private=SERVER_KEY)


def client_cipher() -> Cipher:
    cipher = CLIENT.finish(handshake().server_key, SALT)
    assert cipher is not None
    return cipher


def logged_in(version: int = 5, options: ConnectionOptions = PLAIN) -> Connection:
    connection = Connection(options)
    (event,) = connection.receive_data(encode(connect(version), version))
    assert isinstance(event, ConnectReceived)
    connection.accept(node_id=1001, now_ms=NOW_MS, handshake=handshake() if connection.needs_keys else None)
    return connection


def logged_in_json(options: ConnectionOptions = SEALED) -> Connection:
    connection = Connection(options)
    (event,) = connection.receive_data(b'{"method":"connect","params":{"uid":"alice","token":"t"},"id":"1"}')
    assert isinstance(event, ConnectReceived)
    connection.accept(node_id=1001, now_ms=NOW_MS)
    return connection


def read(frame: bytes, version: int = 5) -> Packet:
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    whole = decoder.next_frame()
    assert whole is not None
    assert decoder.buffered_bytes == 0
    return decode(whole.frame_type, whole.flags, whole.body, version)


def sealed_send(cipher: Cipher, payload: bytes, *, setting: int = 0, **changes: Any) -> Send:
    wire = changes.pop("wire", None) or cipher.seal(payload)
    key = cipher.sign(send_sign_text(1, "cmn", "bob", 1, wire)).decode()
    return Send(RED_DOT, setting, 1, "cmn", "bob", 1, 0, changes.pop("msg_key", key), "", wire)


def plain_send(payload: bytes = b"hello", number: int = 1) -> Send:
    return Send(RED_DOT, 0, number, f"cmn-{number}", "bob", 1, payload=payload)


def broken(events: Iterable[ConnectionEvent]) -> ProtocolBroken:
    *_, last = events
    assert isinstance(last, ProtocolBroken)
    return last


# Login ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client_version", "agreed", "server_version", "node_id"),
    [
        (0, 0, None, 0),
        (1, 1, None, 0),
        (2, 2, None, 0),
        (3, 3, None, 0),
        (4, 4, 4, 1001),
        (5, 5, 5, 1001),
        (6, 5, 5, 1001),
        (255, 5, 5, 1001),
    ],
)
def test_the_connack_is_laid_out_for_the_clients_version(
    client_version: int, agreed: int, server_version: int | None, node_id: int
) -> None:
    accepted, refused = Connection(SEALED), Connection(SEALED)
    packet = connect(client_version)
    assert accepted.receive_data(encode(packet, 5)) == [ConnectReceived(packet, agreed)]
    assert refused.receive_data(encode(packet, 5)) == [ConnectReceived(packet, agreed)]
    reply = accepted.accept(node_id=1001, now_ms=NOW_MS, handshake=handshake())
    assert read(reply, agreed) == Connack(1, 57, handshake().server_key, SALT, node_id, server_version)
    reply = refused.refuse(19, node_id=1001, now_ms=NOW_MS)
    assert read(reply, agreed) == Connack(19, 57, "", "", node_id, server_version)
    assert (accepted.state, refused.state) == (State.OPEN, State.CLOSED)
    assert accepted.version == agreed


@pytest.mark.parametrize("row", vectors()["handshakes"], ids=lambda row: f"{row['producer']}-{row['version']}")
def test_a_recorded_login_is_answered_byte_for_byte(row: dict[str, Any]) -> None:
    connection = Connection(SEALED)
    (event,) = connection.receive_data(bytes.fromhex(row["connect_hex"]))
    assert isinstance(event, ConnectReceived)
    recorded = read(bytes.fromhex(row["connack_hex"]), row["version"])
    assert isinstance(recorded, Connack)
    server = X25519PrivateKey.from_private_bytes(bytes.fromhex(row["server_private_hex"]))
    reply = connection.accept(
        node_id=1001,
        now_ms=event.packet.client_timestamp + recorded.time_diff,
        handshake=accept_client_key(event.packet.client_key, salt=row["aes_iv_ascii"], private=server),
    )
    if row["version"] >= 4:
        assert reply.hex() == row["connack_hex"]
    else:
        # Some rows have a server version byte at version 3 or less, which only clients of 4 and up get from us.
        assert read(reply, row["version"]) == Connack(
            1, recorded.time_diff, recorded.server_key, recorded.salt, 0, None
        )


def test_without_encryption_there_are_no_keys() -> None:
    connection = Connection(PLAIN)
    connection.receive_data(encode(connect(), 5))
    assert not connection.needs_keys
    reply = connection.accept(node_id=1, now_ms=NOW_MS)
    assert read(reply) == Connack(1, 57, "", "", 1, 5)
    assert connection.cipher is None


def test_an_encrypting_connection_is_not_accepted_without_a_handshake() -> None:
    connection = Connection(SEALED)
    connection.receive_data(encode(connect(), 5))
    assert connection.needs_keys
    with pytest.raises(ValueError, match="handshake"):
        connection.accept(node_id=1, now_ms=NOW_MS)
    assert connection.state is State.DECIDING


@pytest.mark.parametrize("client_timestamp", [-(1 << 63), (1 << 63) - 1, 0, 1_700_000_000])
def test_any_client_clock_gives_a_time_difference_that_fits(client_timestamp: int) -> None:
    connection = Connection(PLAIN)
    connection.receive_data(encode(connect(client_timestamp=client_timestamp), 5))
    packet = read(connection.accept(node_id=1, now_ms=NOW_MS))
    assert isinstance(packet, Connack)
    assert packet.time_diff == min(NOW_MS - client_timestamp, (1 << 63) - 1)


def test_a_connect_may_come_byte_by_byte() -> None:
    connection = Connection(PLAIN)
    frame = encode(connect(), 5)
    events = [event for at in range(len(frame)) for event in connection.receive_data(frame[at : at + 1])]
    assert events == [ConnectReceived(connect(), 5)]


FIRST_PACKETS: list[Packet] = [
    Connack(1),
    plain_send(),
    Sendack(0, 1, 1, 1, 1),
    Recv(0, 0, "", "a", "b", 1, "", 1, 1, 1),
    Recvack(0, 1, 1),
    Ping(),
    Pong(),
    Disconnect(1),
    Sub(0, "s", "g", 2, 0),
    Suback("s", "g", 2, 0, 1),
    Event("e", "t", 1),
]


@pytest.mark.parametrize("packet", FIRST_PACKETS, ids=lambda packet: type(packet).__name__)
def test_the_first_packet_has_to_be_connect_and_its_start_tells(packet: Packet) -> None:
    connection = Connection(PLAIN)
    # A CONNACK without flags begins like a blank, so it takes a second byte.
    events = connection.receive_data(encode(packet, 5)[:2])
    assert "not CONNECT" in str(broken(events).error)
    assert connection.state is State.CLOSED
    assert connection.receive_data(encode(connect(), 5)) == []


@pytest.mark.parametrize("first", [b"\x00", b"\xd0", b"\xff", b"{", b"[", b"P", b"\r"])
def test_other_first_bytes_close_too_when_they_cannot_be_json(first: bytes) -> None:
    connection = Connection(ConnectionOptions(jsonrpc=False))
    broken(connection.receive_data(first))


@pytest.mark.parametrize("uid", ["", " ", "\t\u3000", "a@b", "#", "a&"])
def test_a_uid_that_cannot_be_used_closes_without_an_answer(uid: str) -> None:
    connection = Connection(PLAIN)
    assert "uid" in str(broken(connection.receive_data(encode(connect(uid=uid), 5))).error)
    text = json.dumps({"method": "connect", "params": {"uid": uid}, "id": "1"}).encode()
    broken(Connection(PLAIN).receive_data(text))


def test_packets_behind_connect_wait_until_the_login_is_answered() -> None:
    connection = Connection(PLAIN)
    later = encode(plain_send(), 5) + encode(Recvack(0, 1, 1), 5)
    events = connection.receive_data(encode(connect(), 5) + later[:7])
    assert events == [ConnectReceived(connect(), 5)]
    assert connection.receive_data(later[7:]) == []
    assert connection.resume() == []
    connection.accept(node_id=1, now_ms=NOW_MS)
    assert connection.has_more
    assert connection.resume() == [SendReceived(plain_send(), b"hello"), Recvack(0, 1, 1)]
    assert not connection.has_more


def test_packets_behind_connect_come_before_those_received_later() -> None:
    connection = Connection(PLAIN)
    connection.receive_data(encode(connect(), 5) + encode(plain_send(b"1"), 5))
    connection.accept(node_id=1, now_ms=NOW_MS)
    events = connection.receive_data(encode(plain_send(b"2"), 5))
    assert [event.payload for event in events if isinstance(event, SendReceived)] == [b"1", b"2"]


def test_packets_behind_connect_are_sealed_with_the_keys_of_the_answer() -> None:
    """No client does it, as it cannot know the keys; but the order has to be right."""
    connection = Connection(SEALED)
    send = sealed_send(client_cipher(), b"hello")
    connection.receive_data(encode(connect(), 5) + encode(send, 5))
    connection.accept(node_id=1, now_ms=NOW_MS, handshake=handshake())
    assert connection.resume() == [SendReceived(send, b"hello")]


def test_what_waits_behind_connect_is_limited_and_dropped_when_refused() -> None:
    connection = Connection(ConnectionOptions(encryption=False, login_limit_bytes=1000))
    connection.receive_data(encode(connect(), 5))
    assert connection.receive_data(encode(plain_send(bytes(900)), 5)) == []
    assert isinstance(broken(connection.receive_data(bytes(100))).error, FrameTooLarge)
    with pytest.raises(RuntimeError):
        connection.accept(node_id=1, now_ms=NOW_MS)

    connection = Connection(PLAIN)
    connection.receive_data(encode(connect(), 5) + encode(plain_send(), 5))
    connection.refuse(2, node_id=1, now_ms=NOW_MS)
    assert connection.resume() == []
    assert connection.receive_data(b"\x70") == []


def test_before_login_frames_are_limited_more_tightly_than_after() -> None:
    options = ConnectionOptions(encryption=False, login_limit_bytes=100)
    connection = Connection(options)
    assert isinstance(broken(connection.receive_data(b"\x10\x80\x01")).error, FrameTooLarge)
    connection = Connection(options)
    connection.receive_data(encode(connect(client_key=""), 5))
    connection.accept(node_id=1, now_ms=NOW_MS)
    assert connection.receive_data(encode(plain_send(bytes(5000)), 5)) == [
        SendReceived(plain_send(bytes(5000)), bytes(5000))
    ]


def test_answering_a_login_twice_or_without_one_is_a_mistake_of_the_shell() -> None:
    connection = Connection(PLAIN)
    for other in (connection, logged_in()):
        with pytest.raises(RuntimeError):
            other.accept(node_id=1, now_ms=NOW_MS)
        with pytest.raises(RuntimeError):
            other.refuse(2, node_id=1, now_ms=NOW_MS)
    with pytest.raises(RuntimeError):
        connection.disconnect(12)


# PROXY header and kinds ----------------------------------------------------------------------------------------------

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5100\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a2111000cc0000201c6336402dc0413ec")
V2_LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a20000000")
JSON_CONNECT = b' {"method":"connect","params":{"uid":"alice"},"id":"1"}'
SOURCE = ProxyAddress("192.0.2.1", 56324)


@pytest.mark.parametrize("split", ["whole", "bytes"])
@pytest.mark.parametrize(("header", "source"), [(V1, SOURCE), (V2, SOURCE), (V2_LOCAL, None), (b"", None)])
@pytest.mark.parametrize(("first", "is_json"), [(encode(connect(), 5), False), (JSON_CONNECT, True)])
def test_a_proxy_header_may_precede_either_kind(
    header: bytes, source: ProxyAddress | None, first: bytes, is_json: bool, split: str
) -> None:
    connection = Connection(PLAIN, proxy_allowed=True)
    stream = header + first
    reads = [stream] if split == "whole" else [stream[at : at + 1] for at in range(len(stream))]
    (event,) = [event for data in reads for event in connection.receive_data(data)]
    assert isinstance(event, ConnectReceived)
    assert connection.proxy_source == source
    assert connection.is_json is is_json


@pytest.mark.parametrize("header", [V1, V2, V2_LOCAL])
def test_a_proxy_header_of_anybody_else_closes(header: bytes) -> None:
    connection = Connection(PLAIN)
    broken(connection.receive_data(header + encode(connect(), 5)))
    assert connection.proxy_source is None


@pytest.mark.parametrize("header", [V1 + V1, b"PROXY nonsense\r\n", V2[:13] + b"\x99", b"PROXX"])
def test_a_broken_or_second_proxy_header_closes(header: bytes) -> None:
    broken(Connection(PLAIN, proxy_allowed=True).receive_data(header + encode(connect(), 5)))


@pytest.mark.parametrize("between", [b"", b"\r"])
def test_a_second_proxy_header_in_a_later_read_closes(between: bytes) -> None:
    connection = Connection(PLAIN, proxy_allowed=True)
    assert connection.receive_data(V1) == []
    assert connection.receive_data(between) == []
    broken(connection.receive_data(V2.removeprefix(between)))
    assert connection.proxy_source == SOURCE


def test_blank_lines_before_json_are_no_proxy_header() -> None:
    connection = Connection(PLAIN, proxy_allowed=True)
    assert connection.receive_data(b"\r\n\r") == []
    (event,) = connection.receive_data(b"\n" + JSON_CONNECT)
    assert isinstance(event, ConnectReceived)


def test_blanks_before_the_first_value_are_not_kept() -> None:
    connection = Connection(PLAIN)
    for _ in range(10):
        assert connection.receive_data(b" \r\n\t" * 100) == []
    assert connection._input == b" "
    # Blanks come before JSON only; CONNECT has to be the very first byte.
    assert "not CONNECT" in str(broken(connection.receive_data(encode(connect(), 5))).error)


def test_with_json_rpc_switched_off_json_closes() -> None:
    connection = Connection(ConnectionOptions(encryption=False, jsonrpc=False))
    broken(connection.receive_data(JSON_CONNECT.strip()))
    broken(Connection(ConnectionOptions(jsonrpc=False)).receive_data(JSON_CONNECT))


# Open, WKProto -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5])
def test_a_sealed_send_is_verified_and_unsealed(version: int) -> None:
    connection = logged_in(version, SEALED)
    send = sealed_send(client_cipher(), b"hello")
    assert connection.receive_data(encode(send, version)) == [SendReceived(send, b"hello")]


CIPHER = client_cipher()


@pytest.mark.parametrize(
    ("what", "send"),
    [
        ("no key", sealed_send(CIPHER, b"x", msg_key="")),
        ("wrong key", sealed_send(CIPHER, b"x", msg_key="0" * 32)),
        ("key in capitals", sealed_send(CIPHER, b"x", msg_key="A" * 32)),
        ("key that is not ASCII", sealed_send(CIPHER, b"x", msg_key="\u4f60" * 32)),
        ("payload that is not base64", sealed_send(CIPHER, b"", wire=b"hello world!")),
        ("payload of half a block", sealed_send(CIPHER, b"", wire=b"AAAAAAAAAAA=")),
        ("payload without padding", sealed_send(CIPHER, b"", wire=b"AAAAAAAAAAAAAAAAAAAAAA==")),
        ("plaintext with the bit for it, which is not allowed", Send(0, 0x10, 1, "cmn", "bob", 1, payload=b"x")),
        ("payload too large", sealed_send(CIPHER, bytes(32768))),
        ("payload far too large", sealed_send(CIPHER, bytes(100_000))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_send_that_cannot_be_opened_is_refused_with_9_and_the_next_one_works(what: str, send: Send) -> None:
    connection = logged_in(options=SEALED)
    good = sealed_send(client_cipher(), b"good")
    events = connection.receive_data(encode(send, 5) + encode(good, 5))
    assert events == [SendRefused(send, 9), SendReceived(good, b"good")]
    refused = events[0]
    assert isinstance(refused, SendRefused)
    ack = read(connection.sendack(refused, message_id=5, message_seq=0, reason=refused.reason))
    assert ack == Sendack(send.flags, 5, 1, 0, 9)


@pytest.mark.parametrize("options", [PLAIN, SEALED])
def test_the_largest_payload_is_taken_and_one_byte_more_is_not(options: ConnectionOptions) -> None:
    connection = logged_in(options=options)
    for payload, kind in ((bytes(32767), SendReceived), (bytes(32768), SendRefused)):
        send = sealed_send(client_cipher(), payload) if options is SEALED else plain_send(payload)
        (event,) = connection.receive_data(encode(send, 5))
        assert type(event) is kind


def test_plaintext_is_taken_where_it_is_allowed_and_marked() -> None:
    connection = logged_in(options=ConnectionOptions(plaintext_allowed=True))
    marked = Send(0, SETTING_NO_ENCRYPT, 1, "cmn", "bob", 1, payload=b"plain")
    unmarked = Send(0, 0, 1, "cmn", "bob", 1, payload=b"plain")
    sealed = sealed_send(client_cipher(), b"sealed")
    sealed_and_marked = sealed_send(client_cipher(), b"sealed", setting=SETTING_NO_ENCRYPT)
    stream = b"".join(encode(send, 5) for send in (marked, unmarked, sealed, sealed_and_marked))
    assert connection.receive_data(stream) == [
        SendReceived(marked, b"plain"),
        SendRefused(unmarked, 9),
        SendReceived(sealed, b"sealed"),
        SendReceived(sealed_and_marked, b"sealed"),
    ]


def test_without_encryption_a_payload_is_taken_as_it_is_and_keys_mean_nothing() -> None:
    connection = logged_in()
    send = Send(0, 0, 1, "cmn", "bob", 1, 0, "whatever", "", b"AAAA")
    assert connection.receive_data(encode(send, 5)) == [SendReceived(send, b"AAAA")]


@pytest.mark.parametrize("flags", range(16))
def test_a_ping_is_answered_with_a_pong_whatever_its_flags(flags: int) -> None:
    assert logged_in().receive_data(bytes((0x70 | flags,))) == [PingReceived(b"\x80")]


IGNORED: list[Packet] = [
    connect(),
    Connack(1, 0, "", "", 1, 5),
    Sendack(0, 1, 1, 1, 1),
    Recv(0, 0, "", "a", "b", 1, "", 1, 1, 1),
    Pong(),
    Disconnect(0, "bye"),
    Sub(0, "s", "g", 2, 0),
    Suback("s", "g", 2, 0, 1),
    Event("e", "t", 1, b"{}"),
]


@pytest.mark.parametrize("packet", IGNORED, ids=lambda packet: type(packet).__name__)
def test_packets_without_a_meaning_from_a_client_are_ignored(packet: Packet) -> None:
    connection = logged_in()
    assert connection.receive_data(encode(packet, 5) + b"\x70") == [PingReceived(b"\x80")]


@pytest.mark.parametrize("row", vectors()["bad_frames"], ids=lambda row: row["what"])
def test_bad_frames_close_and_what_came_before_them_is_not_lost(row: dict[str, Any]) -> None:
    frame = bytes.fromhex(row["hex"]) if "hex" in row else b"\x30\x81\x80\x40" + bytes((1 << 20) + 1)
    connection = logged_in()
    events = connection.receive_data(encode(plain_send(), 5) + frame)
    assert events[0] == SendReceived(plain_send(), b"hello")
    harmless = ("RECVACK with trailing", "non-minimal", "PING", "first byte only")
    assert isinstance(events[-1], ProtocolBroken) == (not row["what"].startswith(harmless))
    if isinstance(events[-1], ProtocolBroken):
        assert connection.state is State.CLOSED
        assert connection.receive_data(b"\x70") == []
        assert connection.resume() == []


def test_one_call_reads_a_limited_number_of_packets_and_resume_reads_on() -> None:
    connection = logged_in(options=ConnectionOptions(encryption=False, events_limit_count=10))
    stream = b"".join(encode(plain_send(number=number), 5) for number in range(25))
    events = connection.receive_data(stream)
    assert len(events) == 10
    assert connection.has_more
    events += connection.resume()
    assert len(events) == 20
    events += connection.resume()
    assert not connection.has_more
    assert connection.resume() == []
    assert [event.packet.client_seq for event in events if isinstance(event, SendReceived)] == list(range(25))


def test_ignored_packets_count_against_the_limit_too() -> None:
    connection = logged_in(options=ConnectionOptions(encryption=False, events_limit_count=10))
    assert connection.receive_data(encode(Sub(0, "s", "g", 2, 0), 5) * 10 + b"\x70") == []
    assert connection.has_more
    assert connection.resume() == [PingReceived(b"\x80")]


@given(st.lists(packets(5), max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_the_events_do_not_depend_on_how_the_stream_is_cut(sent: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(encode(packet, 5) for packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    whole = logged_in().receive_data(stream)
    connection = logged_in()
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    assert [event for piece in pieces for event in connection.receive_data(piece)] == whole


@given(st.binary(max_size=100), st.booleans(), st.booleans())
@settings(max_examples=500, deadline=None)
def test_no_bytes_make_the_machine_fail(noise: bytes, proxy_allowed: bool, after_login: bool) -> None:
    for connection in (
        [logged_in(), logged_in_json()] if after_login else [Connection(SEALED, proxy_allowed=proxy_allowed)]
    ):
        connection.receive_data(noise)
        for at in range(len(noise)):
            connection.receive_data(noise[at : at + 1])


# Bytes out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_answers_are_laid_out_for_the_agreed_version(version: int) -> None:
    connection = logged_in(version)
    (event,) = connection.receive_data(encode(plain_send(number=7), version))
    assert isinstance(event, SendReceived)
    ack = connection.sendack(event, message_id=-5, message_seq=9, reason=1)
    assert read(ack, version) == Sendack(RED_DOT, -5, 7, 9, 1)
    shared = SharedRecv(
        message_id=1, message_seq=2, client_msg_no="c", timestamp=3, payload=b"p", setting=0x82, expire=60
    )
    recv = read(connection.recv(shared.view("bob", "bob", 1, RED_DOT)), version)
    assert isinstance(recv, Recv)
    assert (recv.expire, recv.setting) == (60 if version >= 3 else 0, 0x82 if version >= 5 else 0x80)
    assert read(connection.disconnect(12, "kick"), version) == Disconnect(12, "kick")


def test_a_recv_is_sealed_for_the_client() -> None:
    connection = logged_in(options=SEALED)
    shared = SharedRecv(message_id=1 << 60, message_seq=2, client_msg_no="c", timestamp=3, payload=b"hello")
    recv = read(connection.recv(shared.view("bob", "bob", 1, 0)))
    assert isinstance(recv, Recv)
    assert client_cipher().unseal(recv.payload) == b"hello"


def test_events_go_to_version_5_and_json_clients_only() -> None:
    event = SharedEvent(Event("e", "stream.delta", 1, b"{}"))
    for version in (0, 1, 2, 3, 4):
        assert logged_in(version).event(event) is None
    assert logged_in(5).event(event) == event.frame()
    assert logged_in_json().event(event) == event.json_text()


def test_after_a_disconnect_input_is_dropped() -> None:
    for connection in (logged_in(), logged_in_json()):
        connection.disconnect(12)
        assert connection.state is State.CLOSED
        assert connection.receive_data(b"\x70") == []
        connection.disconnect(12, "once more does no harm")


# Open, JSON-RPC ------------------------------------------------------------------------------------------------------


def test_a_json_login_is_a_result_with_header_and_time_difference_and_never_encrypts() -> None:
    connection = Connection(SEALED)
    text = {"method": "connect", "params": {"uid": "alice", "clientTimestamp": NOW_MS, "version": 9}, "id": "x"}
    (event,) = connection.receive_data(json.dumps(text).encode())
    assert isinstance(event, ConnectReceived)
    assert event.version == 5
    assert not connection.needs_keys
    assert json.loads(connection.accept(node_id=7, now_ms=NOW_MS)) == {
        "jsonrpc": "2.0",
        "id": "x",
        "result": {"header": {}, "serverVersion": 5, "timeDiff": 0, "reasonCode": 1, "nodeId": 7},
    }
    assert connection.cipher is None


def test_a_refused_json_login_is_an_error_with_the_reason() -> None:
    connection = Connection(SEALED)
    connection.receive_data(JSON_CONNECT)
    assert json.loads(connection.refuse(19, node_id=7, now_ms=NOW_MS)) == {
        "jsonrpc": "2.0",
        "id": "1",
        "error": {"code": 19, "message": "ReasonBan"},
    }


def test_a_json_send_is_answered_by_its_id() -> None:
    connection = logged_in_json()
    text = b'{"method":"send","params":{"channelId":"bob","channelType":1,"payload":"aGk="},"id":"s-1"}'
    (event,) = connection.receive_data(text)
    assert isinstance(event, SendReceived)
    assert (event.payload, event.request_id) == (b"hi", "s-1")
    assert json.loads(connection.sendack(event, message_id=1 << 62, message_seq=3, reason=1)) == {
        "jsonrpc": "2.0",
        "id": "s-1",
        "result": {"header": {}, "messageId": str(1 << 62), "messageSeq": 3, "reasonCode": 1},
    }


def test_a_json_payload_that_is_too_large_is_refused_with_9_in_a_result() -> None:
    connection = logged_in_json()
    text = json.dumps({"method": "send", "params": {"channelId": "b", "payload": "AAAA" * 10923}, "id": "s"})
    (event,) = connection.receive_data(text.encode())
    assert isinstance(event, SendRefused)
    answer = json.loads(connection.sendack(event, message_id=5, message_seq=0, reason=event.reason))
    assert (answer["id"], answer["result"]["reasonCode"]) == ("s", 9)


def test_a_json_ping_gets_a_pong_with_a_result_and_a_recvack_is_its_own_event() -> None:
    connection = logged_in_json()
    ping = b'{"method":"ping","id":"p"}'
    recvack = b'{"method":"recvack","params":{"header":{"redDot":true},"messageId":"42","messageSeq":3}}'
    events = connection.receive_data(ping + recvack)
    assert events == [PingReceived(b'{"jsonrpc":"2.0","id":"p","result":{}}'), Recvack(RED_DOT, 42, 3)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b'{"method":"nope","params":{},"id":"8"}', ("8", "unknown method: nope")),
        (b'{"method":"connect","params":{"uid":"u"},"id":"9"}', ("9", "already connected")),
        (b'{"method":"send","params":{"payload":"hello world"},"id":"2"}', ("2", "send params: payload is not base64")),
        (b'{"method":"ping","id":4}', (None, "message: id is not a string")),
        (b'[{"method":"ping","id":"1"}]', (None, "message: not an object")),
        (b'{"method":"ping"}', (None, "unknown notification method 'ping'")),
    ],
)
def test_a_wrong_json_message_is_answered_and_the_connection_goes_on(
    text: bytes, answer: tuple[str | None, str]
) -> None:
    connection = logged_in_json()
    first, second = connection.receive_data(text + b'{"method":"ping","id":"p"}')
    assert isinstance(first, ReplyReady)
    reply = json.loads(first.reply)
    assert (reply.get("id"), reply["error"]) == (answer[0], {"code": 0, "message": answer[1]})
    assert isinstance(second, PingReceived)


def test_a_json_disconnect_is_ignored() -> None:
    assert logged_in_json().receive_data(b'{"method":"disconnect","params":{"reasonCode":0},"id":"7"}') == []


def test_wrong_json_messages_before_login_are_answered_too_but_others_than_connect_close() -> None:
    connection = Connection(SEALED)
    (first,) = connection.receive_data(b'{"method":"connect","params":{"uid":"u"},"id":1}')
    assert isinstance(first, ReplyReady)
    first, second = connection.receive_data(b'{"method":"connect","id":"2"}' + JSON_CONNECT)
    assert isinstance(first, ReplyReady)
    assert isinstance(second, ConnectReceived)

    for text in (b'{"method":"ping","id":"1"}', b'{"method":"recvack","params":{"messageId":"1"}}'):
        assert "not CONNECT" in str(broken(Connection(SEALED).receive_data(text)).error)


def test_wrong_json_messages_before_login_are_answered_in_limited_numbers_per_call() -> None:
    connection = Connection(ConnectionOptions(events_limit_count=3))
    assert len(connection.receive_data(b"{}" * 5 + JSON_CONNECT)) == 3
    assert connection.has_more
    *replies, last = connection.resume()
    assert len(replies) == 2
    assert isinstance(last, ConnectReceived)
    assert not connection.has_more


@pytest.mark.parametrize("login", [logged_in_json, lambda: Connection(SEALED)])
@pytest.mark.parametrize("text", [b"{not json}", b'{"a":yes}', b'{"a":1}}', b'{"a":1} x', b"{not jso", b"{]}"])
def test_text_that_is_not_json_closes(login: Callable[[], Connection], text: bytes) -> None:
    connection = login()
    broken(connection.receive_data(text))
    assert connection.state is State.CLOSED


def test_json_messages_over_the_limit_close() -> None:
    connection = logged_in_json(ConnectionOptions(frame_limit_bytes=1000))
    assert isinstance(broken(connection.receive_data(b'{"method":"' + b"x" * 1000)).error, FrameTooLarge)


def test_json_messages_behind_connect_wait_and_binary_ones_never_come() -> None:
    connection = Connection(SEALED)
    events = connection.receive_data(JSON_CONNECT + b'{"method":"ping",')
    assert len(events) == 1
    assert connection.receive_data(b'"id":"p"}') == []
    connection.accept(node_id=1, now_ms=NOW_MS)
    assert connection.resume() == [PingReceived(b'{"jsonrpc":"2.0","id":"p","result":{}}')]
    broken(connection.receive_data(b"\x70"))


def test_a_json_client_gets_payloads_in_the_form_of_its_own_last_send() -> None:
    connection = logged_in_json()
    view = SharedRecv(message_id=1, message_seq=1, client_msg_no="", timestamp=1, payload=b'{"a":1}').view(
        "b", "b", 1, 0
    )
    send = '{"method":"send","params":{"channelId":"b","channelType":1,"payload":%s},"id":"s"}'

    def payload() -> Any:
        return json.loads(connection.recv(view))["params"]["payload"]

    assert payload() == "eyJhIjoxfQ=="
    connection.receive_data((send % '{"x":2}').encode())
    assert payload() == {"a": 1}
    connection.receive_data((send % '"e30="').encode())
    assert payload() == "eyJhIjoxfQ=="


@pytest.mark.parametrize(
    "row",
    [row for row in vectors()["jsonrpc"] if row["producer"] == "easyjs-2.0.1" and row["direction"] == "c2s"],
    ids=lambda row: row["what"],
)
def test_a_real_json_client_gets_along(row: dict[str, Any]) -> None:
    text = row["text"].encode()
    connection = Connection(SEALED) if row["what"] == "connect request" else logged_in_json()
    events = [event for at in range(len(text)) for event in connection.receive_data(text[at : at + 1])]
    assert len(events) == 1
    assert not isinstance(events[0], ReplyReady | ProtocolBroken)


# The table -----------------------------------------------------------------------------------------------------------


def test_every_state_has_its_row_and_every_step_its_use() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {step for row in TRANSITIONS.values() for step in row} == set(Step)
    # A closed connection never comes back.
    assert set(TRANSITIONS[State.CLOSED].values()) == {State.CLOSED}
    # From everywhere else the client can break the protocol.
    assert all(row[Step.BROKEN] is State.CLOSED for state, row in TRANSITIONS.items() if state is not State.CLOSED)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_a_step_that_is_not_in_the_table_is_not_made(state: State, step: Step) -> None:
    connection = Connection(PLAIN)
    connection._state = state
    if step in TRANSITIONS[state]:
        connection._move(step)
        assert connection.state is TRANSITIONS[state][step]
    else:
        with pytest.raises(RuntimeError, match=step.name):
            connection._move(step)
        assert connection.state is state


def test_an_idle_connection_is_small() -> None:
    connection = logged_in(options=SEALED)
    source = connection._input
    assert isinstance(source, FrameDecoder)
    assert sys.getsizeof(connection) + sys.getsizeof(source) + sys.getsizeof(connection.cipher) < 400
    assert (connection._connect, connection._request_id) == (None, "")
