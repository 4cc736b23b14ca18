"""The disk under the data directory: room, inodes, kind of file system, and how long a write takes to be durable."""

import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, not_checked, size_text
from wukong.limits import GIB, MIB

CHECK: Final = "disk"

FULL_SHARE: Final = 0.02
FULL_BYTES: Final = 64 * MIB  # one segment of the log
LOW_SHARE: Final = 0.1
LOW_BYTES: Final = 2 * GIB

PROBES: Final = 16
PROBE_BYTES: Final = 4_096
PROBE_TIMEOUT_S: Final = 10.0
SLOW_S: Final = 0.02
VERY_SLOW_S: Final = 0.1

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "virtiofs"}
)
_FORGETFUL: Final = frozenset({"tmpfs", "ramfs"})


class Room(NamedTuple):
    """Of a file system, for users that are not root."""

    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


def existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def look_at_room(directory: Path) -> Finding:
    try:
        found = os.statvfs(existing(directory))
    except OSError as error:
        return not_checked(CHECK, f"{directory}: {error.strerror}")
    room = Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_files, found.f_favail)
    return judge_room(directory, room)


def judge_room(directory: Path, room: Room) -> Finding:
    """Inodes are not limited where there are 0 of them."""
    share = room.free_bytes / room.total_bytes if room.total_bytes else 0.0
    advice = (
        "free some or give it a larger disk; a node whose disk is full stops, and its files must not be deleted by hand"
    )
    text = (
        f"the disk of {directory} is {100 * (1 - share):.0f} % full: {size_text(room.free_bytes)} of "
        f"{size_text(room.total_bytes)} are free"
    )
    if room.inodes and room.free_inodes <= FULL_SHARE * room.inodes:
        text = f"the file system of {directory} has {room.free_inodes:,} of {room.inodes:,} inodes left"
        return Finding(CHECK, ERROR, text, "delete small files there that are not wukong's")
    if share <= FULL_SHARE or room.free_bytes < FULL_BYTES:
        return Finding(CHECK, ERROR, text, advice)
    if share <= LOW_SHARE or room.free_bytes < LOW_BYTES:
        return Finding(CHECK, WARNING, text, advice)
    return Finding(CHECK, OK, text)


def look_at_kind(directory: Path) -> Finding:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return not_checked(CHECK, "this system does not tell the kinds of its file systems")
    return judge_kind(directory, kind_of(os.path.realpath(existing(directory)), mounts))


def kind_of(path: str, mountinfo: str) -> str:
    """Kind of the file system of a real path; mountinfo: as in /proc/self/mountinfo. "" if it is not there."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        columns = before.split(" ")
        if len(columns) < 5 or not behind:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), columns[4])
        is_above = path == mount or path.startswith(mount.rstrip("/") + "/")
        # The last one that is mounted at a place covers the others.
        if is_above and len(mount) >= len(best):
            best, kind = mount, behind.split(" ")[0]
    return kind


def judge_kind(directory: Path, kind: str) -> Finding:
    local = "use a disk of this machine (ext4 or xfs)"
    if kind in _NETWORK or kind.startswith("fuse"):
        text = (
            f"{directory} is on {kind}, a file system behind a network or a program: locks and fdatasync may not hold "
            "what they promise there, and acknowledged messages rest on them"
        )
        return Finding(CHECK, WARNING, text, local)
    if kind in _FORGETFUL:
        return Finding(CHECK, WARNING, f"{directory} is on {kind}: a restart of the machine empties it", local)
    if kind == "overlay":
        text = f"{directory} is in the container's own layer: it is lost with the container"
        return Finding(CHECK, NOTE, text, "mount a volume there")
    return (
        Finding(CHECK, OK, f"file system: {kind}") if kind else not_checked(CHECK, "kind of file system is not known")
    )


def look_at_sync(directory: Path) -> Finding:
    """Writes into a nameless file of its own, which is gone afterwards. Blocks for PROBE_TIMEOUT_S and a write."""
    place = existing(directory)
    if not os.access(place, os.W_OK):
        return not_checked(CHECK, f"how fast it writes: this user may not write to {place}")
    try:
        return judge_sync(directory, _probe(place))
    except OSError as error:
        text = f"a test write in {place} failed: {error.strerror}"
        return Finding(CHECK, ERROR, text, "the server would stop at this; repair or replace the disk")


def _probe(place: Path) -> list[float]:
    """Seconds of each durable write."""
    try:
        file = os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        name = place / f".wukong-doctor-{os.getpid()}"
        file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        name.unlink()
    try:
        taken: list[float] = []
        while len(taken) < PROBES and sum(taken) < PROBE_TIMEOUT_S:
            began = time.perf_counter()
            os.write(file, bytes(PROBE_BYTES))
            os.fdatasync(file)
            taken.append(time.perf_counter() - began)
        return taken
    finally:
        os.close(file)


def judge_sync(directory: Path, taken_s: list[float]) -> Finding:
    middle, worst = sorted(taken_s)[len(taken_s) // 2], max(taken_s)
    text = f"a durable write in {directory} takes {1000 * middle:.1f} ms ({1000 * worst:.1f} ms at worst)"
    if middle < SLOW_S:
        return Finding(CHECK, OK, text)
    level = ERROR if middle >= VERY_SLOW_S else WARNING
    return Finding(CHECK, level, f"{text}; every message waits for one", "use a local SSD, or find who else writes")
