"""From a backup to the data directories of nodes that begin where it stands.

Every slot's rows come under its first generation, and its log begins behind the index they stand for. `node.json` is
written last: no node starts on a directory whose restore did not end.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from wukong.backup.manifest import Backup, Source, chain, read_part, sources
from wukong.backup.mend import mend
from wukong.backup.rows import Pair, read_entry
from wukong.backup.slots import apply_entry, begin_anew
from wukong.channel.commands import FORMAT_VERSION
from wukong.channel.nodes import MAX_NODES
from wukong.channel.state import State
from wukong.errors import DataError
from wukong.limits import MAX_NODE_ID
from wukong.node.node import APPLIED_KEY, read_applied
from wukong.raft.log import Member, Snapshot
from wukong.raft.wal import Wal
from wukong.store import datadir
from wukong.store.datadir import Formation
from wukong.store.generations import slot_prefix
from wukong.store.overlay import Overlay
from wukong.store.rocks import RocksStore

# Rows, or entries, in one batch of the store.
_BATCH_ROWS: Final = 1_000
_BATCH_ENTRIES: Final = 100

Progress = Callable[[int, int], None]
"""(slots that are done, bytes of rows and entries since it was called last)."""


class Target(NamedTuple):
    """A node, and the empty directory that becomes its own."""

    node: int
    directory: Path


def formation_of(cluster: int, nodes: Sequence[int]) -> Formation:
    """A cluster of these nodes. The numbers of their disks follow from the cluster's, so that directories restored in
    several runs, on several machines, are of one cluster. Raises ValueError."""
    if not 1 <= len(set(nodes)) == len(nodes) <= MAX_NODES:
        raise ValueError(f"nodes {', '.join(map(str, nodes))}: 1 to {MAX_NODES} different ones are needed")
    if not all(1 <= node <= MAX_NODE_ID for node in nodes):
        raise ValueError(f"numbers of nodes are 1 to {MAX_NODE_ID}")
    if not 1 <= cluster <= 1 << 62:
        raise ValueError("the number of a cluster is 1 to 2^62")

    def disk(node: int) -> int:
        drawn = blake2b(f"wukong restored disk {cluster} {node}".encode(), digest_size=8).digest()
        return (int.from_bytes(drawn, "big") >> 2) + 1

    return Formation(cluster, tuple((node, disk(node)) for node in sorted(nodes)))


def check_empty(directory: Path) -> None:
    """Raises DataError if a directory is there and holds something."""
    try:
        held = sorted(each.name for each in directory.iterdir() if each.name != "lost+found")
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"cannot use {directory}: {error.strerror}") from error
    if held:
        raise DataError(
            f"{directory} is not empty: it holds {', '.join(held[:5])}. Nothing was changed. Name an empty directory; "
            "what a restore left that did not end may be deleted"
        )


def restore(backup: Backup, target: Target, formation: Formation, progress: Progress = lambda slots, size: None) -> int:
    """Make target's directory that of a node of the formation. Returns how many rows were written. Blocks.

    Raises DataError (not empty, a damaged backup), OSError."""
    manifest = backup.manifest
    _check_format(manifest.entries, backup.path)
    parts = sources(chain(backup))
    directory = target.directory
    check_empty(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    members = tuple(Member(node, disk, True) for node, disk in formation.members)
    count = 0
    with closing(RocksStore(str(directory / "store"))) as store:
        overlay = Overlay(store)
        for slot, source in enumerate(parts):
            count += _restore_slot(overlay, slot, source, partial(progress, slot))
            progress(slot + 1, 0)
        states = [State(slot, overlay.view(slot_prefix(slot, 0)), head_limit=0) for slot in range(len(parts))]
        mend(states)
        for state in states:
            begin_anew(state)
            overlay.commit()
        store.flush()
    ends = [Snapshot(source.last.index, source.last.term, members) for source in parts]
    _write_log(directory / "wal", target.node, ends)
    disk = dict(formation.members)[target.node]
    datadir.found(directory, node_id=target.node, slot_count=manifest.slot_count, disk=disk, formation=formation)
    return count


def _check_format(entries: int, path: Path) -> None:
    if entries > FORMAT_VERSION:
        raise DataError(f"{path} was made by a newer program (format {entries} of the log). Upgrade wukong")


def _restore_slot(overlay: Overlay, slot: int, source: Source, progress: Callable[[int], None]) -> int:
    """How many rows the slot has in its backup."""
    prefix = slot_prefix(slot, 0)
    path, part = source.rows
    count = 0
    for rows in read_part(path, part):
        for batch in _batches(rows, _BATCH_ROWS):
            overlay.store.write({prefix + key: value for key, value in batch})
        count += len(rows)
        progress(sum(len(key) + len(value) for key, value in rows))
    view = overlay.view(prefix)
    _check_applied(view.get(APPLIED_KEY), path, part.index, part.term)
    state = State(slot, view)
    for path, part in source.entries:
        index, term = part.from_index, part.from_term
        for entries in read_part(path, part):
            for batch in _batches(entries, _BATCH_ENTRIES):
                for pair in batch:
                    following, term, command = read_entry(pair)
                    if following != index + 1 or not command:
                        raise DataError(f"{path}: entry {following} follows entry {index}")
                    index = following
                    try:
                        apply_entry(state, index, command)
                    except ValueError as error:
                        raise DataError(f"{path}: entry {index} cannot be applied: {error}") from error
                view.put(APPLIED_KEY, index.to_bytes(8, "big") + term.to_bytes(8, "big"))
                overlay.commit()
            progress(sum(len(key) + len(value) for key, value in entries))
        _check_applied(view.get(APPLIED_KEY), path, part.index, part.term)
    return count


def _check_applied(row: bytes | None, path: Path, index: int, term: int) -> None:
    stands = read_applied(row) if row is not None else None
    if stands != (index, term):
        raise DataError(f"{path} leads to entry {stands}, the manifest says {(index, term)}")


def _batches(pairs: list[Pair], count: int) -> Iterator[list[Pair]]:
    pending = iter(pairs)
    while batch := list(islice(pending, count)):
        yield batch


def _write_log(directory: Path, node: int, ends: Sequence[Snapshot]) -> None:
    """A log in which every group begins behind its snapshot, and no vote was given in that term or a later one."""
    wal = Wal.open(directory, node_id=node, group_count=len(ends))
    try:
        for log, end in zip(wal.logs, ends, strict=True):
            log.setCurrentTerm(end.term, None)
            log.finish_install(end)
            wal.append(log.take_records())
        batch = wal.take()
        assert batch is not None
        wal.write(batch)
    finally:
        wal.close()
