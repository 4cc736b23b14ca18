"""What back ends read: the JSON of the three events. Pure. http-api.md section 16, traps 51, 52 and 54.

Every item is encoded once, when it is read; a request's body is its items joined.
"""

import gzip
import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId, shown_id
from wukong.channel.state import Settings
from wukong.service.shapes import MessageFields, shape_message

_encode = msgspec.json.Encoder().encode


class OfflineShape(MessageFields, frozen=True, gc=False):
    """A message as its sender named it, and who is to be told. to_uids is empty if compress is "gzip": then
    compress_to_uids holds the list, as base64 of gzip of a JSON array."""

    to_uids: list[str]
    compress: str | msgspec.UnsetType
    compress_to_uids: bytes | msgspec.UnsetType
    source_id: int


def notify_item(channel: ChannelId, message: Message, settings: Settings, *, is_cmd: bool) -> bytes:
    """One element of the array of msg.notify."""
    return _encode(shape_message(channel, message, settings, is_cmd=is_cmd))


def status_item(entry: str) -> bytes:
    """One element of the array of user.onlinestatus: `uid-flag-online-connId-countOfFlag-countTotal`."""
    return _encode(entry)


def array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def offline_body(
    channel: ChannelId,
    message: Message,
    settings: Settings,
    to_uids: list[str],
    *,
    source_id: int,
    compress_above: int,
) -> bytes:
    """The object of msg.offline. compress_above: more recipients than this are compressed; 0: never.

    Differs from msg.notify in that the system account's name is shown, and in channel_id, which is what the sender
    used: the receiver's uid, and no suffix on a command's channel."""
    shape = shape_message(channel, message, settings)
    compress: str | msgspec.UnsetType = msgspec.UNSET
    compressed: bytes | msgspec.UnsetType = msgspec.UNSET
    if 0 < compress_above < len(to_uids):
        # Level 1: it runs beside the loop's own work, and uids compress well at any level.
        compress, compressed = "gzip", gzip.compress(_encode(to_uids), compresslevel=1, mtime=0)
        to_uids = []
    return _encode(
        OfflineShape(
            shape.header,
            shape.setting,
            shape.message_id,
            shape.message_idstr,
            shape.client_msg_no,
            shape.message_seq,
            message.from_uid,
            shown_id(channel, message.from_uid),
            shape.channel_type,
            shape.topic,
            shape.expire,
            shape.timestamp,
            shape.payload,
            to_uids,
            compress,
            compressed,
            source_id,
        )
    )


def request_id(event: str, records: Sequence[tuple[int, int]], body: bytes) -> str:
    """Names a request in 32 hexadecimal digits: the same for the same records (slot, id) with the same body, on
    whatever node and however often it is sent; another one for an equal body that tells of something else."""
    digest = hashlib.sha256(f"{event} {' '.join(f'{slot}.{number}' for slot, number in records)} ".encode())
    digest.update(body)
    return digest.hexdigest()[:32]
