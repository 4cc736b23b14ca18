"""The data directory of one node: who may use it and what was fixed when it was made.

Layout: `node.json` (format, node id, slot count, disk, formation), `lock` (held while the process lives), `store/`
(RocksDB) and `wal/` (log). The disk is a random number that this directory was given when it was made; the formation
says which nodes, on which disks, the cluster began with (docs/design/cluster.md, 1).
"""

import contextlib
import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from wukong.errors import DataError

FORMAT = 1


class Formation(NamedTuple):
    """How a cluster began: its number, and the (node, disk) pairs that were its first voters."""

    cluster: int
    members: tuple[tuple[int, int], ...]


def new_number() -> int:
    """For a disk or a cluster: never 0, and never the same twice."""
    return secrets.randbits(62) + 1


class DataDir:
    """Open the directory for this process, making it when absent. node_id and slot_count must be those it was made
    with. Raises DataError when another process holds it, when it belongs to another node, or cannot be used.

    slot_count: of the files; a differing configuration is refused, because rows and log entries are cut by it.
    disk: this directory's number. formation: None until `form`: the node belongs to no cluster yet. starts: how often
    it was opened, this time included."""

    disk: int
    starts: int
    formation: Formation | None

    def __init__(self, path: Path, *, node_id: int, slot_count: int) -> None:
        self.path = path
        self.store = path / "store"
        self.wal = path / "wal"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataError(
                f"cannot use the data directory {path}: {error.strerror}. Choose another one (key dataDir) "
                "or give this user the right to write there"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise DataError(
                f"the data directory {path} is in use by another wukong process{f' (pid {holder})' if holder else ''}. "
                "Stop it first, or start this one with another directory (key dataDir)"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            self._check(node_id, slot_count)
            self.wal.mkdir(mode=0o700, exist_ok=True)
        except BaseException:
            self.close()
            raise

    def _check(self, node_id: int, slot_count: int) -> None:
        name = self.path / "node.json"
        if not name.exists():
            if self.store.exists() or any(self.path.glob("wal/*")):
                raise DataError(
                    f"{self.path} holds data but no node.json, so it is not known whose it is. "
                    "Restore node.json from a backup, or start with an empty directory"
                )
            self.disk, self.formation = new_number(), None
            self._facts: dict[str, object] = {
                "format": FORMAT,
                "node_id": node_id,
                "slot_count": slot_count,
                "disk": self.disk,
                "starts": 1,
            }
            self.starts = 1
            _write_durably(name, self._facts)
            return
        try:
            facts = json.loads(name.read_text())
            self._facts = facts
            made_by = int(facts["format"]), int(facts["node_id"]), int(facts["slot_count"])
            self.disk = int(facts.get("disk", 0))
            self.formation = None
            if "cluster" in facts:
                members = tuple((int(node), int(disk)) for node, disk in facts["members"])
                self.formation = Formation(int(facts["cluster"]), members)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{name} cannot be read ({error}). Restore it from a backup") from error
        if made_by[0] != FORMAT:
            raise DataError(f"{self.path} has format {made_by[0]}; this program knows format {FORMAT}. Upgrade wukong")
        if made_by[1] != node_id:
            raise DataError(
                f"{self.path} belongs to node {made_by[1]}, this configuration says node {node_id} (key cluster.nodeId)"
            )
        if made_by[2] != slot_count:
            raise DataError(
                f"{self.path} was made with {made_by[2]} slots, this configuration says {slot_count} (keys "
                "wukong.slotCount, cluster.slotCount). The number is fixed when the directory is made"
            )
        if facts.get("log") and not any(self.wal.glob("*.wal")):
            raise DataError(
                f"{self.wal} holds no log, but this node had one: what it promised the others is not known any more. "
                f"Move the whole directory {self.path} away and start the node, which then joins again; or restore a "
                "backup"
            )
        if self.formation is None and any(self.wal.glob("*.wal")) and "disk" not in facts:
            # Made before directories had numbers, by a node alone.
            self.form(Formation(new_number(), ((node_id, 0),)))
        self.starts = int(facts.get("starts", 0)) + 1
        self._facts = {**self._facts, "starts": self.starts}
        _write_durably(name, self._facts)

    def promise(self) -> None:
        """To be called when there is a log, before anything in it is promised to others: from here on a directory
        without a log is refused. Blocks for two syncs; once in a directory's life."""
        if not self._facts.get("log"):
            facts = {**self._facts, "log": True}
            _write_durably(self.path / "node.json", facts)
            self._facts = facts

    def form(self, formation: Formation) -> None:
        """Belong to a cluster from now on, durably. Blocks for two syncs; once in a directory's life."""
        assert self.formation is None
        facts = {**self._facts, "cluster": formation.cluster, "members": [list(pair) for pair in formation.members]}
        _write_durably(self.path / "node.json", facts)
        self._facts, self.formation = facts, formation

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._lock)


def found(path: Path, *, node_id: int, slot_count: int, disk: int, formation: Formation) -> None:
    """Make a directory with a store and a log in it, both whole and durable, the data directory of a node. Until this
    has returned no node starts on it. Blocks for two syncs."""
    members = [list(pair) for pair in formation.members]
    facts: dict[str, object] = {"format": FORMAT, "node_id": node_id, "slot_count": slot_count, "disk": disk}
    facts |= {"starts": 0, "log": True, "cluster": formation.cluster, "members": members}
    _write_durably(path / "node.json", facts)


def _write_durably(name: Path, facts: dict[str, object]) -> None:
    temporary = name.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(name)
    directory = os.open(name.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
