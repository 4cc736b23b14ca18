"""What may change the state: the commands of the log, their pack, and their replies.

An entry of the log is one byte of format version and a msgpack array of packs. A pack holds commands of one origin:
(node, incarnation) names a stream, `first` the counter of its first command; apply accepts only the counter after the
last one it saw (architecture.md section 3). Everything that is not a function of the state travels inside: the
origin's clock, hashes of tokens, ids of sessions. Fields are only ever appended, with defaults, so that old bytes stay
readable; a rule that changes an outcome raises FORMAT_VERSION.
"""

import msgspec

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
    """Authority slot 0: system accounts, to be copied to every slot."""

    op: int
    uids: list[str]


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
