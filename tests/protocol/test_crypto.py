import random
from base64 import b64decode, b64encode, encodebytes
from typing import Any

import pytest
from cryptography.hazmat.primitives import ciphers as library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.cases import packet_of, rows, vectors
from wukong.errors import ProtocolError
from wukong.protocol.codec import decode, encode
from wukong.protocol.crypto import (
    Cipher,
    ClientHandshake,
    ClientKeyError,
    KeyAgreementError,
    PayloadError,
    accept_client_key,
    derive_key,
    padding_for,
    public_key_text,
    recv_sign_text,
    salt_text,
    sealed_bytes,
    send_sign_text,
)
from wukong.protocol.decoder import FrameDecoder
from wukong.protocol.packets import Connack, Connect, Recv, Send

KEY = b"eac8976b0c2798dc"
IV = b"abcdefghijklmnop"
SALT = IV.decode()
SIGNED_ROWS = [row for row in rows() if "sign_text" in row["fields"]]


def raw_cbc(key: bytes, iv: bytes, padded: bytes) -> bytes:
    """The slow, obvious way: a fresh context."""
    encryptor = library.Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def private_key(hex_text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(hex_text))


def body_of(frame_hex: str) -> Any:
    decoder = FrameDecoder()
    decoder.receive_data(bytes.fromhex(frame_hex))
    frame = decoder.next_frame()
    assert frame is not None
    return frame


# Payloads and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", vectors()["ciphers"], ids=lambda row: f"{row['producer']}-{row['plaintext'][:12]}")
def test_payloads_are_sealed_and_unsealed_as_the_sdks_do(row: dict[str, str]) -> None:
    cipher = Cipher(row["aes_key_ascii"].encode(), row["aes_iv_ascii"].encode())
    plain = row["plaintext"].encode()
    wire = row["ciphertext_base64"].encode()
    for _ in range(3):  # the running context comes back to the fixed IV each time
        assert cipher.seal(plain) == wire
        assert cipher.unseal(wire) == plain


@pytest.mark.parametrize("row", SIGNED_ROWS, ids=lambda row: row["id"])
def test_sends_and_recvs_of_the_sdks_carry_the_key_we_compute(row: dict[str, Any]) -> None:
    cipher = Cipher(row["aes_key_ascii"].encode(), row["aes_iv_ascii"].encode())
    packet = packet_of(row)
    if isinstance(packet, Send):
        text = send_sign_text(
            packet.client_seq, packet.client_msg_no, packet.channel_id, packet.channel_type, packet.payload
        )
    else:
        assert isinstance(packet, Recv)
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
    assert text.decode() == row["fields"]["sign_text"]
    assert cipher.sign(text).decode() == packet.msg_key
    assert cipher.unseal(packet.payload) == row["fields"]["plaintext"].encode()
    assert cipher.seal(row["fields"]["plaintext"].encode()) == packet.payload


def test_there_are_signed_rows_of_both_packets() -> None:
    assert {row["packet"] for row in SIGNED_ROWS} == {"SEND", "RECV"}
    assert len(SIGNED_ROWS) == 30


@given(st.lists(st.tuples(st.sampled_from(["seal", "sign", "unseal"]), st.binary(max_size=100)), max_size=12))
@settings(max_examples=200, deadline=None)
def test_every_message_is_encrypted_from_the_same_iv_whatever_came_before(work: list[tuple[str, bytes]]) -> None:
    cipher = Cipher(KEY, IV)
    for action, plain in work:
        sealed = b64encode(raw_cbc(KEY, IV, plain + padding_for(len(plain))))
        if action == "seal":
            assert cipher.seal(plain) == sealed
        elif action == "unseal":
            assert cipher.unseal(sealed) == plain
        else:
            assert cipher.sign(plain) == Cipher(KEY, IV).sign(plain)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_the_sealed_length_is_known_beforehand(plain: bytes) -> None:
    assert len(Cipher(KEY, IV).seal(plain)) == sealed_bytes(len(plain))


def test_an_empty_payload_is_one_block_of_padding() -> None:
    assert len(Cipher(KEY, IV).seal(b"")) == 24


def test_an_unused_cipher_has_no_contexts() -> None:
    cipher = Cipher(KEY, IV)
    assert cipher._encrypt is None
    assert cipher._decrypt is None
    cipher.seal(b"x")
    assert cipher._encrypt is not None
    assert cipher._decrypt is None


@pytest.mark.parametrize(
    ("what", "wire"),
    [
        ("no base64", b"hello world!"),
        ("no padding of the base64", Cipher(KEY, IV).seal(b"text").rstrip(b"=")),
        ("a blank in the base64", b" " + Cipher(KEY, IV).seal(b"text")),
        ("text behind the base64", Cipher(KEY, IV).seal(b"text") + b"AAAA"),
        ("nothing", b""),
        ("half a block", b64encode(bytes(8))),
        ("a block and a half", b64encode(bytes(24))),
        ("padding of zero", b64encode(raw_cbc(KEY, IV, bytes(16)))),
        ("padding of seventeen", b64encode(raw_cbc(KEY, IV, bytes(15) + b"\x11"))),
        ("padding whose bytes differ", b64encode(raw_cbc(KEY, IV, bytes(13) + b"\x02\x03\x03"))),
        ("padding longer than the text", b64encode(raw_cbc(KEY, IV, bytes(15) + b"\x10"))),
        ("another key", Cipher(b"0123456789abcdef", IV).seal(b"text")),
    ],
)
def test_what_cannot_be_unsealed_is_a_payload_error_and_the_next_one_works(what: str, wire: bytes) -> None:
    cipher = Cipher(KEY, IV)
    with pytest.raises(PayloadError):
        cipher.unseal(wire)
    assert cipher.unseal(cipher.seal(b"the next one")) == b"the next one"


def test_a_payload_and_a_key_with_line_breaks_are_read() -> None:
    cipher = Cipher(KEY, IV)
    plain = b"x" * 100
    assert cipher.unseal(encodebytes(b64decode(cipher.seal(plain)))) == plain
    client = ClientHandshake()
    assert accept_client_key(client.client_key + "\n", salt=SALT).salt == SALT


def test_a_payload_error_is_a_protocol_error() -> None:
    assert issubclass(PayloadError, ProtocolError)


@pytest.mark.parametrize(("key", "iv"), [(b"short", IV), (KEY, b"short"), (KEY * 2, IV), (KEY, IV + b"x")])
def test_keys_and_ivs_of_another_length_are_refused(key: bytes, iv: bytes) -> None:
    with pytest.raises(ValueError, match="both must have 16"):
        Cipher(key, iv)


# Key agreement -------------------------------------------------------------------------------------------------------

HANDSHAKES = vectors()["handshakes"]
HANDSHAKE_IDS = [f"{row['producer']}-{row['version']}-{index}" for index, row in enumerate(HANDSHAKES)]


@pytest.mark.parametrize("row", HANDSHAKES, ids=HANDSHAKE_IDS)
def test_both_sides_of_a_recorded_handshake_come_to_the_recorded_key(row: dict[str, Any]) -> None:
    server = private_key(row["server_private_hex"])
    client = private_key(row["client_private_hex"])
    assert public_key_text(server) == row["server_public_base64"]
    assert public_key_text(client) == row["client_public_base64"]
    assert derive_key(bytes.fromhex(row["shared_secret_hex"])) == row["aes_key_ascii"].encode()

    handshake = accept_client_key(row["client_public_base64"], salt=row["aes_iv_ascii"], private=server)
    assert handshake.server_key == row["server_public_base64"]
    assert handshake.salt == row["aes_iv_ascii"]
    theirs = ClientHandshake(client)
    assert theirs.client_key == row["client_public_base64"]
    client_cipher = theirs.finish(handshake.server_key, handshake.salt)
    assert client_cipher is not None
    recorded = Cipher(row["aes_key_ascii"].encode(), row["aes_iv_ascii"].encode())
    assert recorded.seal(b"text") == handshake.cipher.seal(b"text") == client_cipher.seal(b"text")


@pytest.mark.parametrize("row", HANDSHAKES, ids=HANDSHAKE_IDS)
def test_the_recorded_frames_of_a_handshake_lead_to_the_same_key(row: dict[str, Any]) -> None:
    frame = body_of(row["connect_hex"])
    connect = decode(frame.frame_type, frame.flags, frame.body, row["version"])
    assert isinstance(connect, Connect)
    handshake = accept_client_key(
        connect.client_key, salt=row["aes_iv_ascii"], private=private_key(row["server_private_hex"])
    )
    frame = body_of(row["connack_hex"])
    connack = decode(frame.frame_type, frame.flags, frame.body, row["version"])
    assert isinstance(connack, Connack)
    assert (connack.server_key, connack.salt) == (handshake.server_key, handshake.salt)
    assert encode(connack, row["version"]).hex() == row["connack_hex"]


def test_a_fresh_key_pair_is_drawn_when_none_is_given() -> None:
    client = ClientHandshake()
    first = accept_client_key(client.client_key, salt=SALT)
    second = accept_client_key(client.client_key, salt=SALT)
    assert first.server_key != second.server_key
    assert ClientHandshake().client_key != client.client_key
    cipher = client.finish(first.server_key, first.salt)
    assert cipher is not None
    assert cipher.unseal(first.cipher.seal(b"text")) == b"text"


@pytest.mark.parametrize(
    ("what", "client_key", "reason"),
    [
        ("empty", "", 21),
        ("not base64", "!!!!", 2),
        ("not ASCII", "\u4f60\u597d", 2),
        ("without padding", b64encode(bytes(range(32))).decode().rstrip("="), 2),
        ("31 bytes", b64encode(bytes(31)).decode(), 2),
        ("low order: zero", b64encode(bytes(32)).decode(), 2),
        ("low order: one", b64encode(b"\x01" + bytes(31)).decode(), 2),
    ],
)
def test_a_client_key_that_cannot_be_used_has_its_reason(what: str, client_key: str, reason: int) -> None:
    with pytest.raises(ClientKeyError) as caught:
        accept_client_key(client_key, salt=SALT)
    assert caught.value.reason == reason


def test_of_a_longer_client_key_the_first_32_bytes_count() -> None:
    client = ClientHandshake()
    longer = b64encode(b64decode(client.client_key) + b"more").decode()
    handshake = accept_client_key(longer, salt=SALT)
    cipher = client.finish(handshake.server_key, handshake.salt)
    assert cipher is not None
    assert cipher.seal(b"text") == handshake.cipher.seal(b"text")


@pytest.mark.parametrize("salt", ["", "short", "a" * 17, "\u4f60" * 16])
def test_a_salt_of_ours_that_is_not_16_characters_is_our_own_mistake(salt: str) -> None:
    with pytest.raises(ValueError, match="16 ASCII"):
        accept_client_key(ClientHandshake().client_key, salt=salt)


def test_a_client_understands_a_server_that_does_not_encrypt_and_refuses_one_it_cannot_follow() -> None:
    client = ClientHandshake()
    server = accept_client_key(client.client_key, salt=SALT)
    assert client.finish("", "") is None
    assert client.finish(server.server_key, SALT + "more") is not None
    for server_key, salt in [("!!!", SALT), (server.server_key, "short"), (server.server_key, "\u4f60" * 16)]:
        with pytest.raises(KeyAgreementError):
            client.finish(server_key, salt)


def test_a_salt_is_16_letters_and_digits_and_differs_with_the_entropy() -> None:
    chance = random.Random(7)
    salts = {salt_text(chance.randbytes(16)) for _ in range(200)}
    assert len(salts) == 200
    assert all(len(salt) == 16 and salt.isascii() and salt.isalnum() for salt in salts)
    assert salt_text(b"\xff" * 16) == salt_text(b"\xff" * 16)
    with pytest.raises(ValueError, match="16 are needed"):
        salt_text(b"\xff" * 15)
