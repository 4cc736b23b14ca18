"""What the application sends and receives."""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from wukong.protocol.packets import NO_PERSIST, RED_DOT, SYNC_ONCE

TEXT_TYPE: Final = 1
"""`type` of a text message in the payload convention of the existing SDKs: {"type": 1, "content": "..."}."""

# any: a mapping is turned into JSON as it is.
Payload = bytes | str | Mapping[str, Any]


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One message as this user sees it.

    channel_id: in a person channel (type 1) the other person. message_seq: per channel, from 1, no gaps; 0 when the
    message is not stored. timestamp: seconds. payload: the plaintext. expire: seconds, 0 = for ever. synced: it came
    through the sync provider, not live. from_uid is empty for the system account.
    """

    channel_id: str
    channel_type: int
    from_uid: str
    message_seq: int
    message_id: int
    client_msg_no: str
    timestamp: int
    payload: bytes
    flags: int = 0
    setting: int = 0
    topic: str = ""
    expire: int = 0
    synced: bool = False

    @property
    def no_persist(self) -> bool:
        return bool(self.flags & NO_PERSIST)

    @property
    def red_dot(self) -> bool:
        return bool(self.flags & RED_DOT)

    @property
    def sync_once(self) -> bool:
        """A command: it has a message_seq of its own kind, in the command twin of the channel."""
        return bool(self.flags & SYNC_ONCE)

    @property
    def text(self) -> str:
        """The content of a text message, else the payload as text, unreadable bytes replaced."""
        try:
            content = json.loads(self.payload)
        except ValueError:
            return self.payload.decode(errors="replace")
        if isinstance(content, dict) and isinstance(content.get("content"), str):
            return str(content["content"])
        return self.payload.decode(errors="replace")


class Sent(msgspec.Struct, frozen=True, gc=False):
    """The server has taken the message. message_seq is 0 if it is not stored (no_persist)."""

    message_seq: int
    message_id: int
    client_msg_no: str


class State(Enum):
    """CONNECTING -> CONNECTED -> SYNCED -> WAITING -> CONNECTING ...; CLOSED is the end. Without a sync provider
    SYNCED follows CONNECTED at once."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    SYNCED = "synced"
    WAITING = "waiting"
    CLOSED = "closed"


class StateChange(msgspec.Struct, frozen=True):
    """error: why the last connection or attempt ended, or why the client is closed. retry_in_s: with WAITING, when the
    next attempt begins."""

    state: State
    error: BaseException | None = None
    retry_in_s: float = 0.0


def text_payload(text: str) -> bytes:
    """A text message as the existing SDKs show it."""
    return json_payload({"type": TEXT_TYPE, "content": text})


def json_payload(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def payload_bytes(payload: Payload) -> bytes:
    """bytes as they are, str as UTF-8, a mapping as JSON."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    return json_payload(payload)
