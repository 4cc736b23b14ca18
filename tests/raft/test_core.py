"""What we know of the core is pinned: another syncobj.py is another core."""

import hashlib
import inspect
import os
import pickle
import random
import re
import threading
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as syncobj
import pytest
from pysyncobj.version import VERSION

from tests.raft.hand_cluster import CONFIG, HandCluster, voters
from wukong.raft.core import PRIVATE_NAMES, PYSYNCOBJ_VERSION, SYNCOBJ_SHA256, RaftGroup
from wukong.raft.log import Change, GroupLog


def test_the_core_is_the_reviewed_one() -> None:
    assert VERSION == PYSYNCOBJ_VERSION
    assert hashlib.sha256(Path(syncobj.__file__).read_bytes()).hexdigest() == SYNCOBJ_SHA256


def test_every_private_name_that_is_touched_exists_and_is_listed() -> None:
    source = inspect.getsource(inspect.getmodule(RaftGroup))  # type: ignore[arg-type]
    core = Path(syncobj.__file__).read_text()
    listed = {name for names in PRIVATE_NAMES.values() for name in names}
    used = set(re.findall(r"_SyncObj__(\w+)", source))
    assert used == listed
    for name in listed:
        assert f"__{name}" in core, name
    for name in PRIVATE_NAMES["override"]:
        assert f"def __{name}(" in core, name


def group(node_id: int = 1, others: tuple[int, ...] = ()) -> RaftGroup:
    log = GroupLog(0)
    log.set_members(voters(node_id, *others))
    return RaftGroup(node_id, log, 1, CONFIG, random.Random(0), 0.0)


def test_64_groups_open_no_files_and_start_no_threads() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = threading.active_count()
    groups = [group() for _ in range(64)]
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert (after, threading.active_count()) == (before, threads)
    assert len(groups) == 64


def test_nothing_is_pickled_by_a_cluster_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle")

    for module in (pysyncobj.pickle, pickle):
        for name in ("dumps", "loads", "dump", "load"):
            monkeypatch.setattr(module, name, forbidden)
    cluster = HandCluster()
    cluster.elect(1)
    cluster.settle()
    cluster.propose(1, b"a", b"x" * 200_000)
    cluster.settle()
    assert cluster[1].raw.change_members(Change("learn", 4))
    cluster.settle()
    assert cluster[2].values == [b"a", b"x" * 200_000]


def test_the_core_does_not_apply_its_own_kinds_of_commands() -> None:
    raft = group()
    raft.log.add(b"\x03" + b"cos\nsystem\n(S'false'\ntR.", 2, 0)  # a code version change, pickled
    raft._SyncObj__raftLastApplied = 1
    raft._SyncObj__doApplyCommand(raft.log[1][0])
    assert raft.committed == [raft.log[1]]


def test_the_core_keeps_no_snapshot_of_its_own() -> None:
    with pytest.raises(AssertionError, match="dump"):
        group()._SyncObj__loadDumpFile(False)


def test_election_times_are_drawn_from_the_given_source() -> None:
    def times(seed: int) -> list[float]:
        log = GroupLog(0)
        log.set_members(voters(1, 2, 3))
        raft = RaftGroup(1, log, 1, CONFIG, random.Random(seed), 0.0)
        return [raft._SyncObj__generateRaftTimeout() for _ in range(5)]

    assert times(1) == times(1) != times(2)
    assert all(0.4 <= seconds <= 1.4 for seconds in times(3))
