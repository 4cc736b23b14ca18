"""What a backup says of itself, and the backups of a directory.

    DIR/<time>/manifest.json     written last: a folder without it is no backup
    DIR/<time>/slot-000.rows     every row of the slot as of one index of its log
    DIR/<time>/slot-000.log      of an incremental backup: the entries of the log since the index of its base

The manifest names every file with its size and digest, and ends with a digest over all that stands before it.
"""

import os
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from wukong.backup.files import ADVICE, ENTRIES, ROWS, Written, read_slot
from wukong.errors import DataError
from wukong.limits import MAX_SLOT_COUNT

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
UNFINISHED: Final = ".unfinished"
MANIFEST_LIMIT_BYTES: Final = 4 << 20
# A restore reads every backup of a chain; who makes more than this many without a full one is told to.
KINDS: Final = ("rows", "entries")
CHAIN_LIMIT: Final = 1_000

_SEAL: Final = b',"digest":"'
_END: Final = b'"}\n'


class SlotPart(msgspec.Struct, frozen=True, kw_only=True):
    """A slot at `index` of its log, whose entry has `term`. kind: "rows", all of them; or "entries", those of the log
    behind from_index (with from_term), which is where the base has the slot. pairs: rows or entries; bytes: of them."""

    slot: int
    index: int
    term: int
    kind: str
    file: str
    pairs: int
    bytes: int
    size_bytes: int
    digest: str
    from_index: int = 0
    from_term: int = 0

    @property
    def number(self) -> int:
        return ROWS if self.kind == "rows" else ENTRIES

    @property
    def written(self) -> Written:
        return Written(self.pairs, self.bytes, self.size_bytes, self.digest)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """id: of this backup, hex. base: of the one it builds on, "" for none. cluster: its number, hex. node: who gave it.
    began_ms: everything that was acknowledged before is in it. at_ms: everything in it was there by then.
    version: of the program; entries: format of the log's entries (raft and channel)."""

    format: int
    id: str
    base: str
    cluster: str
    node: int
    version: str
    entries: int
    began_ms: int
    at_ms: int
    slot_count: int
    slots: list[SlotPart]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.slots)

    @property
    def pairs(self) -> int:
        return sum(part.pairs for part in self.slots)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.slots)


class Backup(NamedTuple):
    path: Path
    manifest: Manifest


def file_name(slot: int, kind: int) -> str:
    return f"slot-{slot:03d}.{'rows' if kind == ROWS else 'log'}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Durable when it returns, with the folder's names. Blocks."""
    body = msgspec.json.encode(manifest)[:-1]
    temporary = folder / f"{MANIFEST}.tmp"
    with temporary.open("wb") as file:
        file.write(body + _SEAL + blake2b(body, digest_size=32).hexdigest().encode() + _END)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST)
    sync_directory(folder)


def read_backup(folder: Path) -> Backup:
    """Raises DataError: no backup, damaged, or of another format."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} is no backup: {MANIFEST} is missing, which is written last") from None
    body, seal, rest = content.rpartition(_SEAL)
    if not seal or rest != blake2b(body, digest_size=32).hexdigest().encode() + _END:
        raise DataError(f"{path}: byte 0 to {len(content)}: damaged, its digest is another one. {ADVICE}")
    try:
        found = msgspec.json.decode(body + b"}", type=Manifest)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} cannot be read: {error}. Upgrade wukong, or take the version that wrote it") from error
    if found.format != FORMAT:
        raise DataError(f"{path} has format {found.format}; this program knows format {FORMAT}. Upgrade wukong")
    if not 0 < found.slot_count <= MAX_SLOT_COUNT or [each.slot for each in found.slots] != [*range(found.slot_count)]:
        raise DataError(f"{path} does not name every slot once")
    if any(part.kind not in KINDS or part.file != file_name(part.slot, part.number) for part in found.slots):
        raise DataError(f"{path} names files that no backup has")
    return Backup(folder, found)


class Found(NamedTuple):
    """A folder below DIR: a backup, or why it is none."""

    name: str
    backup: Backup | None
    fault: str


def list_backups(directory: Path) -> list[Found]:
    """Every folder of a directory, oldest first. Raises DataError if there is no such directory."""
    if not directory.is_dir():
        raise DataError(f"there is no directory {directory}")
    found = []
    for folder in sorted(each for each in directory.iterdir() if each.is_dir()):
        if folder.name.endswith(UNFINISHED):
            found.append(Found(folder.name, None, "was not finished; it may be deleted"))
            continue
        try:
            found.append(Found(folder.name, read_backup(folder), ""))
        except DataError as error:
            found.append(Found(folder.name, None, str(error)))
    return found


def choose(directory: Path) -> Backup:
    """A backup by its own folder, or the newest of a directory of them. Raises DataError, also when the newest folder
    is none: who asks for the newest must not get an older one unasked."""
    if (directory / MANIFEST).exists():
        return read_backup(directory)
    found = [each for each in list_backups(directory) if not each.name.endswith(UNFINISHED)]
    if not found:
        raise DataError(f"{directory} holds no backup")
    newest = found[-1]
    if newest.backup is None:
        raise DataError(f"the newest backup cannot be used: {newest.fault}")
    return newest.backup


def chain(backup: Backup) -> list[Backup]:
    """A backup and what it builds on, the full one first. They lie beside each other. Raises DataError."""
    found = [backup]
    beside: dict[str, Backup] | None = None
    while base := found[-1].manifest.base:
        if beside is None:
            every = list_backups(backup.path.absolute().parent)
            beside = {each.backup.manifest.id: each.backup for each in every if each.backup is not None}
        if base not in beside or len(found) > CHAIN_LIMIT:
            raise DataError(
                f"{found[-1].path} builds on backup {base}, which is not beside it, or damaged. "
                "Put it back there, or take a full backup"
            )
        found.append(beside[base])
    found.reverse()
    for earlier, later in pairwise(found):
        _check_link(earlier, later)
    return found


def _check_link(base: Backup, later: Backup) -> None:
    if (base.manifest.cluster, base.manifest.slot_count) != (later.manifest.cluster, later.manifest.slot_count):
        raise DataError(f"{later.path} and its base {base.path} are of two clusters")
    for before, part in zip(base.manifest.slots, later.manifest.slots, strict=True):
        if part.kind != "rows" and (part.from_index, part.from_term) != (before.index, before.term):
            raise DataError(f"{later.path}: slot {part.slot} does not go on where {base.path} ends")


class Source(NamedTuple):
    """What a slot is rebuilt from: its rows, then entries, in this order."""

    rows: tuple[Path, SlotPart]
    entries: list[tuple[Path, SlotPart]]

    @property
    def last(self) -> SlotPart:
        return self.entries[-1][1] if self.entries else self.rows[1]

    @property
    def parts(self) -> list[tuple[Path, SlotPart]]:
        return [self.rows, *self.entries]


def sources(backups: list[Backup]) -> list[Source]:
    """Of every slot of a chain. Raises DataError if a slot has no rows."""
    found = []
    for slot in range(backups[-1].manifest.slot_count):
        parts = [(each.path / each.manifest.slots[slot].file, each.manifest.slots[slot]) for each in backups]
        full = [at for at, (_, part) in enumerate(parts) if part.kind == "rows"]
        if not full:
            raise DataError(f"{backups[0].path}: slot {slot} has no rows to begin with")
        found.append(Source(parts[full[-1]], parts[full[-1] + 1 :]))
    return found


def read_part(path: Path, part: SlotPart) -> Iterator[list[tuple[bytes, bytes]]]:
    """The pairs of a file, checked against the manifest. Raises DataError."""
    return read_slot(path, part.slot, part.number, part.written)


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
