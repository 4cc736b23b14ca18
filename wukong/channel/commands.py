"""What may change the state: the commands of the log, their pack, and their replies.

An entry of the log is one byte of format version and a msgpack array of packs. A pack holds commands of one origin:
(node, incarnation) names a stream, `first` the counter of its first command; apply accepts only the counter after the
last one it saw (architecture.md section 3). Everything that is not a function of the state travels inside: the
origin's clock, hashes of tokens, ids of sessions. Fields are only ever appended, with defaults, so that old bytes stay
readable; a rule that changes an outcome raises FORMAT_VERSION.
"""

import msgspec

from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId

FORMAT_VERSION = 1

CHAT_OP_CLEAR = 0
CHAT_OP_SET_UNREAD = 1
CHAT_OP_DELETE = 2

LIST_DENY = 0
LIST_ALLOW = 1

OP_ADD = 0
OP_REMOVE = 1
OP_SET = 2
OP_CLEAR = 3


class ChannelInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Flags of a channel; for type 1 they belong to the user with that uid. http-api.md 8.1."""

    large: bool = False
    ban: bool = False
    disband: bool = False
    send_ban: bool = False
    allow_stranger: bool = False


class NodeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node that is wanted in the cluster. addr: where its links listen, as host:port. disk: the number of its data
    directory, 0 while it is not known. api_url: for redirects and forwarding, "" for none. leaving: to be removed."""

    addr: str
    disk: int
    api_url: str
    leaving: bool = False


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """One message. `session` is the sending session's number on the origin node, 0 for none. `trusted`: sent by the
    back end, which passes the sender's permission checks (behaviour.md 5.3 row 4). `recipients`: exactly these uids."""

    channel: ChannelId
    is_cmd: bool
    from_uid: str
    payload: bytes
    client_msg_no: str = ""
    flags: int = 0
    setting: int = 0
    expire: int = 0
    topic: str = ""
    session: int = 0
    trusted: bool = False
    recipients: list[str] | None = None


class PutChannel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Create or update a channel. info None: created with all flags off when absent, else left alone.
    reset: the listed members (and those staged under `staged`) replace all others, in this one command.
    chats False: joining makes no conversation (recipients of a temporary channel).
    parts: with reset and staged, the parts that must be there, numbered 1 to parts; if some are not, or others are,
    what was staged under the number is dropped and nothing else changes: reason 15. 0: not looked at."""

    channel: ChannelId
    info: ChannelInfo | None = None
    add: list[str] = []
    reset: bool = False
    staged: int = 0
    chats: bool = True
    parts: int = 0


class StageMembers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A part of a large reset, without effect until a PutChannel with reset names the same `staged` number. part: which
    one, from 1; a repeat counts once. 0: it is not counted."""

    channel: ChannelId
    staged: int
    uids: list[str]
    part: int = 0


class RemoveMembers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    channel: ChannelId
    uids: list[str]


class RemoveAllMembers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    channel: ChannelId


class Disband(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """/channel/delete: only the flag; an unknown channel stays unknown."""

    channel: ChannelId


class UpdateList(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Change the deny or allow list of a channel (type 1: of the user with that uid)."""

    channel: ChannelId
    which: int
    op: int
    uids: list[str] = []


class UpdateChat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Move a user's read position or hide his conversation. behaviour.md 10.4."""

    channel: ChannelId
    uid: str
    op: int
    unread: int = 0


class AdvanceCommands(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Move a user's read position in the command twin forward to seq. contiguous: only if no earlier command for him is
    unconfirmed; else nothing changes."""

    channel: ChannelId
    uid: str
    seq: int
    contiguous: bool = False


class SetToken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    uid: str
    device_flag: int
    token_hash: bytes
    level: int


class QuitDevices(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    uid: str
    device_flags: list[int]


class OpenSession(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """CONNECT. trusted: the origin node checked this login itself (the manager account with its own token)."""

    uid: str
    session: int
    device_flag: int
    device_id: str
    token_hash: bytes
    trusted: bool = False


class CloseSession(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    uid: str
    session: int


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """First command of an incarnation in a slot; taking the incarnation ends the node's older ones."""


class RememberSync(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """What /message/sync handed to a user: the last seq per channel. Replaces what was remembered before."""

    uid: str
    positions: list[tuple[ChannelId, int]]


class TakeSync(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """/message/syncack: answers the remembered positions and forgets them."""

    uid: str


class PutSettings(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Authority slot 0: the cluster settings, to be copied to every slot. initial: only if there are none yet; else
    nothing changes, and the reply has the version of those that count, with `duplicate`."""

    settings: bytes
    initial: bool = False


class UpdateSystemUids(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """Authority slot 0: system accounts, to be copied to every slot. from_datasource: with OP_SET they replace what the
    datasource named before; those that were added stay."""

    op: int
    uids: list[str]
    from_datasource: bool = False


class PutCopy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """A versioned copy of a fact whose authority is another slot; ignored unless version is newer.
    kind: one of the COPY_* numbers of copies.py; key and value as that kind says."""

    kind: int
    version: int
    key: list[str]
    value: bytes


class ForgetOutbox(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The copies of these outbox records are applied everywhere."""

    ids: list[int]


class NodeGone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The node's incarnation is over in this slot, sessions and all, and its packs are fenced from here on. Nothing
    changes unless it is the current one. A node may end its own: what follows in its stream is fenced as well."""

    node: int
    incarnation: int


class PutNode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """Authority slot 0: a wanted node, or its new address. A leaving node stays leaving unless it comes with another
    disk. Reason 15 for one node too many."""

    node: int
    row: NodeRow


class DropNode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """Authority slot 0: the node is to leave. Nothing happens to an unknown one."""

    node: int


class ForgetNode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """Authority slot 0: the node has left every group. Nothing happens to one that is not leaving."""

    node: int


class AdvanceWebhooks(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """The webhook records of a kind are delivered up to this id, or given up (dropped). Never moves back; a limited
    number of records is passed at once, so `webhooks.cursor` says how far it got."""

    kind: int
    upto: int
    dropped: bool = False


class FreezeOffline(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """Who of the recipients had a master session when these records of msg.offline were first looked at. It counts for
    all repeats; a record that has its list already keeps it."""

    ids: list[int]
    online: list[str]


class SweepSessions(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """Go on with deleting the rows of sessions whose incarnation is over, a limited number at once; webhooks report
    their ends. Nothing happens when none are known to be there."""


EVENT_OTHER = 0
EVENT_OPEN = 1
EVENT_DELTA = 2
EVENT_SNAPSHOT = 3
EVENT_CLOSE = 4
EVENT_ERROR = 5
EVENT_CANCEL = 6
EVENT_FINISH = 7


class PostEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """One event of a message that is answered piece by piece (http-api.md 10.1). kind: an EVENT_* number. event_type,
    shown_id, occurred_at (ms) and payload (JSON, empty for none) as given, for the push. from_uid "", message_id 0: not
    given. What the payload says is read where it was received: text is a delta, or the text of a snapshot; content is
    a snapshot (JSON) that is not the payload itself, or with text what is in the snapshot besides it."""

    channel: ChannelId
    client_msg_no: str
    event_key: str
    event_id: str
    event_type: str
    kind: int
    shown_id: str
    from_uid: str = ""
    message_id: int = 0
    visibility: str = ""
    occurred_at: int = 0
    payload: bytes = b""
    text: str | None = None
    content: bytes = b""
    end_reason: int = 0
    error: str = ""


class ImportMessages(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """Messages of another server, with the seq, id and second they had there, in the order of their seqs and without
    a gap: they go on where the log ends. Those the log has already must be the same; then they change nothing."""

    channel: ChannelId
    is_cmd: bool
    messages: list[Message]


class ImportMembers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """Members of another server's channel. It makes no conversation; who is a member already stays as he is."""

    channel: ChannelId
    uids: list[str]


class ImportedChat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A user's conversation as another server had it; seqs beyond the log's end count as its end."""

    uid: str
    read_seq: int
    deleted_seq: int = 0


class ImportChats(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """Conversations of one channel. Positions that are here never move back."""

    channel: ChannelId
    chats: list[ImportedChat]


class RetentionPolicy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a log, each limit for the messages and for the commands of a channel by themselves; 0: no limit.
    All 0: everything is kept."""

    days: int = 0
    count: int = 0
    bytes: int = 0


class PutRetention(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """A channel's policy; None: none of its own. In slot 0 with an empty id: that of all channels of the type which
    have none of their own."""

    channel: ChannelId
    policy: RetentionPolicy | None = None


class Retire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """Delete the messages of a log up to this seq, a limited number at once; the reply says how far it got. Nothing
    happens to what is retired already."""

    channel: ChannelId
    is_cmd: bool
    upto: int


class Erase(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """Make the messages with these seqs say nothing, as far as the user sent them."""

    channel: ChannelId
    is_cmd: bool
    uid: str
    seqs: list[int]


Command = (
    Append
    | PutChannel
    | StageMembers
    | RemoveMembers
    | RemoveAllMembers
    | Disband
    | UpdateList
    | UpdateChat
    | AdvanceCommands
    | SetToken
    | QuitDevices
    | OpenSession
    | CloseSession
    | Hello
    | RememberSync
    | TakeSync
    | PutSettings
    | UpdateSystemUids
    | PutCopy
    | ForgetOutbox
    | NodeGone
    | PutNode
    | DropNode
    | ForgetNode
    | PostEvent
    | AdvanceWebhooks
    | FreezeOffline
    | SweepSessions
    | ImportMessages
    | ImportMembers
    | ImportChats
    | PutRetention
    | Retire
    | Erase
)


class Pack(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Commands of one origin that were proposed together.

    now_ms: the origin's wall clock. done: every reply up to this counter has arrived at the origin, so it need not be
    kept for repeats."""

    node: int
    incarnation: int
    first: int
    done: int
    now_ms: int
    commands: list[Command]


# Reasons of refused events, above those of the wire protocol.
EVENT_LATE = 256
EVENT_TOO_LONG = 257
EVENT_TOO_MANY_LANES = 258


class PostedEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that was taken. seq: of the lane's last stored event, 0 while it has only deltas. status: of the lane,
    see events.py."""

    seq: int
    status: str
    from_uid: str
    message_id: int


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of one command. reason is a reason code of the wire protocol (behaviour.md section 3): 1 = done.
    For Append: message_id, message_seq (0 when not stored) and timestamp (seconds). version: what was copied
    elsewhere under that version (0 = nothing to wait for). level: device level of an opened session."""

    reason: int = 1
    message_id: int = 0
    message_seq: int = 0
    timestamp: int = 0
    version: int = 0
    level: int = 0
    duplicate: bool = False
    positions: list[tuple[ChannelId, int]] | None = None
    event: PostedEvent | None = None


DONE = Reply()

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Pack])
encode_command = _encoder.encode


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def encode_pack(
    node: int, incarnation: int, first: int, done: int, now_ms: int, encoded_commands: list[bytes]
) -> bytes:
    """The bytes of a Pack whose commands were encoded one by one when they were proposed."""
    head = _encoder.encode((node, incarnation, first, done, now_ms))
    # One more element than the five just written: the array of commands.
    return b"\x96" + head[1:] + _array_header(len(encoded_commands)) + b"".join(encoded_commands)


def encode_entry(packs: list[bytes]) -> bytes:
    """One log entry out of packs as `encode_pack` made them."""
    return bytes((FORMAT_VERSION,)) + _array_header(len(packs)) + b"".join(packs)


def decode_entry(data: bytes) -> list[Pack]:
    """Raises ValueError for bytes of a newer format or damaged ones: the node must stop, it would diverge."""
    if not data or data[0] != FORMAT_VERSION:
        raise ValueError(f"log entry of format {data[:1].hex()}: this program knows format {FORMAT_VERSION}")
    return _decoder.decode(memoryview(data)[1:])
