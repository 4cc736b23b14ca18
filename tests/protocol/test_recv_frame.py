import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.protocol import cases
from tests.protocol.cases import VERSIONS, packet_of, rows
from wukong.protocol.codec import EncodeError, decode, encode
from wukong.protocol.crypto import Cipher, recv_sign_text
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import (
    NO_PERSIST,
    RED_DOT,
    SETTING_NO_ENCRYPT,
    SETTING_RECEIPT,
    SETTING_TOPIC,
    Recv,
)
from wukong.protocol.recv_frame import VIEW_LIMIT_COUNT, SharedRecv

KEY = b"eac8976b0c2798dc"
IV = b"abcdefghijklmnop"


def message(**changes: Any) -> SharedRecv:
    fields: dict[str, Any] = {
        "message_id": 1234567890123456789,
        "message_seq": 77,
        "client_msg_no": "cmn-1",
        "timestamp": 1700000001,
        "payload": b'{"type":1,"content":"hello"}',
    }
    return SharedRecv(**(fields | changes))


def read(frame: bytes, version: int) -> Recv:
    decoder = FrameDecoder()
    decoder.receive_data(frame)
    whole = decoder.next_frame()
    assert whole is not None
    assert decoder.buffered_bytes == 0
    packet = decode(whole.frame_type, whole.flags, whole.body, version)
    assert isinstance(packet, Recv)
    return packet


def opened(frame: bytes, version: int, cipher: Cipher) -> Recv:
    """The RECV as a client of that version reads it: key verified, payload unsealed, key taken out."""
    packet = read(frame, version)
    text = recv_sign_text(
        packet.message_id,
        packet.message_seq,
        packet.client_msg_no,
        packet.timestamp,
        packet.from_uid,
        packet.channel_id,
        packet.channel_type,
        packet.payload,
    )
    assert cipher.sign(text).decode() == packet.msg_key
    return replace(packet, payload=cipher.unseal(packet.payload), msg_key="")


@pytest.mark.parametrize(
    "row",
    [row for row in rows() if row["packet"] == "RECV" and "plaintext" in row["fields"]],
    ids=lambda row: row["id"],
)
def test_a_sealed_recv_of_the_vectors_comes_out_byte_for_byte(row: dict[str, Any]) -> None:
    packet = packet_of(row)
    assert isinstance(packet, Recv)
    shared = message(
        message_id=packet.message_id,
        message_seq=packet.message_seq,
        client_msg_no=packet.client_msg_no,
        timestamp=packet.timestamp,
        payload=row["fields"]["plaintext"].encode(),
        setting=packet.setting,
        topic=packet.topic,
        expire=packet.expire,
    )
    view = shared.view(packet.from_uid, packet.channel_id, packet.channel_type, packet.flags)
    cipher = Cipher(row["aes_key_ascii"].encode(), row["aes_iv_ascii"].encode())
    for _ in range(2):
        assert view.frame(row["version"], cipher).hex() == row["hex"]


@given(
    st.builds(
        SharedRecv,
        message_id=cases.i64,
        message_seq=cases.u32,
        client_msg_no=cases.text,
        timestamp=cases.i32,
        payload=cases.data,
        setting=cases.u8,
        topic=cases.text,
        expire=cases.u32,
    ),
    cases.text,
    cases.text,
    cases.u8,
    cases.flags,
    st.sampled_from(VERSIONS),
)
@settings(max_examples=400, deadline=None)
def test_every_client_reads_the_message_it_was_sent_in_the_layout_of_its_version(
    shared: SharedRecv, from_uid: str, channel_id: str, channel_type: int, flags: int, version: int
) -> None:
    view = shared.view(from_uid, channel_id, channel_type, flags)
    setting = shared.setting if version >= 5 else shared.setting & ~0x06
    expected = Recv(
        flags=flags,
        setting=setting,
        msg_key="",
        from_uid=from_uid,
        channel_id=channel_id,
        channel_type=channel_type,
        client_msg_no=shared.client_msg_no,
        message_id=shared.message_id,
        message_seq=shared.message_seq,
        timestamp=shared.timestamp,
        expire=shared.expire if version >= 3 else 0,
        topic=shared.topic if setting & SETTING_TOPIC else "",
        payload=shared.payload,
    )
    assert read(view.frame(version, None), version) == expected
    sealed = replace(expected, setting=setting & ~SETTING_NO_ENCRYPT)
    first, second = Cipher(KEY, IV), Cipher(IV, KEY)
    for cipher in (first, second, first):
        assert opened(view.frame(version, cipher), version, Cipher(cipher._key, cipher._iv)) == sealed


def test_a_short_sign_text_is_signed_right_too() -> None:
    view = message(message_id=1, message_seq=1, client_msg_no="", timestamp=1).view("a", "b", 1, 0)
    cipher = Cipher(KEY, IV)
    assert opened(view.frame(5, cipher), 5, Cipher(KEY, IV)).from_uid == "a"
    assert cipher.unseal(cipher.seal(b"after it")) == b"after it"


@pytest.mark.parametrize("bit", [0x02, 0x04, 0x06])
@pytest.mark.parametrize("version", [0, 1, 2, 3, 4])
def test_stream_bits_never_reach_a_client_below_version_5(version: int, bit: int) -> None:
    view = message(setting=bit | SETTING_RECEIPT).view("alice", "bob", 1, 0)
    for frame in (view.frame(version, None), view.frame(version, Cipher(KEY, IV))):
        assert read(frame, version).setting == SETTING_RECEIPT
    assert read(view.frame(5, None), 5).setting == bit | SETTING_RECEIPT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sealed_message_never_claims_to_be_in_clear(version: int) -> None:
    view = message(setting=SETTING_NO_ENCRYPT | SETTING_RECEIPT).view("alice", "bob", 1, 0)
    assert read(view.frame(version, Cipher(KEY, IV)), version).setting == SETTING_RECEIPT
    assert read(view.frame(version, None), version).setting == SETTING_NO_ENCRYPT | SETTING_RECEIPT


def test_views_differ_in_what_their_receivers_see_and_are_made_once() -> None:
    shared = message()
    to_peer = shared.view("alice", "alice", 1, RED_DOT)
    to_self = shared.view("alice", "bob", 1, 0)
    assert shared.view("alice", "alice", 1, RED_DOT) is to_peer
    assert read(shared.view("alice", "alice", 1, 0).frame(5, None), 5).flags == 0
    assert read(shared.view("alice", "alice", 2, 0).frame(5, None), 5).channel_type == 2
    peer, own = read(to_peer.frame(5, None), 5), read(to_self.frame(5, None), 5)
    assert (peer.channel_id, peer.flags) == ("alice", RED_DOT)
    assert (own.channel_id, own.flags) == ("bob", 0)
    assert own.payload == peer.payload


def test_plain_frames_are_shared_and_sealed_ones_are_each_receivers_own() -> None:
    view = message().view("alice", "g", 2, RED_DOT)
    assert view.frame(5, None) is view.frame(5, None)
    assert view.frame(3, None) is view.frame(4, None)
    assert view.frame(5, Cipher(KEY, IV)) != view.frame(5, Cipher(IV, KEY))


def test_views_beyond_the_limit_work_but_are_not_kept() -> None:
    shared = message()
    for number in range(VIEW_LIMIT_COUNT):
        shared.view(f"u{number}", "g", 2, 0)
    extra = shared.view("one too many", "g", 2, 0)
    assert read(extra.frame(5, None), 5).from_uid == "one too many"
    assert shared.view("one too many", "g", 2, 0) is not extra


def test_a_message_that_does_not_fit_the_wire_is_an_encode_error() -> None:
    for changes in ({"client_msg_no": "m" * 32768}, {"message_seq": 1 << 32}, {"payload": bytes(1 << 20)}):
        view = message(**changes).view("alice", "g", 2, 0)
        for cipher in (None, Cipher(KEY, IV)):
            with pytest.raises(EncodeError):
                view.frame(5, cipher)


def test_the_json_form_is_made_once_and_names_everything() -> None:
    view = message(setting=SETTING_RECEIPT | SETTING_TOPIC, topic="t", expire=9).view("alice", "g", 2, NO_PERSIST)
    assert view.json_text() is view.json_text()
    assert json.loads(view.json_text()) == {
        "jsonrpc": "2.0",
        "method": "recv",
        "params": {
            "header": {"noPersist": True},
            "setting": {"receipt": True, "topic": True},
            "expire": 9,
            "messageId": "1234567890123456789",
            "messageSeq": 77,
            "clientMsgNo": "cmn-1",
            "timestamp": 1700000001,
            "channelId": "g",
            "channelType": 2,
            "topic": "t",
            "fromUid": "alice",
            "payload": "eyJ0eXBlIjoxLCJjb250ZW50IjoiaGVsbG8ifQ==",
        },
    }


def test_the_json_form_can_carry_the_payload_as_a_value_if_it_is_one() -> None:
    view = message().view("alice", "g", 2, 0)
    assert json.loads(view.json_text(payload_as_json=True))["params"]["payload"] == {"type": 1, "content": "hello"}
    binary = message(payload=b"\xff\x00").view("alice", "g", 2, 0)
    assert json.loads(binary.json_text(payload_as_json=True))["params"]["payload"] == "/wA="
    empty = message(payload=b"").view("alice", "g", 2, 0)
    assert json.loads(empty.json_text(payload_as_json=True))["params"]["payload"] == ""


def test_the_packet_of_a_view_is_what_a_client_reads() -> None:
    view = message(setting=0x80).view("alice", "g", 2, RED_DOT)
    assert encode(view.packet(), 5) == view.frame(5, None)
