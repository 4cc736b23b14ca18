from pathlib import Path

import pytest

from wukong.cli.doctor import disk
from wukong.cli.doctor.disk import Room, judge_kind, judge_room, judge_sync, kind_of
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING
from wukong.limits import GIB, MIB

HOME = Path("/data")
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
30 22 0:40 / /data rw - nfs4 server:/x rw
31 30 0:41 / /data/fast rw - xfs /dev/sdb rw
32 22 0:42 / /with\\040space rw - tmpfs none rw
33 22 0:43 / /data/fast rw - btrfs /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [(500 * GIB, OK), (99 * GIB, WARNING), (10 * GIB, ERROR), (0, ERROR)],
)
def test_a_disk_that_fills_is_told_in_time(free_bytes: int, level: str) -> None:
    found = judge_room(HOME, Room(1000 * GIB, free_bytes, 1_000, 900))
    assert found.level == level
    assert bool(found.advice) == (level != OK)


def test_a_disk_that_is_99_percent_full_is_an_error_that_says_so() -> None:
    found = judge_room(HOME, Room(100 * GIB, GIB, 0, 0))
    assert (found.level, "99 % full" in found.text) == (ERROR, True)


def test_a_small_disk_is_judged_by_bytes_too() -> None:
    assert judge_room(HOME, Room(4 * GIB, GIB, 0, 0)).level == WARNING
    assert judge_room(HOME, Room(100 * MIB, 50 * MIB, 0, 0)).level == ERROR


def test_inodes_run_out_too_and_some_file_systems_have_none() -> None:
    found = judge_room(HOME, Room(1000 * GIB, 900 * GIB, 1_000, 10))
    assert (found.level, "inodes" in found.text) == (ERROR, True)
    assert judge_room(HOME, Room(1000 * GIB, 900 * GIB, 0, 0)).level == OK


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data", "nfs4"),
        ("/data/x/y", "nfs4"),
        ("/data/fast/x", "btrfs"),
        ("/with space/x", "tmpfs"),
    ],
)
def test_the_innermost_and_latest_mount_counts(path: str, kind: str) -> None:
    assert kind_of(path, MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "level"),
    [("ext4", OK), ("xfs", OK), ("nfs", WARNING), ("nfs4", WARNING), ("cifs", WARNING), ("fuse.sshfs", WARNING),
     ("tmpfs", WARNING), ("overlay", NOTE), ("", NOTE)],
)  # fmt: skip
def test_network_and_memory_file_systems_are_warned_of(kind: str, level: str) -> None:
    assert judge_kind(HOME, kind).level == level


def test_slow_durable_writes_are_told_by_their_middle() -> None:
    assert judge_sync(HOME, [0.001, 0.002, 0.5]).level == OK
    assert judge_sync(HOME, [0.03, 0.03, 0.03]).level == WARNING
    assert judge_sync(HOME, [0.2, 0.2, 0.2]).level == ERROR


def test_the_probe_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "takes" in disk.look_at_sync(tmp_path).text
    monkeypatch.setattr(disk.os, "O_TMPFILE", 0o40000000)  # as where a file system has no nameless files
    assert "takes" in disk.look_at_sync(tmp_path).text
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    assert disk.look_at_room(tmp_path / "a").check == "disk"
    assert disk.look_at_kind(tmp_path / "a").check == "disk"
