"""The vectors file as cases, and strategies for packets: shared by the tests of this package.

vectors/wkproto.json holds what other codecs wrote and read; its `description` and `conventions` say how to read it.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from wukong.protocol.packets import (
    DUP,
    NO_PERSIST,
    RED_DOT,
    SETTING_STREAM,
    SETTING_TOPIC,
    SYNC_ONCE,
    Connack,
    Connect,
    Disconnect,
    Event,
    Packet,
    PacketType,
    Ping,
    Pong,
    Recv,
    Recvack,
    Send,
    Sendack,
    Sub,
    Suback,
)

VERSIONS = (0, 1, 2, 3, 4, 5, 6)

_CLASSES: dict[str, type[Packet]] = {
    "CONNECT": Connect,
    "CONNACK": Connack,
    "SEND": Send,
    "SENDACK": Sendack,
    "RECV": Recv,
    "RECVACK": Recvack,
    "PING": Ping,
    "PONG": Pong,
    "DISCONNECT": Disconnect,
    "SUB": Sub,
    "SUBACK": Suback,
    "EVENT": Event,
}
_FLAGS = {"no_persist": NO_PERSIST, "red_dot": RED_DOT, "sync_once": SYNC_ONCE, "dup": DUP}
_NUMBERS = ("message_id", "message_seq", "node_id", "time_diff", "stream_id", "client_timestamp", "timestamp")


@cache
def vectors() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "wkproto.json").read_text())
    return loaded


def rows() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = vectors()["vectors"]
    return loaded


def packet_of(row: dict[str, Any]) -> Packet:
    """The packet a row describes."""
    fields = dict(row["fields"])
    for name in ("plaintext", "sign_text"):
        fields.pop(name, None)
    for name in ("payload", "data"):
        if name + "_hex" in fields:
            fields[name] = bytes.fromhex(fields.pop(name + "_hex"))
    for name in _NUMBERS:
        if name in fields:
            fields[name] = int(fields[name])
    if "message_id" in fields:
        # JavaScript rows have it unsigned, as that SDK reads it.
        fields["message_id"] = (fields["message_id"] + (1 << 63)) % (1 << 64) - (1 << 63)
    if "flags" in fields:
        fields["flags"] = sum(bit for name, bit in _FLAGS.items() if fields["flags"][name])
    return _CLASSES[row["packet"]](**fields)


def type_of(row: dict[str, Any]) -> PacketType:
    return PacketType[row["packet"]]


# Strategies ----------------------------------------------------------------------------------------------------------

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
i32 = st.integers(-(1 << 31), (1 << 31) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
flags = st.integers(0, 0x0F)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
data = st.binary(max_size=200)


@st.composite
def packets(draw: st.DrawFn, version: int) -> Packet:
    """Any packet whose every field travels at that version, so that reading gives back what was written."""
    stream = 2 <= version < 5
    expire = u32 if version >= 3 else st.just(0)
    seq = u64 if version >= 6 else u32
    setting = draw(u8)
    topic = text if setting & SETTING_TOPIC else st.just("")
    stream_text = text if stream and setting & SETTING_STREAM else st.just("")
    stream_u8 = u8 if stream and setting & SETTING_STREAM else st.just(0)
    stream_u64 = u64 if stream and setting & SETTING_STREAM else st.just(0)
    setting_is = st.just(setting)
    packet: Packet = draw(
        st.one_of(
            st.builds(Connect, u8, text, text, text, u8, i64, text, flags),
            st.builds(Connack, u8, i64, text, text, u64 if version >= 4 else st.just(0), st.none() | u8),
            st.builds(Send, flags, setting_is, u32, text, text, u8, expire, text, topic, data, stream_text),
            st.builds(Sendack, flags, i64, u32, seq, u8, text),
            st.builds(
                Recv,
                flags,
                setting_is,
                text,
                text,
                text,
                u8,
                text,
                i64,
                seq,
                i32,
                expire,
                topic,
                data,
                stream_u8,
                stream_text,
                stream_u64,
            ),
            st.builds(Recvack, flags, i64, seq),
            st.builds(Ping, flags),
            st.builds(Pong, flags),
            st.builds(Disconnect, u8, text),
            st.builds(Sub, u8, text, text, u8, u8, text),
            st.builds(Suback, text, text, u8, u8, u8),
            st.builds(Event, text, text, i64, data),
        )
    )
    return packet
