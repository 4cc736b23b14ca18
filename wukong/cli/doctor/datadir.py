"""The data directory: whose it is, who uses it, and whether its log is whole. Changes nothing in it.

What must fit is decided by store/datadir.py and raft/wal.py; this says it without starting a node.
"""

import errno
import fcntl
import json
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, not_checked, size_text
from wukong.config import Config
from wukong.errors import DataError
from wukong.raft.wal import Wal
from wukong.store.datadir import FORMAT

PERMISSIONS: Final = "permissions"
DATA: Final = "data"
LOG: Final = "log"

ENTRIES_LIMIT: Final = 5_000
"""Of the directory; further ones are not looked at."""
NAMED: Final = 3
_OWNER_ALL: Final = stat.S_IRWXU
_OWNER_FILE: Final = stat.S_IRUSR | stat.S_IWUSR


class Entry(NamedTuple):
    """A file or folder; mode: permission bits."""

    path: Path
    uid: int
    mode: int
    is_folder: bool


class Identity(NamedTuple):
    """What node.json says. disk, cluster: 0 for none."""

    node_id: int
    slot_count: int
    disk: int
    cluster: int
    had_log: bool


# -- who uses it


def holder(directory: Path) -> int:
    """pid of the server that runs on the directory; 0 for none, -1 for one whose number is not known.

    Holds a shared lock for some microseconds; a server that starts in just this moment would refuse to."""
    try:
        file = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            return 0
        text = os.pread(file, 32, 0).strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(file)
    return 0


# -- permissions


def look_at_permissions(directory: Path) -> list[Finding]:
    if not directory.exists():
        return [_absent(directory)]
    try:
        entries = list(_entries(directory))
    except OSError as error:
        text = f"{directory} cannot be read by {user_name(os.geteuid())}: {error.strerror}"
        return [Finding(PERMISSIONS, ERROR, text, _as_owner(directory))]
    return judge_permissions(directory, entries, os.geteuid())


def _absent(directory: Path) -> Finding:
    above = directory.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not os.access(above, os.W_OK | os.X_OK):
        text = f"there is no {directory}, and {user_name(os.geteuid())} may not make it in {above}"
        return Finding(PERMISSIONS, ERROR, text, "make it and give it to the server's user, or change the key dataDir")
    return Finding(PERMISSIONS, OK, f"there is no {directory} yet; the first start makes it")


def _entries(directory: Path) -> Iterator[Entry]:
    waiting = [directory]
    found = 0
    while waiting and found < ENTRIES_LIMIT:
        path = waiting.pop()
        try:
            told = path.lstat()
        except FileNotFoundError:
            continue  # files of a running server come and go
        found += 1
        is_folder = stat.S_ISDIR(told.st_mode)
        yield Entry(path, told.st_uid, stat.S_IMODE(told.st_mode), is_folder)
        # The database's own folder is flat, and what cannot be opened is told by its mode.
        if is_folder and (os.access(path, os.R_OK | os.X_OK) or path == directory):
            waiting += path.iterdir()


def judge_permissions(directory: Path, entries: Sequence[Entry], uid: int) -> list[Finding]:
    """entries: the directory first. uid: who asks; root may do everything, so what would stop others is told to it as a
    warning."""
    owner = entries[0].uid
    found: list[Finding] = []
    level = ERROR if uid else WARNING
    if owner != uid:
        text = f"wrong permission: {directory} belongs to {user_name(owner)}, and this runs as {user_name(uid)}"
        found.append(Finding(PERMISSIONS, level, text, _as_owner(directory)))
    others = [entry.path for entry in entries if entry.uid != owner]
    if others:
        text = f"wrong permission: {_named(others)} in {directory} belong to another user than {user_name(owner)}"
        advice = f"chown -R {user_name(owner)} {directory}; was a server or a tool once started as another user?"
        found.append(Finding(PERMISSIONS, ERROR, text, advice))
    closed = [each.path for each in entries if _lacks(each)]
    if closed:
        text = f"wrong permission: {user_name(owner)} may not read and write {_named(closed)}"
        found.append(Finding(PERMISSIONS, level, text, f"chmod -R u+rwX {directory}"))
    if entries[0].mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{directory} is open to other users (mode {entries[0].mode:o}); it holds all messages"
        found.append(Finding(PERMISSIONS, WARNING, text, f"chmod 700 {directory}"))
    return found or [Finding(PERMISSIONS, OK, f"{directory} belongs to {user_name(owner)} alone")]


def _lacks(entry: Entry) -> bool:
    if entry.is_folder:
        return entry.mode & _OWNER_ALL != _OWNER_ALL
    # The database makes some of its files readable only.
    needed = stat.S_IRUSR if "store" in entry.path.parts[-2:-1] else _OWNER_FILE
    return entry.mode & needed != needed


def _as_owner(directory: Path) -> str:
    return f"run the server as the owner of {directory}, or give it away: chown -R USER {directory}"


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _named(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:NAMED])
    return names if len(paths) <= NAMED else f"{names} and {len(paths) - NAMED:,} more"


# -- node.json and the log


def look_at_data(directory: Path, config: Config) -> tuple[Identity | None, list[Finding]]:
    """The identity, if there is a readable one that fits the configuration."""
    path = directory / "node.json"
    restore = "restore it from a backup, or move the directory away and let the node join again with an empty one"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if any((directory / name).exists() for name in ("store", "wal")):
            return None, [Finding(DATA, ERROR, f"{directory} holds data but no node.json: whose is it?", restore)]
        return None, [Finding(DATA, OK, "no data yet")]
    except OSError as error:
        return None, [not_checked(DATA, f"{path}: {error.strerror}")]
    try:
        facts = json.loads(text)
        form = int(facts["format"])
        identity = Identity(
            int(facts["node_id"]),
            int(facts["slot_count"]),
            int(facts.get("disk", 0)),
            int(facts.get("cluster", 0)),
            bool(facts.get("log")),
        )
    except (ValueError, KeyError, TypeError) as error:
        return None, [Finding(DATA, ERROR, f"{path} is damaged ({error})", restore)]
    if form != FORMAT:
        text_ = f"{directory} has format {form}, this program knows format {FORMAT}"
        return None, [Finding(DATA, ERROR, text_, "run the version of wukong that wrote it, or a newer one")]
    faults = judge_identity(directory, identity, config.cluster.node_id, config.wukong.slot_count)
    if faults:
        return None, faults
    return identity, [Finding(DATA, OK, f"data of node {identity.node_id}, disk {identity.disk:x}, format {form}")]


def judge_identity(directory: Path, identity: Identity, node_id: int, slot_count: int) -> list[Finding]:
    found = []
    if identity.node_id != node_id:
        text = f"{directory} belongs to node {identity.node_id}, the configuration says node {node_id}"
        found.append(Finding(DATA, ERROR, text, "correct cluster.nodeId or dataDir"))
    if identity.slot_count != slot_count:
        text = f"{directory} was made with {identity.slot_count} slots, the configuration says {slot_count}"
        found.append(Finding(DATA, ERROR, text, "set wukong.slotCount back; the number is fixed"))
    return found


def look_at_log(directory: Path, identity: Identity) -> Finding:
    """Reads the whole log, as a start would. Not to be used while a server writes it."""
    wal = directory / "wal"
    if not any(wal.glob("*.wal")):
        if identity.had_log:
            text = f"{wal} holds no log, but this node had one: what it promised is not known any more"
            advice = f"move {directory} away and start the node, which joins again; or restore a backup"
            return Finding(LOG, ERROR, text, advice)
        return Finding(LOG, OK, "no log yet")
    try:
        checked = Wal.examine(wal, node_id=identity.node_id, group_count=identity.slot_count)
    except DataError as error:
        return Finding(LOG, ERROR, f"torn or damaged log: {error}", "keep a copy of the directory before anything else")
    except OSError as error:
        return not_checked(LOG, f"{error.filename or wal}: {error.strerror}")
    return judge_log(checked.size_bytes, checked.torn_bytes)


def judge_log(size_bytes: int, torn_bytes: int) -> Finding:
    if not torn_bytes:
        return Finding(LOG, OK, f"the log is whole ({size_text(size_bytes)})")
    text = (
        f"torn log: its last {torn_bytes:,} bytes are an unfinished write, as a power loss or a kill leaves it; the "
        "next start cuts them off. Nothing that was acknowledged is in them"
    )
    advice = "if neither happened, the disk lost data: check it, and compare this node with the others before it serves"
    return Finding(LOG, WARNING, text, advice)


def running_note(pid: int) -> Finding:
    who = f"process {pid}" if pid > 0 else "another process"
    return Finding(DATA, NOTE, f"{who} runs on the data directory, so its log was not read: that is done at each start")
