"""Bytes of format 1 as they were first written, in chapters: what came later begins where the rows of the chapter
before end. `python -m tests.channel.golden` writes the chapters that have no file yet.

Bytes that some server may have on its disk are never changed: what is new goes into another chapter.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    ChannelInfo,
    CloseSession,
    Command,
    Disband,
    DropNode,
    Erase,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    Hello,
    ImportChats,
    ImportedChat,
    ImportMembers,
    ImportMessages,
    NodeGone,
    NodeRow,
    OpenSession,
    Pack,
    PostEvent,
    PutChannel,
    PutCopy,
    PutNode,
    PutRetention,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    RetentionPolicy,
    Retire,
    SetToken,
    StageMembers,
    SweepSessions,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.copies import COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS, COPY_USER
from wukong.channel.effects import Message
from wukong.channel.ids import ChannelId
from wukong.channel.machine import apply_pack
from wukong.channel.state import Settings, State, encode
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay

SLOT = 3
PREFIX = b"golden"
NOW_MS = 1_700_000_000_123

GROUP = ChannelId(2, "g")
PAIR = ChannelId(1, "bob@alice")


def settings_of(count: int, **fields: object) -> bytes:
    """Settings as they were written when they had so many fields."""
    settings = msgspec.structs.replace(Settings(), **fields)
    return encode({name: getattr(settings, name) for name in Settings.__struct_fields__[:count]})


# Each list is one pack, one entry. Every kind of command is there, with its defaults and with every field said.
_FIRST: list[list[Command]] = [
    [Hello(), PutSettings(settings_of(14, token_auth_on=True, idempotency_retention_ms=60_000))],
    [PutCopy(COPY_SETTINGS, 1, [], settings_of(14, token_auth_on=True, idempotency_retention_ms=60_000))],
    [UpdateSystemUids(0, ["robot"]), PutCopy(COPY_SYSTEM_UIDS, 2, [], encode(["robot"])), ForgetOutbox([1])],
    [
        PutChannel(GROUP),
        PutChannel(GROUP, ChannelInfo(True, False, False, False, True), ["alice", "bob", "用户"]),
        StageMembers(ChannelId(4, "big"), 9, ["alice", "bob"]),
        PutChannel(ChannelId(4, "big"), None, ["carol"], True, 9),
    ],
    [
        Append(GROUP, False, "alice", b"hello"),
        Append(GROUP, False, "alice", b"again", "no-1", 2, 0x80, 60, "topic", 77, False, None),
        Append(GROUP, True, "bob", b"do", "no-2"),
        Append(GROUP, False, "bob", b"gone", "no-3", 1),
        Append(PAIR, False, "alice", b"hi bob", "no-4"),
        Append(ChannelId(8, "42"), True, "____system", b"for some", trusted=True, recipients=["alice", "dave"]),
        Append(GROUP, False, "nobody", b"refused"),
    ],
    [
        RemoveMembers(GROUP, ["用户"]),
        Append(GROUP, True, "alice", b"after the removal"),
        UpdateList(GROUP, 0, 0, ["bob"]),
        UpdateList(GROUP, 1, 2, ["alice"]),
        UpdateList(ChannelId(1, "bob"), 1, 0, ["alice"]),
        PutCopy(COPY_PAIR, 3, ["bob@alice", "bob", "alice"], b"\x02"),
        PutChannel(ChannelId(1, "mute"), ChannelInfo(send_ban=True)),
        PutCopy(COPY_USER, 4, ["mute"], b"\x01"),
    ],
    [
        UpdateChat(GROUP, "alice", 0),
        UpdateChat(PAIR, "bob", 1, 1),
        UpdateChat(PAIR, "alice", 2),
        AdvanceCommands(GROUP, "alice", 1),
        AdvanceCommands(GROUP, "bob", 2, True),
        RememberSync("alice", [(GROUP, 2), (PAIR, 0)]),
        RememberSync("bob", [(GROUP, 1)]),
        TakeSync("bob"),
    ],
    [
        SetToken("alice", 0, b"hash", 1),
        SetToken("alice", 1, b"other", 0),
        OpenSession("alice", 5, 0, "phone", b"hash"),
        OpenSession("alice", 6, 1, "web", b"other", True),
        OpenSession("alice", 7, 0, "tablet", b"hash"),
        CloseSession("alice", 6),
        QuitDevices("alice", [1]),
        OpenSession("alice", 8, 0, "phone", b"wrong"),
    ],
    [RemoveAllMembers(ChannelId(4, "big")), Disband(ChannelId(4, "big"))],
]
_CLUSTER: list[list[Command]] = [
    [
        PutSettings(settings_of(14), True),
        StageMembers(ChannelId(4, "big"), 10, ["dave"], 1),
        PutChannel(ChannelId(4, "big"), None, ["erin"], True, 10, True, 2),
        StageMembers(ChannelId(4, "big"), 11, ["dave"], 1),
        PutChannel(ChannelId(4, "big"), None, ["erin"], True, 11, False, 1),
        StageMembers(ChannelId(4, "big"), 12, ["frank"], 3),
        PutNode(1, NodeRow("10.0.0.1:11110", 0xFFFF_FFFF_FFFF_FFFF, "http://10.0.0.1:5001")),
        PutNode(2, NodeRow("10.0.0.2:11110", 0, "")),
        PutNode(3, NodeRow("10.0.0.3:11110", 7, "", True)),
        DropNode(2),
        ForgetNode(1),
        ForgetNode(3),
        NodeGone(2, 5),
        OpenSession("carol", 9, 0, "phone", b"", True),
        NodeGone(1, 1_700_000_000_000),
        Append(GROUP, False, "alice", b"fenced"),
    ],
]

_IMPORTS: list[list[Command]] = [
    [Hello()],
    [
        ImportMessages(ChannelId(2, "old"), False, [Message(7 << 22, 1, 2, 0, "alice", "o-1", 1_600_000_000, b"old")]),
        ImportMessages(
            ChannelId(2, "old"),
            True,
            [Message(9 << 22, 1, 4, 0x80, "bob", "", 1_600_000_001, b"do", 60, "topic", None)],
        ),
        ImportMembers(ChannelId(2, "old"), ["alice", "bob"]),
        ImportChats(ChannelId(2, "old"), [ImportedChat("alice", 1), ImportedChat("bob", 0, 1)]),
        Append(ChannelId(2, "old"), False, "alice", b"new"),
    ],
]

_EVENTS: list[list[Command]] = [
    [Hello(), Append(GROUP, False, "bob", b"asks", "s-1", setting=2, trusted=True)],
    [
        PostEvent(GROUP, "s-1", "main", "e1", "stream.delta", 2, "g", payload=b'{"delta":"Hel"}', text="Hel"),
        PostEvent(GROUP, "s-1", "main", "e2", "stream.delta", 2, "g", payload=b'{"delta":"lo"}', text="lo"),
        PostEvent(GROUP, "s-1", "log", "e3", "Stream.Snapshot", 3, "g", "alice", 7, "private", 5, b'{"n":1}'),
        PostEvent(GROUP, "s-1", "log", "e4", "note", 0, "g", payload=b"[]"),
        PostEvent(GROUP, "s-1", "main", "e5", "stream.close", 4, "g", payload=b'{"end_reason":2}', end_reason=2),
        PostEvent(GROUP, "s-1", "main", "e6", "stream.delta", 2, "g", payload=b'{"delta":"!"}', text="!"),
        PostEvent(GROUP, "s-1", "main", "e7", "stream.cancel", 6, "g"),
    ],
    [
        PostEvent(PAIR, "s-2", "main", "e1", "stream.open", 1, "bob", "alice"),
        *[PostEvent(PAIR, "s-2", "main", f"d{n}", "stream.delta", 2, "bob", text=f"{n},") for n in range(40)],
        PostEvent(GROUP, "s-3", "main", "e1", "stream.error", 5, "g", text="t", content=b'{"k":1}', error="boom"),
        PostEvent(GROUP, "s-3", "__finish__", "e2", "stream.finish", 7, "g"),
        PostEvent(GROUP, "s-3", "other", "e3", "stream.delta", 2, "g", text="late"),
    ],
]

_WEBHOOKS: list[list[Command]] = [
    [Hello(), PutCopy(COPY_SETTINGS, 50, [], settings_of(15, webhook_on=True, webhook_backlog_bytes=1 << 20))],
    [
        PutChannel(ChannelId(2, "hooked"), None, ["alice", "bob", "用户"], chats=False),
        Append(ChannelId(2, "hooked"), False, "alice", b"for both kinds"),
        Append(ChannelId(2, "hooked"), True, "bob", b"a command"),
        Append(ChannelId(2, "hooked"), False, "alice", b"not stored", "no-9", 1, 0x80, 60, "topic"),
        Append(ChannelId(11, "alice@bot"), False, "alice", b"to an agent"),
        Append(PAIR, True, "____system", b"by name", trusted=True, recipients=["alice", "dave"]),
    ],
    [
        RemoveMembers(ChannelId(2, "hooked"), ["用户"]),
        RemoveMembers(ChannelId(2, "hooked"), ["bob"]),
        FreezeOffline([1, 2], ["bob"]),
        FreezeOffline([2, 3], []),
        AdvanceWebhooks(1, 2),
        AdvanceWebhooks(2, 1),
        AdvanceWebhooks(2, 2, True),
    ],
    [
        OpenSession("erin", 21, 0, "phone", b""),
        OpenSession("erin", 22, 0, "phone", b""),
        OpenSession("erin", 23, 1, "web", b""),
        OpenSession("frank", 24, 0, "phone", b""),
        CloseSession("erin", 22),
        AdvanceWebhooks(4, 6),
        SweepSessions(),
    ],
]
# Its first command ends the life before, with sessions in it.
_SWEEP: list[list[Command]] = [
    [Hello(), OpenSession("frank", 31, 0, "phone", b"")],
    [SweepSessions(), AdvanceWebhooks(4, 9), AdvanceWebhooks(2, 4), AdvanceWebhooks(1, 9)],
]

_DATASOURCE: list[list[Command]] = [
    [
        UpdateSystemUids(0, ["robot", "both"]),
        UpdateSystemUids(2, ["both", "named"], True),
        UpdateSystemUids(1, ["both"]),
        UpdateSystemUids(2, ["other"], True),
    ],
    [UpdateSystemUids(2, [], True)],
]

_KEPT = ChannelId(2, "kept")
_RETENTION: list[list[Command]] = [
    [
        Hello(),
        PutRetention(_KEPT, RetentionPolicy(30, 1_000, 1 << 40)),
        PutRetention(ChannelId(2, "old"), RetentionPolicy()),
        PutRetention(ChannelId(2, ""), RetentionPolicy(1)),
        PutRetention(ChannelId(3, ""), RetentionPolicy(count=5)),
        PutRetention(ChannelId(3, "")),
    ],
    [
        *[Append(_KEPT, False, uid, f"{uid} writes".encode(), f"k-{uid}", trusted=True) for uid in ("alice", "bob")],
        Append(_KEPT, False, "alice", b"with a topic", "k-2", 2, 0x88, 60, "topic", trusted=True),
        PostEvent(_KEPT, "k-alice", "main", "e1", "stream.delta", 2, "kept", text="goes"),
        PostEvent(_KEPT, "k-2", "main", "e2", "stream.close", 4, "kept", text="goes too"),
        PostEvent(_KEPT, "k-bob", "main", "e3", "stream.delta", 2, "kept", text="stays"),
        Append(_KEPT, True, "bob", b"by name", "k-3", trusted=True, recipients=["alice", "dave"]),
        Append(_KEPT, True, "bob", b"by name again", trusted=True, recipients=["dave"]),
    ],
    [
        Retire(_KEPT, False, 1),
        Retire(_KEPT, True, 1),
        Retire(_KEPT, False, 1),
        Erase(_KEPT, False, "alice", [1, 2, 3, 9]),
        Erase(_KEPT, True, "bob", [2]),
        Retire(ChannelId(2, "old"), False, 1 << 62),
        Retire(ChannelId(2, "old"), True, 1),
        Append(_KEPT, False, "alice", b"with a topic", "k-2", trusted=True),
    ],
]

CHAPTERS = {
    "golden_v1.json": _FIRST,
    "golden_v1_cluster.json": _CLUSTER,
    "golden_v1_imports.json": _IMPORTS,
    "golden_v1_events.json": _EVENTS,
    "golden_v1_webhooks.json": _WEBHOOKS,
    "golden_v1_webhooks_sweep.json": _SWEEP,
    "golden_v1_datasource.json": _DATASOURCE,
    "golden_v1_retention.json": _RETENTION,
}


def path(chapter: str) -> Path:
    return Path(__file__).with_name(chapter)


def load(chapter: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path(chapter).read_text())
    return found


def before(chapter: str) -> str | None:
    """The chapter before, if any."""
    names = list(CHAPTERS)
    return names[names.index(chapter) - 1] if names.index(chapter) else None


def packs(chapter: str) -> dict[int, Pack]:
    """The packs of the commands, by log index: one stream through the first two chapters, one second apart."""
    made = {}
    first = index = 1
    life = 1_700_000_000_000
    for at, (name, lists) in enumerate(CHAPTERS.items()):
        if at > 1:
            # The second chapter ended the node's life.
            first, life = 1, life + 1
        for commands in lists:
            if name == chapter:
                now_ms = NOW_MS + 1_000 * (index - 1)
                made[index] = Pack(1, life, first, first // 2, now_ms, commands)
            first += len(commands)
            index += 1
    return made


def entry(pack: Pack) -> bytes:
    encoded = [encode_command(command) for command in pack.commands]
    return encode_entry([encode_pack(pack.node, pack.incarnation, pack.first, pack.done, pack.now_ms, encoded)])


def state_after(chapter: str | None) -> State:
    """The rows of the file, as a store finds them; None: those of an empty one."""
    rows = {} if chapter is None else load(chapter)["rows"]
    store = MemoryStore({PREFIX + bytes.fromhex(key): bytes.fromhex(value) for key, value in rows.items()})
    return State(SLOT, Overlay(store).view(PREFIX))


def write(chapter: str) -> None:
    state = state_after(before(chapter))
    made = packs(chapter)
    replies = [apply_pack(state, index, pack).replies for index, pack in made.items()]
    golden = {
        "entries": [entry(pack).hex() for pack in made.values()],
        "replies": [[encode(reply).hex() for reply in some] for some in replies],
        "effects": [encode(effect).hex() for effect in state.effects],
        "rows": {key.hex(): value.hex() for key, value in state.view.scan(b"")},
    }
    path(chapter).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    for chapter in CHAPTERS:
        if not path(chapter).exists():
            write(chapter)
