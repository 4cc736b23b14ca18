"""What apply asks for. Effects are data; they run after apply, in its order, in the same turn of the loop.

Who runs them: fan-outs, kicks and session effects are for the node that holds the sessions; propagation is for the
leader of the slot, and what it owes is in the slot's outbox as well. Entries replayed after a restart run none.
"""

import msgspec

from wukong.channel.ids import ChannelId


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message as stored. timestamp in seconds; expire in seconds, 0 = for ever; message_seq 0 = not stored."""

    message_id: int
    message_seq: int
    flags: int
    setting: int
    from_uid: str
    client_msg_no: str
    timestamp: int
    payload: bytes
    expire: int = 0
    topic: str = ""
    recipients: list[str] | None = None


class FanOut(msgspec.Struct, frozen=True, gc=False):
    """Push the message to the sessions of the channel's members as they are at this position of the log, or exactly to
    message.recipients. (node, session) is the sending session, which gets none."""

    channel: ChannelId
    is_cmd: bool
    message: Message
    node: int
    session: int


class EventPush(msgspec.Struct, frozen=True, gc=False):
    """Tell the connected members of the channel, as they are at this position of the log, of an event. It is not
    repeated. occurred_at in ms; payload is JSON, empty for none. seq and status: of the lane, with this event."""

    channel: ChannelId
    shown_id: str
    client_msg_no: str
    event_key: str
    event_id: str
    event_type: str
    from_uid: str
    message_id: int
    seq: int
    status: str
    visibility: str
    occurred_at: int
    payload: bytes


class MembersChanged(msgspec.Struct, frozen=True, gc=False):
    """Members that joined and left; `cleared`: everybody else left as well."""

    channel: ChannelId
    added: list[str]
    removed: list[str]
    cleared: bool = False


class SessionStarted(msgspec.Struct, frozen=True, gc=False):
    """A login was accepted: from this position on the uid counts as connected to (node, session)."""

    uid: str
    node: int
    incarnation: int
    session: int
    device_flag: int
    level: int


class SessionEnded(msgspec.Struct, frozen=True, gc=False):
    """A session is over for the log. reason 0: only close the socket after close_after_ms; else send DISCONNECT first.
    announced False: the origin reported the end itself, nothing is left to do at the socket."""

    uid: str
    node: int
    incarnation: int
    session: int
    kicked: bool = False
    reason: int = 0
    text: str = ""
    close_after_ms: int = 0


class NodeEnded(msgspec.Struct, frozen=True, gc=False):
    """A node's incarnation is over in this slot: it has no session here any more, and its packs are fenced."""

    node: int
    incarnation: int


class Propagate(msgspec.Struct, frozen=True, gc=False):
    """An outbox record: propose `command` (encoded) in target_slot, -1 for every slot; when all of this version are
    applied, ForgetOutbox."""

    version: int
    outbox_id: int
    target: str
    command: bytes


class WebhookAdded(msgspec.Struct, frozen=True, gc=False):
    """There is work of that kind for the slot's webhook sender; said once per kind and pack, whatever the number."""

    kind: int


class Freed(msgspec.Struct, frozen=True, gc=False):
    """Messages of a log, from seq to seq, hold bytes less than before: they were deleted, or say nothing any more
    (is_erased). For whoever gives the disk back."""

    channel: ChannelId
    is_cmd: bool
    first: int
    last: int
    bytes: int
    is_erased: bool = False


Effect = (
    FanOut | EventPush | MembersChanged | SessionStarted | SessionEnded | NodeEnded | Propagate | WebhookAdded | Freed
)
