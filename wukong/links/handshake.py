"""Who is at the other end, proven both ways. Bytes in, bytes and keys out; never reads a socket, waits or logs.

    dialer                                    listener
    HELLO version, from, to, nonce    ──►
                                      ◄──    CHALLENGE version, node, nonce
    PROOF                             ──►
                                      ◄──    WELCOME proof

    root      HMAC-SHA256(secret, label | HELLO | CHALLENGE)
    proofs    HMAC-SHA256(root, "dialer proof" / "listener proof")
    keys      HMAC-SHA256(root, "dialer frames" / "listener frames")

Versions, nonces, both node numbers and who dialed are all in what is proven, so a proof fits one connection and one
side of it. The dialer proves first: whoever merely connects gets nothing to try secrets on. REFUSED takes the place of
any answer of the listener; it is unproven and only tells the dialer's log. HELLO's and REFUSED's first six bytes
(magic, step, major version) keep their place in every version.
"""

import hmac
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from wukong.errors import ProtocolError
from wukong.limits import MAX_NODE_ID

MAJOR = 1
MINOR = 0
NONCE_BYTES = 32
FRAME_LIMIT_BYTES = 128
"""More than twice the largest: later minor versions may add to the end of HELLO and CHALLENGE."""

_MAGIC = b"WKIL"
_HELLO, _CHALLENGE, _PROOF, _WELCOME, _REFUSED = range(1, 6)
_Start = struct.Struct(">4sBB")  # magic, step, major version
_Hello = struct.Struct(">4sBBBHH32s")  # + minor version, from, to, nonce
_Challenge = struct.Struct(">4sBBBH32s")  # + minor version, node, nonce
_Proven = struct.Struct(">4sBB32s")  # + proof
_Refused = struct.Struct(">4sBBB")  # + reason


class Reason(IntEnum):
    """Why there is no link."""

    MALFORMED = 1
    VERSION = 2
    IDENTITY = 3
    """Not the node that was dialed, or a second node of the same number."""
    PROOF = 4
    STRANGER = 5


class HandshakeRefused(ProtocolError):
    """The handshake has failed. answer: what to send before closing, empty for nothing. by_peer: the other side says
    so."""

    def __init__(self, reason: Reason, text: str, *, answer: bytes = b"", by_peer: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.answer = answer
        self.by_peer = by_peer


class Keys(NamedTuple):
    """of one connection: for what the dialer and the listener send."""

    dialer: bytes
    listener: bytes


class _Secrets(NamedTuple):
    dialer_proof: bytes
    listener_proof: bytes
    keys: Keys


def refusal(reason: Reason) -> bytes:
    return _Refused.pack(_MAGIC, _REFUSED, MAJOR, reason)


def _derive(secret: bytes, hello: bytes, challenge: bytes) -> _Secrets:
    # Lengths first: no other pair of frames gives the same text.
    lengths = struct.pack(">HH", len(hello), len(challenge))
    root = hmac.digest(secret, b"wukong links" + lengths + hello + challenge, "sha256")
    dialer_proof, listener_proof, dialer_key, listener_key = (
        hmac.digest(root, label, "sha256")
        for label in (b"dialer proof", b"listener proof", b"dialer frames", b"listener frames")
    )
    return _Secrets(dialer_proof, listener_proof, Keys(dialer_key, listener_key))


def _step_of(frame: bytes) -> tuple[int, int]:
    """Step and major version of any handshake frame."""
    if len(frame) < _Start.size:
        raise HandshakeRefused(Reason.MALFORMED, "handshake frame is too short")
    magic, step, major = _Start.unpack_from(frame)
    if magic != _MAGIC:
        raise HandshakeRefused(Reason.MALFORMED, "not a link of this server")
    return step, major


def _fields(layout: struct.Struct, frame: bytes) -> tuple[Any, ...]:
    """What struct unpacks has the types of its layout, which mypy cannot read."""
    if len(frame) < layout.size:
        raise HandshakeRefused(Reason.MALFORMED, "handshake frame is too short")
    return layout.unpack_from(frame)


class Dialing:
    """The dialer's side. nonce: NONCE_BYTES, from the system's random source, never used again."""

    def __init__(self, *, secret: bytes, node: int, target: int, nonce: bytes) -> None:
        self.target = target
        self.keys: Keys | None = None
        """When the target has proven itself."""
        self._secret = secret
        self.hello = _Hello.pack(_MAGIC, _HELLO, MAJOR, MINOR, node, target, nonce)
        self._secrets: _Secrets | None = None

    def receive(self, frame: bytes) -> bytes:
        """What to send next, empty for nothing. Raises HandshakeRefused; that is final."""
        step, major = _step_of(frame)
        if step == _REFUSED:
            raise self._refused(frame, major)
        if major != MAJOR:
            raise HandshakeRefused(Reason.VERSION, f"peer speaks link version {major}, this node {MAJOR}")
        if step == _CHALLENGE and self._secrets is None:
            node = _fields(_Challenge, frame)[4]
            if node != self.target:
                raise HandshakeRefused(Reason.IDENTITY, f"the address is that of node {node}")
            self._secrets = _derive(self._secret, self.hello, frame)
            return _Proven.pack(_MAGIC, _PROOF, MAJOR, self._secrets.dialer_proof)
        if step == _WELCOME and self._secrets is not None and self.keys is None:
            proof = _fields(_Proven, frame)[3]
            if not hmac.compare_digest(proof, self._secrets.listener_proof):
                raise HandshakeRefused(Reason.PROOF, "peer has another cluster.secret")
            self.keys = self._secrets.keys
            return b""
        raise HandshakeRefused(Reason.MALFORMED, "handshake frame out of turn")

    def _refused(self, frame: bytes, major: int) -> HandshakeRefused:
        if major != MAJOR:
            text = f"peer speaks link version {major}, this node {MAJOR}"
            return HandshakeRefused(Reason.VERSION, text, by_peer=True)
        code = _fields(_Refused, frame)[3]
        texts = {
            Reason.VERSION: "peer does not speak this node's link version",
            Reason.IDENTITY: "peer is another node, or has this node's own number",
            Reason.PROOF: "peer has another cluster.secret",
            Reason.STRANGER: "peer does not know this node",
        }
        reason = Reason(code) if code in set(Reason) else Reason.MALFORMED
        return HandshakeRefused(reason, texts.get(reason, "peer does not understand"), by_peer=True)


class Answering:
    """The listener's side; nonce as in Dialing.

    After the PROOF `peer` is the proven node, and `keys` are there; whether it is let in is the caller's to say, with
    `welcome` or `refusal`.
    """

    def __init__(self, *, secret: bytes, node: int, nonce: bytes) -> None:
        self.peer = 0
        self.claimed = 0
        """Whom the dialer says to be."""
        self.keys: Keys | None = None
        self._secret = secret
        self._node = node
        self._nonce = nonce
        self._secrets: _Secrets | None = None

    @property
    def welcome(self) -> bytes:
        assert self._secrets is not None and self.keys is not None
        return _Proven.pack(_MAGIC, _WELCOME, MAJOR, self._secrets.listener_proof)

    def receive(self, frame: bytes) -> bytes:
        """What to send next, empty for nothing. Raises HandshakeRefused; that is final."""
        step, major = _step_of(frame)
        if major != MAJOR:
            text = f"a node speaks link version {major}, this node {MAJOR}"
            raise HandshakeRefused(Reason.VERSION, text, answer=refusal(Reason.VERSION))
        if step == _HELLO and self._secrets is None:
            return self._challenge(frame)
        if step == _PROOF and self._secrets is not None and self.keys is None:
            proof = _fields(_Proven, frame)[3]
            if not hmac.compare_digest(proof, self._secrets.dialer_proof):
                text = f"who says to be node {self.claimed} has another cluster.secret"
                raise HandshakeRefused(Reason.PROOF, text, answer=refusal(Reason.PROOF))
            self.peer, self.keys = self.claimed, self._secrets.keys
            return b""
        raise HandshakeRefused(Reason.MALFORMED, "handshake frame out of turn")

    def _challenge(self, hello: bytes) -> bytes:
        _, _, _, _, sender, target, _ = _fields(_Hello, hello)
        if target != self._node:
            text = f"who says to be node {sender} dialed node {target}, this is node {self._node}"
            raise HandshakeRefused(Reason.IDENTITY, text, answer=refusal(Reason.IDENTITY))
        if sender == self._node:
            text = f"another node has this node's number {sender}"
            raise HandshakeRefused(Reason.IDENTITY, text, answer=refusal(Reason.IDENTITY))
        if not 0 < sender <= MAX_NODE_ID:
            raise HandshakeRefused(Reason.MALFORMED, f"{sender} is no node number")
        self.claimed = sender
        challenge = _Challenge.pack(_MAGIC, _CHALLENGE, MAJOR, MINOR, self._node, self._nonce)
        self._secrets = _derive(self._secret, hello, challenge)
        return challenge
