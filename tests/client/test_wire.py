import msgspec
import pytest

from wukong.client.wire import ClientWire, Received, Unreadable
from wukong.errors import ProtocolError
from wukong.protocol.codec import decode, encode
from wukong.protocol.connection import Connection, ConnectionOptions, ConnectReceived, SendReceived
from wukong.protocol.crypto import ClientHandshake, accept_client_key
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import Connack, Pong, Recv, Recvack, Send, Sendack
from wukong.protocol.recv_frame import SharedRecv

SALT = "abcdefghijklmnop"


def connected(*, encryption: bool = True, client_version: int = 5) -> tuple[ClientWire, Connection]:
    """A client and a server that have shaken hands."""
    client = ClientWire(handshake=ClientHandshake(), version=client_version)
    server = Connection(ConnectionOptions(encryption=encryption))
    frame = client.connect_frame(uid="alice", token="t", device_id="d", device_flag=1, now_ms=1_000)
    (event,) = server.receive_data(frame)
    assert isinstance(event, ConnectReceived)
    handshake = accept_client_key(event.packet.client_key, salt=SALT) if encryption else None
    (connack,) = client.receive_data(server.accept(node_id=7, now_ms=1_500, handshake=handshake))
    assert isinstance(connack, Connack)
    assert (connack.reason_code, connack.time_diff) == (1, 500)
    return client, server


def sent_frame(client: ClientWire, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "client_seq": 1,
        "client_msg_no": "n1",
        "channel_id": "bob",
        "channel_type": 1,
        "payload": b"hello",
        "flags": 2,
        "setting": 0,
        "expire": 60,
        "topic": "",
    }
    return client.send_frame(**(fields | changes))  # type: ignore[arg-type]


def message(payload: bytes = b"hello") -> SharedRecv:
    return SharedRecv(message_id=9, message_seq=3, client_msg_no="n1", timestamp=5, payload=payload)


@pytest.mark.parametrize("encryption", [True, False])
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_what_is_sent_arrives_at_a_server_of_every_version(version: int, encryption: bool) -> None:
    client, server = connected(encryption=encryption, client_version=version)
    (event,) = server.receive_data(sent_frame(client, topic="tea"))
    assert isinstance(event, SendReceived)
    assert (event.payload, event.packet.topic, event.packet.client_msg_no) == (b"hello", "tea", "n1")
    assert event.packet.expire == (60 if version >= 3 else 0)


@pytest.mark.parametrize("encryption", [True, False])
@pytest.mark.parametrize("version", [1, 3, 5])
def test_what_a_server_pushes_is_verified_and_unsealed(version: int, encryption: bool) -> None:
    client, server = connected(encryption=encryption, client_version=version)
    (event,) = client.receive_data(server.recv(message().view("bob", "bob", 1, 2)))
    assert isinstance(event, Received)
    assert (event.payload, event.packet.from_uid, event.packet.message_seq) == (b"hello", "bob", 3)


def test_frames_may_arrive_byte_by_byte() -> None:
    client, server = connected()
    frame = server.recv(message().view("bob", "bob", 1, 2))
    events = [event for byte in frame for event in client.receive_data(bytes((byte,)))]
    assert [type(event) for event in events] == [Received]


@pytest.mark.parametrize("field", ["from_uid", "message_id", "payload", "msg_key"])
def test_a_message_that_was_tampered_with_is_unreadable_and_the_next_is_not(field: str) -> None:
    client, server = connected()
    good = server.recv(message().view("bob", "bob", 1, 2))
    decoder = FrameDecoder()
    decoder.receive_data(good)
    frame = decoder.next_frame()
    assert frame is not None
    packet = decode(frame.frame_type, frame.flags, frame.body, 5)
    assert isinstance(packet, Recv)
    other: object = {"from_uid": "eve", "message_id": 10, "payload": packet.payload[::-1], "msg_key": "0" * 32}[field]
    bad = encode(msgspec.structs.replace(packet, **{field: other}), 5)
    events = client.receive_data(bad + good)
    assert [type(event) for event in events] == [Unreadable, Received]


def test_a_refused_login_is_handed_out_with_its_reason() -> None:
    client = ClientWire(handshake=ClientHandshake())
    server = Connection(ConnectionOptions())
    server.receive_data(client.connect_frame(uid="a", token="", device_id="d", device_flag=0, now_ms=0))
    (event,) = client.receive_data(server.refuse(2, node_id=1, now_ms=0))
    assert isinstance(event, Connack)
    assert (event.reason_code, client.logged_in) == (2, False)


def test_a_server_of_an_older_version_is_spoken_to_in_its_own() -> None:
    client = ClientWire(handshake=None)
    client.receive_data(encode(Connack(1, server_version=4), 4))
    assert client.version == 4


def test_a_connack_without_version_means_a_server_before_version_4() -> None:
    client = ClientWire(handshake=None)
    client.receive_data(encode(Connack(1), 3))
    assert (client.version, client.logged_in) == (3, True)


def test_a_second_connack_breaks_the_protocol() -> None:
    client, _ = connected()
    with pytest.raises(ProtocolError, match="second CONNACK"):
        client.receive_data(encode(Connack(1, server_version=5), 5))


def test_packets_that_make_no_sense_from_a_server_are_ignored() -> None:
    client, _ = connected()
    stray = encode(Send(0, 0, 1, "n", "c", 1), 5) + encode(Recvack(0, 1, 1), 5)
    events = client.receive_data(stray + encode(Sendack(0, 1, 1, 1, 1), 5) + encode(Pong(), 5))
    assert [type(event) for event in events] == [Sendack, Pong]


def test_a_setting_without_a_topic_has_no_topic_bit() -> None:
    client, server = connected()
    (event,) = server.receive_data(sent_frame(client, setting=0x88))
    assert isinstance(event, SendReceived)
    assert event.packet.setting == 0x80
