"""Question: what does the state machine cost per command, and per read, without the disk?

    python -m benchmarks.channel [--packs N] [--seed N] [--profile]

Prints µs of CPU per command, the median of 3 runs, on one slot over the overlay; of this thread only, so that what
else runs on the machine counts little. Apply means `apply_pack`: rules, rows, the encoded reply in the stream's row,
the slot's row. Decoding the entry and committing the batch to the store are given apart. Packs have 50 commands unless
said; all replies are settled by the next pack but one. Messages have 256 bytes of payload and a client_msg_no. `rocks`
is RocksDB after a checkpoint, so that what is not new lies in SST files, in the block cache. Behind the table: bytes of
a delta of a streamed answer, in its log entry and in the rows of its step. `--profile` shows where the time of an
Append goes (cProfile; it slows small functions down).
"""

import argparse
import cProfile
import itertools
import os
import platform
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

from wukong.channel.commands import (
    EVENT_CLOSE,
    EVENT_DELTA,
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    CloseSession,
    Command,
    OpenSession,
    Pack,
    PostEvent,
    PutChannel,
    PutCopy,
    RemoveAllMembers,
    SetToken,
    UpdateChat,
    decode_entry,
    encode_command,
    encode_entry,
    encode_pack,
)
from wukong.channel.conversations import conversation, conversations_of, pending_commands
from wukong.channel.copies import COPY_SETTINGS
from wukong.channel.ids import ChannelId, person_id
from wukong.channel.machine import apply_pack
from wukong.channel.members import member_page
from wukong.channel.messages import messages_between
from wukong.channel.state import Settings, State, channel_part, encode
from wukong.channel.webhooks import NOTIFY, OFFLINE, pending
from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay
from wukong.store.rocks import RocksStore

PREFIX = b"\x00\x01\x00\x00\x00\x00"
PACK_COMMANDS = 50
MEMBERS = 1_000
GROUPS = 200
RUNS = 3
PAYLOAD = bytes(range(256))

Figures = dict[str, float]


class Slot:
    """One slot and the origin that feeds it."""

    def __init__(self, store: Store) -> None:
        self.overlay = Overlay(store)
        self.state = State(1, self.overlay.view(PREFIX))
        self.counter = 1
        self.settled = 0
        self.index = 0
        self.now_ms = 1_700_000_000_000
        self.keep_open = 2 * PACK_COMMANDS

    def pack(self, commands: list[Command]) -> Pack:
        self.now_ms += 1
        done = max(0, self.counter - 1 - self.keep_open)
        pack = Pack(1, 1, self.counter, done, self.now_ms, commands)
        self.counter += len(commands)
        return pack

    def apply(self, pack: Pack) -> None:
        self.index += 1
        apply_pack(self.state, self.index, pack)

    def end_step(self) -> None:
        self.state.effects.clear()
        self.overlay.commit()


def packs_of(commands: Iterator[Command], count: int, size: int = PACK_COMMANDS) -> list[list[Command]]:
    return [list(itertools.islice(commands, size)) for _ in range(count)]


def measure_apply(slot: Slot, packs: list[list[Command]]) -> tuple[float, float]:
    """µs per command: to apply, and to commit the batch of each pack. Medians of RUNS equal parts."""
    applied, committed = [], []
    part = max(1, len(packs) // RUNS)
    for run in range(RUNS):
        apply_s = commit_s = 0.0
        some = packs[run * part : (run + 1) * part]
        for commands in some:
            pack = slot.pack(commands)
            begin = time.thread_time()
            slot.apply(pack)
            middle = time.thread_time()
            slot.end_step()
            apply_s += middle - begin
            commit_s += time.thread_time() - middle
        count = sum(map(len, some))
        applied.append(apply_s / count * 1e6)
        committed.append(commit_s / count * 1e6)
    return statistics.median(applied), statistics.median(committed)


def median_us(run: Callable[[], object], operations: int) -> float:
    seconds = []
    for _ in range(RUNS):
        begin = time.thread_time()
        run()
        seconds.append(time.thread_time() - begin)
    return statistics.median(seconds) / operations * 1e6


class Load:
    """The commands that are measured."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.members = [f"user{number:06}" for number in range(MEMBERS)]
        self.group = ChannelId(2, "group of a thousand")
        self.groups = [ChannelId(2, f"group {number}") for number in range(GROUPS)]
        self.numbers = itertools.count()

    def number(self) -> str:
        return f"{next(self.numbers):032x}"

    def append(self, channel: ChannelId, uid: str, number: str | None = None, *, is_cmd: bool = False) -> Append:
        text = self.number() if number is None else number
        return Append(channel, is_cmd, uid, PAYLOAD, text, session=7)

    def setup(self, slot: Slot) -> None:
        commands: list[Command] = [PutChannel(self.group, None, self.members)]
        commands += [PutChannel(group, None, self.members[:10]) for group in self.groups]
        commands += [SetToken(uid, 0, b"h" * 32, 1) for uid in self.members]
        for command in commands:
            slot.apply(slot.pack([command]))
        slot.end_step()

    def in_group(self) -> Iterator[Command]:
        while True:
            yield self.append(self.group, self.random.choice(self.members))

    def in_groups(self) -> Iterator[Command]:
        while True:
            yield self.append(self.random.choice(self.groups), self.random.choice(self.members[:10]))

    def between_persons(self, count: int) -> Iterator[Command]:
        """count: pairs; of so many that they hardly repeat, every message is their first."""
        seen = [self.random.sample(self.members, 2) for _ in range(count)]
        while True:
            a, b = self.random.choice(seen)
            yield self.append(ChannelId(1, person_id(a, b)), a)

    def without_number(self) -> Iterator[Command]:
        while True:
            yield self.append(self.group, self.random.choice(self.members), "")

    def refused(self) -> Iterator[Command]:
        while True:
            yield self.append(self.group, "a stranger")

    def repeated(self) -> Iterator[Command]:
        """Each twice."""
        while True:
            command = self.append(self.group, self.random.choice(self.members))
            yield command
            yield command

    def to_twin(self) -> Iterator[Command]:
        while True:
            yield self.append(self.group, self.random.choice(self.members), is_cmd=True)

    def delta(self, number: str, text: str) -> PostEvent:
        payload = b'{"kind":"text","delta":"%s"}' % text.encode()
        event_id = f"event-{next(self.numbers)}"
        return PostEvent(
            self.group, number, "main", event_id, "stream.delta", EVENT_DELTA, self.group.id, payload=payload, text=text
        )

    def deltas(self) -> Iterator[Command]:
        """Of 50 answers at once, ten characters each."""
        numbers = [self.number() for _ in range(50)]
        for number in itertools.cycle(numbers):
            yield self.delta(number, "ten chars.")

    def logins(self) -> Iterator[Command]:
        """A user on three devices; each further login ends the one before."""
        for number in itertools.count():
            yield OpenSession(self.members[number % MEMBERS], number, number % 3, "device", b"h" * 32)

    def log_in_and_out(self) -> Iterator[Command]:
        for number in itertools.count(1 << 32):
            yield OpenSession(f"guest {number}", number, 0, "device", b"")
            yield CloseSession(f"guest {number}", number)

    def reads(self) -> Iterator[Command]:
        while True:
            yield UpdateChat(self.group, self.random.choice(self.members), 0)

    def confirmations(self) -> Iterator[Command]:
        while True:
            yield AdvanceCommands(self.group, self.random.choice(self.members), 1 << 40)


def measure(store: Store, packs: int, seed: int, before_reads: Callable[[], None]) -> Figures:
    load = Load(seed)
    slot = Slot(store)
    load.setup(slot)
    before_reads()
    figures: Figures = {}

    def put(name: str, commands: Iterator[Command], count: int = packs, size: int = PACK_COMMANDS) -> None:
        figures[name], commit = measure_apply(slot, packs_of(commands, count, size))
        if name.startswith("Append in a group of 1,000"):
            figures[f"  its commit in packs of {size}"] = commit

    put("Append in a group of 1,000", load.in_group())
    put("Append in a group of 1,000, packs of 1", load.in_group(), packs * 5, 1)
    put("Append in one of 200 groups", load.in_groups())
    put("Append between 200 pairs of persons", load.between_persons(200))
    put("Append, first message of two persons", load.between_persons(1_000_000))
    put("Append without client_msg_no", load.without_number())
    put("Append to the command twin", load.to_twin())
    put("Append, refused (3)", load.refused())
    put("Append, every second a duplicate", load.repeated())
    slot.keep_open = 5_000
    put("Append with 5,000 open replies", load.in_group(), max(packs, 150))
    slot.keep_open = 2 * PACK_COMMANDS
    put("PostEvent, a delta of 10 characters", load.deltas())
    put("OpenSession, second device of its kind", load.logins())
    put("OpenSession and CloseSession, each", load.log_in_and_out())
    put("UpdateChat (clearUnread)", load.reads())
    put("AdvanceCommands", load.confirmations())
    channels = (ChannelId(2, f"new {number}") for number in itertools.count())
    put("PutChannel of 1,000 new members", (PutChannel(c, None, load.members) for c in channels), RUNS * 4, 1)
    swapped = itertools.cycle([load.members[:500], load.members[500:]])
    resets = (PutChannel(load.group, None, uids, True) for uids in swapped)
    put("PutChannel, reset from 500 to 500 others", resets, RUNS * 4, 1)
    rejoins: Iterator[Command] = itertools.cycle(
        [RemoveAllMembers(load.group), PutChannel(load.group, None, load.members)]
    )
    put("RemoveAllMembers and PutChannel of 1,000, each", rejoins, RUNS * 4, 1)
    figures |= measure_reads(slot, load)
    entry = next(iter(packs_of(load.in_group(), 1)))
    encoded = [encode_command(command) for command in entry]
    data = encode_entry([encode_pack(1, 1, 1, 0, slot.now_ms, encoded)])
    figures["decode an entry, per Append"] = median_us(lambda: [decode_entry(data) for _ in range(100)], 5_000)
    figures |= measure_webhooks(slot, load, packs)
    return figures


def measure_webhooks(slot: Slot, load: Load, packs: int) -> Figures:
    """The same messages without and with webhooks, in turns, so that both meet the same machine; then delivering them:
    100 in a command, once for each kind."""
    figures: Figures = {}
    for name, number in itertools.product(("Append", "its commit"), range(2)):
        figures[f"{name} {'with' if number else 'without'} webhooks"] = 0.0
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for turn in range(2 * RUNS):
        on = turn % 2 == 1
        slot.apply(slot.pack([PutCopy(COPY_SETTINGS, 1 + turn, [], encode(Settings(webhook_on=on)))]))
        slot.end_step()
        found[on].append(measure_apply(slot, packs_of(load.in_groups(), packs)))
    for on, word in ((False, "without"), (True, "with")):
        figures[f"Append {word} webhooks"] = statistics.median(apply for apply, _ in found[on])
        figures[f"its commit {word} webhooks"] = statistics.median(commit for _, commit in found[on])
    for name in ("Append", "its commit"):
        ratio = figures[f"{name} with webhooks"] / figures[f"{name} without webhooks"]
        figures[f"  ratio of {name}"] = ratio
    last = slot.state.slot_row.webhooks.last
    ends = range(100, min(last, 100 * packs) + 1, 100)
    for kind in (NOTIFY, OFFLINE):
        advances = [[AdvanceWebhooks(kind, upto)] for upto in ends]
        apply, commit = measure_apply(slot, [list[Command](some) for some in advances])
        figures[f"AdvanceWebhooks({kind}) of 100, per message"] = apply / 100
        figures[f"  its commit, per message ({kind})"] = commit / 100
    behind = max(ends)
    figures["pending webhooks, per record of 100"] = median_us(
        lambda: [pending(slot.state, NOTIFY, after=behind, limit=100) for _ in range(10)], 1_000
    )
    return figures


def measure_reads(slot: Slot, load: Load) -> Figures:
    state, part = slot.state, channel_part(load.group)
    uids = load.members[:200]
    few = load.members[:10]

    def recents() -> None:
        for uid in uids:
            conversation(state, load.group, uid, after_seq=0, unread_only=False, count=15)

    return {
        "conversation with 15 messages": median_us(recents, len(uids)),
        "conversations_of, per conversation": median_us(
            lambda: [conversations_of(state, uid) for uid in few], sum(len(conversations_of(state, uid)) for uid in few)
        ),
        "pending_commands, 200 of them": median_us(
            lambda: [pending_commands(state, uid, limit=200) for uid in few], len(few)
        ),
        "messages_between, 100": median_us(
            lambda: [messages_between(state, part, is_cmd=False, first=50, last=149, limit=100) for _ in few], len(few)
        ),
        "member_page, 1,000": median_us(lambda: [member_page(state, part) for _ in few], len(few)),
    }


def measure_stream(characters: int, deltas: int) -> str:
    """What a text costs that comes in so many deltas, each in a step of its own, and then a close."""
    load = Load(1)
    slot = Slot(MemoryStore())
    load.setup(slot)
    slot.keep_open = 1
    number = load.number()
    slot.apply(slot.pack([load.append(load.group, load.members[0], number)]))
    slot.end_step()
    rows = slot_rows = largest = entries = 0
    for _ in range(deltas):
        command = load.delta(number, "x" * (characters // deltas))
        pack = slot.pack([command])
        entries += len(encode_entry([encode_pack(1, 1, pack.first, pack.done, pack.now_ms, [encode_command(command)])]))
        slot.apply(pack)
        sizes = {key: len(key) + len(value or b"") for key, value in slot.overlay.changes.items()}
        own = sum(size for key, size in sizes.items() if key[len(PREFIX) :][:1] in b"vTE")
        rows += own
        largest = max(largest, own)
        slot_rows += sum(sizes.values()) - own
        slot.end_step()
    slot.apply(slot.pack([PostEvent(load.group, number, "main", "end", "stream.close", EVENT_CLOSE, load.group.id)]))
    close = sum(len(key) + len(value or b"") for key, value in slot.overlay.changes.items())
    return (
        f"{characters:,} characters in {deltas:,} deltas, bytes each: log entry {entries // deltas}, rows of the lane "
        f"{rows // deltas} (at most {largest:,}), rows of slot and stream {slot_rows // deltas}; the close {close:,}"
    )


def profile(packs: int, seed: int) -> None:
    load = Load(seed)
    slot = Slot(MemoryStore())
    load.setup(slot)
    made = [slot.pack(commands) for commands in packs_of(load.in_group(), packs)]
    profiler = cProfile.Profile()
    for pack in made:
        profiler.enable()
        slot.apply(pack)
        profiler.disable()
        slot.end_step()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(22)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.packs} packs, seed {arguments.seed}")
    if arguments.profile:
        profile(arguments.packs, arguments.seed)
        return
    table = {"memory": measure(MemoryStore(), arguments.packs, arguments.seed, lambda: None)}
    with tempfile.TemporaryDirectory() as directory:
        rocks = RocksStore(os.path.join(directory, "db"))
        table["rocks"] = measure(
            rocks, arguments.packs, arguments.seed, lambda: rocks.checkpoint(os.path.join(directory, "copy"))
        )
        rocks.close()
    width = max(map(len, table["memory"])) + 2
    print("µs".ljust(width) + "".join(name.rjust(12) for name in table))
    for name in table["memory"]:
        print(name.ljust(width) + "".join(f"{figures[name]:.2f}".rjust(12) for figures in table.values()))
    for characters, deltas in ((10_000, 1_000), (10_000, 100), (1_000_000, 100_000)):
        print(measure_stream(characters, deltas))


if __name__ == "__main__":
    main()
