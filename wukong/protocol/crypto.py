"""Key agreement and sealing of payloads: X25519, AES-128-CBC, MD5 keys (wkproto.md, section 6).

Every message of a connection is encrypted with the same key and the same IV. A fresh cipher context per message costs
more than the encryption itself, so a Cipher keeps one running CBC stream and steers it back to the fixed IV: CBC mixes
the block before into the next one, hence the first block is mixed with (IV xor last ciphertext block) beforehand. For
decryption the IV is put in front of the ciphertext and the block that comes of it is thrown away.
"""

from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Callable
from hashlib import md5
from typing import Final

import msgspec
from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from wukong.errors import ProtocolError
from wukong.protocol.base64_text import decode_base64
from wukong.protocol.reasons import ReasonCode

KEY_BYTES: Final = 16
SALT_BYTES: Final = 16
BLOCK_BYTES: Final = 16
PUBLIC_KEY_BYTES: Final = 32

_SALT_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# PKCS#7: PADDINGS[n] is n bytes of value n; a text of whole blocks gets a block of its own.
PADDINGS: Final = tuple(bytes((count,)) * count for count in range(BLOCK_BYTES + 1))


class PayloadError(ProtocolError):
    """A payload that cannot be unsealed. The message is refused with reason 9; the connection goes on."""


class KeyAgreementError(ProtocolError):
    """The peer's public key or salt cannot be used."""


class ClientKeyError(KeyAgreementError):
    """The client's public key cannot be used. reason: 21 when it is empty, else 2 (wkproto.md, 6.1)."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def padding_for(length_bytes: int) -> bytes:
    """What PKCS#7 appends to a text of that length."""
    return PADDINGS[BLOCK_BYTES - length_bytes % BLOCK_BYTES]


def sealed_bytes(plain_bytes: int) -> int:
    """Length on the wire of a sealed payload: whole blocks, then base64."""
    return -(-(plain_bytes // BLOCK_BYTES + 1) * BLOCK_BYTES // 3) * 4


class Cipher:
    """Seals, unseals and signs for one connection.

    key: 16 bytes. iv: 16 bytes, the salt of the CONNACK. The contexts come into being on first use, so that an idle
    connection costs two short byte strings. Not for use from two threads at once.
    """

    __slots__ = ("_decrypt", "_encrypt", "_iv", "_iv_number", "_key", "_mask")

    def __init__(self, key: bytes, iv: bytes) -> None:
        if len(key) != KEY_BYTES or len(iv) != SALT_BYTES:
            raise ValueError(f"a key of {len(key)} and an IV of {len(iv)} bytes, both must have 16")
        self._key = key
        self._iv = iv
        self._iv_number = 0
        # IV xor last ciphertext block: what the next first block is mixed with. 0 as long as the stream is fresh.
        self._mask = 0
        self._encrypt: Callable[[bytes], bytes] | None = None
        self._decrypt: Callable[[bytes], bytes] | None = None

    def seal(self, plain: bytes) -> bytes:
        """The payload as it travels: base64 of AES-CBC of the plaintext. An empty one gives 24 characters."""
        return b2a_base64(self._encrypt_padded(plain + padding_for(len(plain))), newline=False)

    def unseal(self, wire: bytes) -> bytes:
        """The plaintext. Raises PayloadError for bad base64, anything but whole blocks, bad padding."""
        try:
            sealed = decode_base64(wire)
        except ValueError as fault:
            raise PayloadError(f"payload is not base64: {fault}") from None
        if len(sealed) % BLOCK_BYTES or not sealed:
            raise PayloadError(f"sealed payload of {len(sealed)} bytes is not a whole number of blocks")
        decrypt = self._decrypt or self._start_decrypting()
        plain = decrypt(self._iv + sealed)
        count = plain[-1]
        if not 1 <= count <= BLOCK_BYTES or not plain.endswith(PADDINGS[count]):
            raise PayloadError("payload has no valid padding: wrong key, or damaged")
        return plain[BLOCK_BYTES:-count]

    def sign(self, text: bytes) -> bytes:
        """The msg_key of a sign text: 32 lower-case hex digits."""
        sealed = self._encrypt_padded(text + padding_for(len(text)))
        return _hex_md5(b2a_base64(sealed, newline=False))

    def seal_and_sign(
        self, first_block: int, rest: bytes, sign_block: int, sign_rest: bytes, sign_padding: bytes
    ) -> tuple[bytes, bytes]:
        """Sealed payload and msg_key of one RECV, from what SharedRecv prepared for all its receivers.

        first_block, rest: the padded payload, its first 16 bytes as a number. sign_block, sign_rest: the same of the
        sign text before the sealed payload; sign_padding is what follows the sealed payload.
        """
        encrypt = self._encrypt or self._start_encrypting()
        sealed = encrypt((first_block ^ self._mask).to_bytes(16, "big") + rest)
        wire = b2a_base64(sealed, newline=False)
        mask = self._iv_number ^ int.from_bytes(sealed[-16:], "big")
        signed = encrypt(b"".join(((sign_block ^ mask).to_bytes(16, "big"), sign_rest, wire, sign_padding)))
        self._mask = self._iv_number ^ int.from_bytes(signed[-16:], "big")
        return wire, _hex_md5(b2a_base64(signed, newline=False))

    def _encrypt_padded(self, padded: bytes) -> bytes:
        encrypt = self._encrypt or self._start_encrypting()
        first_block = int.from_bytes(padded[:16], "big") ^ self._mask
        sealed = encrypt(first_block.to_bytes(16, "big") + padded[16:])
        self._mask = self._iv_number ^ int.from_bytes(sealed[-16:], "big")
        return sealed

    def _start_encrypting(self) -> Callable[[bytes], bytes]:
        self._iv_number = int.from_bytes(self._iv, "big")
        self._mask = 0
        self._encrypt = ciphers.Cipher(algorithms.AES(self._key), modes.CBC(self._iv)).encryptor().update
        return self._encrypt

    def _start_decrypting(self) -> Callable[[bytes], bytes]:
        self._decrypt = ciphers.Cipher(algorithms.AES(self._key), modes.CBC(self._iv)).decryptor().update
        return self._decrypt


def _hex_md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).hexdigest().encode()


def send_sign_text(
    client_seq: int, client_msg_no: str, channel_id: str, channel_type: int, wire_payload: bytes
) -> bytes:
    """What the msg_key of a SEND covers. wire_payload: as it travels, sealed (wkproto.md, 6.3)."""
    return f"{client_seq}{client_msg_no}{channel_id}{channel_type}".encode() + wire_payload


def recv_sign_text(
    message_id: int,
    message_seq: int,
    client_msg_no: str,
    timestamp: int,
    from_uid: str,
    channel_id: str,
    channel_type: int,
    wire_payload: bytes,
) -> bytes:
    """What the msg_key of a RECV covers. message_id is printed signed, timestamp is the one in the frame."""
    text = f"{message_id}{message_seq}{client_msg_no}{timestamp}{from_uid}{channel_id}{channel_type}"
    return text.encode() + wire_payload


# Key agreement -------------------------------------------------------------------------------------------------------


class ServerHandshake(msgspec.Struct, frozen=True):
    """server_key (base64) and salt go into the CONNACK."""

    server_key: str
    salt: str
    cipher: Cipher


def derive_key(shared_secret: bytes) -> bytes:
    """The AES key: first 16 hex digits, as ASCII, of the MD5 of the secret's base64 text (64 bits of entropy)."""
    return md5(b64encode(shared_secret), usedforsecurity=False).hexdigest()[:KEY_BYTES].encode()


def salt_text(entropy: bytes) -> str:
    """A salt of 16 letters and digits out of at least 16 random bytes."""
    if len(entropy) < SALT_BYTES:
        raise ValueError(f"{len(entropy)} random bytes do not make a salt, 16 are needed")
    number = int.from_bytes(entropy, "big")
    letters = []
    for _ in range(SALT_BYTES):
        number, digit = divmod(number, len(_SALT_LETTERS))
        letters.append(_SALT_LETTERS[digit])
    return "".join(letters)


def public_key_text(private: X25519PrivateKey) -> str:
    """The public half as it travels in CONNECT and CONNACK."""
    return b64encode(private.public_key().public_bytes_raw()).decode()


def accept_client_key(client_key: str, *, salt: str, private: X25519PrivateKey | None = None) -> ServerHandshake:
    """The server's half of the agreement, about 0.1 ms.

    client_key: from CONNECT. salt: 16 ASCII characters, fresh for the connection. private: the server's key for this
    connection, drawn by the cryptography library when not given. Raises ClientKeyError with reason 21 for an empty
    key, 2 for one that is not base64, short, or a low-order point.
    """
    if not client_key:
        raise ClientKeyError(ReasonCode.CLIENT_KEY_IS_EMPTY, "client key is empty")
    if len(salt) != SALT_BYTES or not salt.isascii():
        raise ValueError("a salt has 16 ASCII characters")
    private = private or X25519PrivateKey.generate()
    try:
        cipher = _agree(private, client_key, salt)
    except KeyAgreementError as fault:
        raise ClientKeyError(ReasonCode.AUTH_FAIL, str(fault)) from None
    return ServerHandshake(public_key_text(private), salt, cipher)


class ClientHandshake:
    """The client's half: client_key goes into CONNECT, `finish` takes what CONNACK brings."""

    def __init__(self, private: X25519PrivateKey | None = None) -> None:
        self._private = private or X25519PrivateKey.generate()
        self.client_key = public_key_text(self._private)

    def finish(self, server_key: str, salt: str) -> Cipher | None:
        """The connection's cipher; None when the server encrypts nothing (empty key). Raises KeyAgreementError for a
        key or a salt that cannot be used. A longer salt is cut to 16 characters, as other SDKs do."""
        if not server_key:
            return None
        return _agree(self._private, server_key, salt[:SALT_BYTES])


def _agree(private: X25519PrivateKey, peer_key: str, salt: str) -> Cipher:
    try:
        iv = salt.encode("ascii")
        # The first 32 bytes count, whatever follows (wkproto.md, 6.1).
        public = decode_base64(peer_key.encode())[:PUBLIC_KEY_BYTES]
        # ValueError: not base64, too short, or a secret of zeros (low-order point).
        shared_secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        return Cipher(derive_key(shared_secret), iv)
    except ValueError as fault:
        raise KeyAgreementError(f"key agreement failed: {fault}") from None
