"""Backups made by hand, in a directory of a test."""

import random
from pathlib import Path

from wukong.backup.files import ENTRIES, ROWS, SlotWriter
from wukong.backup.manifest import FORMAT, Backup, Manifest, SlotPart, file_name, read_backup, write_manifest
from wukong.backup.rows import Pair, encode_pairs
from wukong.node.node import APPLIED_KEY

CHUNK = 20


def applied(index: int, term: int) -> Pair:
    return APPLIED_KEY, index.to_bytes(8, "big") + term.to_bytes(8, "big")


def write_file(path: Path, slot: int, kind: int, pairs: list[Pair]) -> SlotPart:
    """index and term are to be replaced by the caller."""
    writer = SlotWriter(path, slot, kind)
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        writer.add(encode_pairs(some), len(some))
    written = writer.close()
    return SlotPart(
        slot=slot,
        index=0,
        term=0,
        kind="rows" if kind == ROWS else "entries",
        file=path.name,
        pairs=written.pairs,
        bytes=written.bytes,
        size_bytes=written.size_bytes,
        digest=written.digest,
    )


def make(
    folder: Path,
    contents: list[tuple[str, int, int, list[Pair]]],
    base: Backup | None = None,
    *,
    number: str = "",
    cluster: str = "c1",
) -> Backup:
    """contents: per slot the kind ("rows" or "entries"), index and term, and the pairs."""
    folder.mkdir(parents=True)
    parts = []
    for slot, (kind, index, term, pairs) in enumerate(contents):
        code = ROWS if kind == "rows" else ENTRIES
        part = write_file(folder / file_name(slot, code), slot, code, pairs)
        before = base.manifest.slots[slot] if base is not None and kind != "rows" else None
        fields = {name: getattr(part, name) for name in part.__struct_fields__}
        fields |= {"index": index, "term": term}
        if before is not None:
            fields |= {"from_index": before.index, "from_term": before.term}
        parts.append(SlotPart(**fields))
    write_manifest(
        folder,
        Manifest(
            format=FORMAT,
            id=number or folder.name,
            base=base.manifest.id if base is not None else "",
            cluster=cluster,
            node=1,
            version="0",
            entries=1,
            began_ms=1,
            at_ms=2,
            slot_count=len(parts),
            slots=parts,
        ),
    )
    return read_backup(folder)


def some_rows(rng: random.Random, count: int) -> list[Pair]:
    return sorted(
        {rng.randbytes(rng.randrange(1, 30)): rng.randbytes(rng.randrange(200)) for _ in range(count)}.items()
    )
