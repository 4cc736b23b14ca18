"""Bytes of format 1 as they were first written: `python -m tests.channel.golden` writes golden_v1.json anew.

Only before the first release, or to add what is new: bytes that some server may have on its disk are never changed.
"""

import json
from pathlib import Path

from wukong.channel.commands import (
    AdvanceCommands,
    Append,
    ChannelInfo,
    CloseSession,
    Command,
    Disband,
    ForgetOutbox,
    Hello,
    OpenSession,
    Pack,
    PutChannel,
    PutCopy,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    SetToken,
    StageMembers,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.copies import COPY_PAIR, COPY_SETTINGS, COPY_SYSTEM_UIDS, COPY_USER
from wukong.channel.ids import ChannelId
from wukong.channel.machine import apply_pack
from wukong.channel.state import Settings, State, encode
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay

FILE = Path(__file__).with_name("golden_v1.json")
SLOT = 3
PREFIX = b"golden"
NOW_MS = 1_700_000_000_123

GROUP = ChannelId(2, "g")
PAIR = ChannelId(1, "bob@alice")

# Each list is one pack, one entry. Every kind of command is there, with its defaults and with every field said.
COMMANDS: list[list[Command]] = [
    [Hello(), PutSettings(encode(Settings(token_auth_on=True, idempotency_retention_ms=60_000)))],
    [PutCopy(COPY_SETTINGS, 1, [], encode(Settings(token_auth_on=True, idempotency_retention_ms=60_000)))],
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


def packs() -> list[Pack]:
    """The packs of the commands: one stream, one second apart."""
    made = []
    first = 1
    for at, commands in enumerate(COMMANDS):
        made.append(Pack(1, 1_700_000_000_000, first, first // 2, NOW_MS + 1_000 * at, commands))
        first += len(commands)
    return made


def entry(pack: Pack) -> bytes:
    encoded = [encode_command(command) for command in pack.commands]
    return encode_entry([encode_pack(pack.node, pack.incarnation, pack.first, pack.done, pack.now_ms, encoded)])


def empty_state(store: MemoryStore) -> State:
    return State(SLOT, Overlay(store).view(PREFIX))


def write() -> None:
    overlay = Overlay(MemoryStore())
    state = State(SLOT, overlay.view(PREFIX))
    replies = [apply_pack(state, index, pack).replies for index, pack in enumerate(packs(), start=1)]
    golden = {
        "entries": [entry(pack).hex() for pack in packs()],
        "replies": [[encode(reply).hex() for reply in some] for some in replies],
        "effects": [encode(effect).hex() for effect in state.effects],
        "rows": {key.hex(): value.hex() for key, value in state.view.scan(b"")},
    }
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write()
