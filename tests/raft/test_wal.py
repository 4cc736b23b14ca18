"""The write-ahead log on a real disk: what survives, what is cut, what is refused, what is dropped."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wukong.raft.wal
from tests.raft.hand_cluster import voters
from wukong.errors import DataError
from wukong.raft.log import NO_OP_COMMAND, GroupLog
from wukong.raft.wal import Wal, decode_records, encode_records, find_record


def open_wal(path: Path, **options: Any) -> Wal:
    return Wal.open(path, **{"node_id": 1, "group_count": 3, **options})


def put(wal: Wal, *, roll: bool = True) -> None:
    """One turn: everything the logs made goes to disk."""
    sequences = []
    for log in wal.logs:
        wal.append(log.take_records())
        sequences.append((log, log.seq))
    batch = wal.take()
    if batch is not None:
        wal.write(batch)
    for log, seq in sequences:
        log.mark_durable(seq)


def add(wal: Wal, group: int, *values: bytes) -> None:
    log = wal.logs[group]
    for value in values:
        log.add(b"\x00" + value, log.last_index + 1, max(log.term, 1))


def facts(log: GroupLog) -> tuple[Any, ...]:
    return (list(log), log.term, log.vote, log.voters())


def reopened(wal: Wal, **options: Any) -> Wal:
    wal.close()
    again = open_wal(wal.directory, **options)
    assert [facts(log) for log in again.logs] == [facts(log) for log in wal.logs]
    return again


def segments(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


# -- what survives


def test_groups_come_back_with_entries_term_vote_and_members(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal")
    for group, log in enumerate(wal.logs):
        log.set_members(voters(1, 2 + group))
        log.setCurrentTerm(5 + group, 2)
        add(wal, group, b"a" * group, b"b")
    put(wal)
    add(wal, 1, b"later")
    put(wal)
    again = reopened(wal)
    assert [log.durable_index for log in again.logs] == [3, 4, 3]
    add(again, 2, b"goes on")
    put(again)
    reopened(again).close()


def test_truncated_and_trimmed_logs_come_back_so(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal")
    add(wal, 0, *[b"%d" % i for i in range(10)])
    put(wal)
    wal.logs[0].deleteEntriesFrom(5)
    add(wal, 0, b"other")
    put(wal)
    wal.logs[0].trim(4)
    put(wal)
    again = reopened(wal)
    assert [index for _, index, _ in again.logs[0]] == [4, 5, 6]
    again.close()


def test_an_empty_log_opens_again(tmp_path: Path) -> None:
    reopened(open_wal(tmp_path / "new" / "wal")).close()


def test_nothing_pending_is_no_batch(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal")
    assert wal.take() is None
    assert not wal.has_pending
    wal.close()


# -- what is cut


def three_batches(path: Path) -> tuple[Path, list[int]]:
    """A closed log of three batches; the file, and its size after each."""
    wal = open_wal(path)
    sizes = []
    for number in range(3):
        for group in range(3):
            add(wal, group, b"value %d" % number)
        put(wal)
        sizes.append(wal.size_bytes)
    wal.close()
    (file,) = path.glob("*.wal")
    assert file.stat().st_size == sizes[-1]
    return file, sizes


def test_a_tail_cut_at_any_byte_loses_only_what_was_not_whole(tmp_path: Path) -> None:
    file, sizes = three_batches(tmp_path / "wal")
    whole = file.read_bytes()
    for size in range(sizes[1], sizes[2]):
        file.write_bytes(whole[:size])
        wal = open_wal(tmp_path / "wal")
        complete = sum(1 for _, end in decode_records(whole, sizes[1]) if end <= size)
        assert sum(log.last_index - 3 for log in wal.logs) == complete
        assert wal.size_bytes == file.stat().st_size <= size
        add(wal, 0, b"again")
        put(wal)
        reopened(wal).close()


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\xf1\x57\x01\x00"])
def test_a_tail_of_rubbish_is_cut(tmp_path: Path, filler: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file, sizes = three_batches(tmp_path / "wal")
    with file.open("ab") as out:
        out.write(filler * 1500)
    open_wal(tmp_path / "wal").close()
    assert file.stat().st_size == sizes[-1]
    assert f"cut {1500 * len(filler)} bytes" in caplog.text


def test_a_flipped_byte_before_a_valid_record_is_refused(tmp_path: Path) -> None:
    file, sizes = three_batches(tmp_path / "wal")
    whole = file.read_bytes()
    for at in range(sizes[0], sizes[1]):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        file.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            open_wal(tmp_path / "wal")
        text = str(caught.value)
        assert str(file) in text
        start = max(end for _, end in [(None, sizes[0]), *decode_records(whole, sizes[0])] if end <= at)
        assert f"byte {start}" in text
        assert "restore" in text


def test_a_flipped_byte_in_the_last_record_cuts_it(tmp_path: Path) -> None:
    file, _ = three_batches(tmp_path / "wal")
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    wal = open_wal(tmp_path / "wal")
    assert [log.last_index for log in wal.logs] == [4, 4, 3]
    wal.close()


def test_damage_in_a_segment_that_others_follow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wukong.raft.wal, "_MANY_SEGMENTS", 1_000)
    wal = open_wal(tmp_path / "wal", segment_bytes=400, rewrite_bytes=0)
    for _ in range(20):
        add(wal, 0, b"x" * 50)
        put(wal)
    wal.close()
    names = segments(tmp_path / "wal")
    assert len(names) > 3
    file = tmp_path / "wal" / names[1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="later segments follow"):
        open_wal(tmp_path / "wal")
    file.unlink()
    with pytest.raises(DataError, match="missing between"):
        open_wal(tmp_path / "wal")
    (tmp_path / "wal" / names[0]).unlink()
    with pytest.raises(DataError, match="are missing"):
        open_wal(tmp_path / "wal")


def test_headers_must_fit(tmp_path: Path) -> None:
    file, _ = three_batches(tmp_path / "wal")
    with pytest.raises(DataError, match="belongs to node 1, this is node 2"):
        open_wal(tmp_path / "wal", node_id=2)
    with pytest.raises(DataError, match="with 3 groups, 4 are configured"):
        open_wal(tmp_path / "wal", group_count=4)
    whole = file.read_bytes()
    file.write_bytes(b"x" + whole[1:])
    with pytest.raises(DataError, match="no valid segment header"):
        open_wal(tmp_path / "wal")
    file.write_bytes(whole)
    file.rename(file.with_name("000000000002.wal"))
    with pytest.raises(DataError, match="under another name"):
        open_wal(tmp_path / "wal")
    with pytest.raises(ValueError, match="group_count"):
        open_wal(tmp_path / "other", group_count=0)


def test_a_record_of_a_group_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file, _ = three_batches(tmp_path / "wal")
    log = GroupLog(9)
    log.add(NO_OP_COMMAND, 2, 1)
    with file.open("ab") as out:
        out.write(b"".join(encode_records(log.take_records())))
    with pytest.raises(DataError, match="group 9 of 3"):
        open_wal(tmp_path / "wal")


def test_records_are_found_behind_damage_wherever_they_start() -> None:
    log = GroupLog(0)
    for index in range(2, 6):
        log.add(b"\x00value", index, 1)
    data = b"".join(encode_records(log.take_records()))
    starts = [0, *[end for _, end in decode_records(data)]][:-1]
    assert [find_record(data, start) for start in starts] == starts
    assert find_record(data, starts[1] + 1) == starts[2]
    assert find_record(data, starts[-1] + 1) is None


# -- segments


def test_segments_roll_and_go_when_every_group_has_moved_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wukong.raft.wal, "_MANY_SEGMENTS", 1_000)
    wal = open_wal(tmp_path / "wal", segment_bytes=500, rewrite_bytes=0)
    for _ in range(30):
        for group in range(3):
            add(wal, group, b"x" * 30)
        put(wal)
    count = wal.segment_count
    assert count > 4
    for group in (0, 1):
        wal.logs[group].trim(wal.logs[group].last_index)
    put(wal)
    assert wal.segment_count >= count  # group 2 still needs them
    wal.logs[2].trim(wal.logs[2].last_index)
    put(wal)
    assert wal.segment_count <= 2
    assert len(segments(tmp_path / "wal")) == wal.segment_count
    reopened(wal, segment_bytes=500).close()


def test_a_quiet_group_does_not_hold_old_segments(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal", segment_bytes=2000)
    add(wal, 2, b"once, long ago")
    largest = 0
    for _ in range(300):
        add(wal, 0, b"x" * 100)
        put(wal)
        wal.logs[0].trim(max(wal.logs[0].base_index, wal.logs[0].last_index - 3))
        largest = max(largest, wal.segment_count)
    assert largest <= 3
    put(wal)
    again = reopened(wal, segment_bytes=2000)
    assert again.logs[2][-1] == (b"\x00once, long ago", 2, 1)
    again.close()


def test_what_a_segment_may_repeat_is_limited(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal", segment_bytes=2000, rewrite_bytes=500)
    add(wal, 1, b"y" * 1000)
    add(wal, 2, b"small")
    for _ in range(40):
        add(wal, 0, b"x" * 100)
        put(wal)
        wal.logs[0].trim(wal.logs[0].last_index)
    put(wal)
    assert wal.segment_count > 2  # group 1 is too large to be repeated and holds its segment
    wal.logs[1].trim(2)
    put(wal)
    assert wal.segment_count <= 2
    again = reopened(wal, segment_bytes=2000)
    assert again.logs[2][-1][0] == b"\x00small"
    again.close()


def test_after_a_restart_segments_are_still_dropped(tmp_path: Path) -> None:
    wal = open_wal(tmp_path / "wal", segment_bytes=500, rewrite_bytes=0)
    for _ in range(20):
        add(wal, 0, b"x" * 50)
        put(wal)
    again = reopened(wal, segment_bytes=500, rewrite_bytes=0)
    assert again.segment_count > 2
    again.logs[0].trim(again.logs[0].last_index)
    put(again)
    assert again.segment_count == 1
    reopened(again, segment_bytes=500).close()


@pytest.mark.parametrize("seed", range(10))
def test_random_histories_come_back_whatever_the_segment_size(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    options = {"segment_bytes": rng.choice((200, 1000, 5000)), "rewrite_bytes": rng.choice((0, 300, 100_000))}
    wal = open_wal(tmp_path / "wal", **options)
    for _ in range(200):
        log = wal.logs[rng.randrange(3)]
        draw = rng.random()
        if draw < 0.7:
            add(wal, log.group, rng.randbytes(rng.randint(0, 60)))
        elif draw < 0.78 and len(log) > 1:
            log.deleteEntriesFrom(rng.randint(1, len(log) - 1))
        elif draw < 0.9:
            log.trim(rng.randint(log.base_index, log.durable_index))
        else:
            log.setCurrentTerm(log.term + 1, 1)
        if rng.random() < 0.5:
            put(wal)
        if rng.random() < 0.05:
            put(wal)
            wal = reopened(wal, **options)
    put(wal)
    reopened(wal, **options).close()
    print("seed", seed, options)


# -- failures


class Cut(BaseException):
    """The power goes."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """Let so many disk operations pass, then cut the power. Returns a counter of the operations seen."""
    seen = [0]

    def wrap(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def stepped(*arguments: Any, **keywords: Any) -> Any:
            seen[0] += 1
            if seen[0] > after:
                raise Cut
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, stepped)

    for name in ("write", "fdatasync", "fsync", "open"):
        wrap(os, name)
    for name in ("rename", "unlink"):
        wrap(Path, name)
    return lambda: seen[0]


def test_a_power_cut_at_any_step_of_a_roll_leaves_a_readable_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    while True:
        path = tmp_path / f"cut-{steps}"
        wal = open_wal(path, segment_bytes=300, rewrite_bytes=1000)
        add(wal, 1, b"before")
        put(wal)
        wal.logs[1].trim(2)
        for group in range(3):
            add(wal, group, b"during" * 20)
        before = [facts(log) for log in open_copy(path).logs]
        after = [facts(log) for log in wal.logs]
        with monkeypatch.context() as patch:
            count = interrupt(patch, steps)
            try:
                put(wal)
                cut = False
            except Cut:
                cut = True
            done = count()
        wal.close()
        again = open_wal(path, segment_bytes=300)
        assert [facts(log) for log in again.logs] in (before, after)
        if steps >= 2:  # written and synced: from here on nothing of it may be missing
            assert [facts(log) for log in again.logs] == after
        add(again, 0, b"goes on")
        put(again)
        reopened(again).close()
        if not cut:
            assert done > 6
            return
        steps += 1


def open_copy(path: Path) -> Wal:
    wal = open_wal(path)
    wal.close()
    return wal


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_after_a_failed_write_nothing_is_ever_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    wal = open_wal(tmp_path / "wal")
    add(wal, 0, b"good")
    put(wal)

    def broken(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        add(wal, 0, b"bad")
        with pytest.raises(OSError, match=os.strerror(number)):
            put(wal)
    size = sum(file.stat().st_size for file in (tmp_path / "wal").iterdir())
    add(wal, 0, b"never")
    with pytest.raises(OSError, match="failed before"):
        put(wal)
    assert sum(file.stat().st_size for file in (tmp_path / "wal").iterdir()) == size
    wal.close()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = open_wal(tmp_path / "wal")
    original = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: original(fd, data[:7]))
        add(wal, 0, b"in many small pieces")
        put(wal)
    reopened(wal).close()


def test_a_new_segment_is_synced_before_an_older_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = open_wal(tmp_path / "wal", segment_bytes=200)
    events: list[str] = []
    sync, rename, unlink, fsync = os.fdatasync, Path.rename, Path.unlink, os.fsync

    def record(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            events.append(name)
            return original(*arguments, **keywords)

        return call

    monkeypatch.setattr(os, "fdatasync", record("fdatasync", sync))
    monkeypatch.setattr(os, "fsync", record("directory", fsync))
    monkeypatch.setattr(Path, "rename", record("rename", rename))
    monkeypatch.setattr(Path, "unlink", record("unlink", unlink))
    add(wal, 0, b"x" * 300)
    put(wal)
    assert events == ["fdatasync", "fdatasync", "rename", "directory", "unlink", "directory"]
    monkeypatch.undo()
    wal.close()


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = open_wal(tmp_path / "wal", segment_bytes=200, fsync=False)

    def forbidden(fd: int) -> None:
        raise AssertionError("synced")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", forbidden)
        patch.setattr(os, "fsync", forbidden)
        for _ in range(5):
            add(wal, 0, b"x" * 100)
            put(wal)
    reopened(wal, fsync=False).close()


def test_what_recovery_has_read_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_batches(tmp_path / "wal")
    synced: list[str] = []
    original = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    open_wal(tmp_path / "wal").close()
    assert any(name.endswith(".wal") for name in synced)


def test_leftovers_of_a_segment_that_was_never_finished_go(tmp_path: Path) -> None:
    three_batches(tmp_path / "wal")
    (tmp_path / "wal" / "000000000002.tmp").write_bytes(b"half a head")
    open_wal(tmp_path / "wal").close()
    assert segments(tmp_path / "wal") == ["000000000001.wal"]


def test_a_quiet_group_whose_entries_are_kept_does_not_hold_what_others_write(tmp_path: Path) -> None:
    wal = Wal.open(tmp_path, node_id=1, group_count=3, segment_bytes=1 << 20, fsync=False)

    def put(group: int, count: int) -> None:
        log = wal.logs[group]
        for _ in range(count):
            log.add(b"\0" + bytes(4_000), log.last_index + 1, 1)
        wal.append(log.take_records())
        batch = wal.take()
        assert batch is not None
        wal.write(batch)
        log.mark_durable(log.seq)

    for quiet in (0, 1):
        put(quiet, 380)  # 1.5 MiB each, more than what is repeated of small groups
    for _ in range(200):
        put(2, 50)
        wal.logs[2].trim(wal.logs[2].last_index - 10)
    assert wal.segment_count <= 12
    assert wal.size_bytes < 12 << 20
    ends = [log.last_index for log in wal.logs]
    wal.close()
    again = Wal.open(tmp_path, node_id=1, group_count=3, segment_bytes=1 << 20, fsync=False)
    assert [log.last_index for log in again.logs] == ends
    assert [len(log) for log in again.logs[:2]] == [381, 381]
    again.close()
