"""A log that is only looked at."""

from pathlib import Path

import pytest

from wukong.errors import DataError
from wukong.raft.log import ENTRY, Record
from wukong.raft.wal import Wal


def write(directory: Path, *, segment_bytes: int = 64 << 20) -> list[Path]:
    wal = Wal.open(directory, node_id=3, group_count=2, segment_bytes=segment_bytes, rewrite_bytes=0)
    for index in range(2, 8):
        wal.logs[0].replay(Record(ENTRY, 0, index, 1, b"\x00" * 300))
        wal.append([Record(ENTRY, 0, index, 1, b"\x00" * 300)])
        batch = wal.take()
        assert batch is not None
        wal.write(batch)
    wal.close()
    return sorted(directory.glob("*.wal"))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_whole_log_is_read_and_nothing_is_changed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "000000000009.tmp").write_bytes(b"left over")
    before = content(tmp_path)
    examined = Wal.examine(tmp_path, node_id=3, group_count=2)
    assert examined.torn_bytes == 0
    assert examined.size_bytes == sum(len(data) for name, data in before.items() if name.endswith(".wal"))
    assert content(tmp_path) == before


def test_the_bytes_that_open_would_cut_are_counted_and_stay(tmp_path: Path) -> None:
    (segment,) = write(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-5])
    before = content(tmp_path)
    torn_bytes = Wal.examine(tmp_path, node_id=3, group_count=2).torn_bytes
    assert torn_bytes > 300
    assert content(tmp_path) == before
    Wal.open(tmp_path, node_id=3, group_count=2).close()
    assert segment.stat().st_size == len(before[segment.name]) - torn_bytes


def test_damage_is_refused_as_open_refuses_it(tmp_path: Path) -> None:
    (segment,) = write(tmp_path)
    data = segment.read_bytes()
    segment.write_bytes(data[:500] + b"!" + data[501:])
    with pytest.raises(DataError, match="damaged"):
        Wal.examine(tmp_path, node_id=3, group_count=2)
    with pytest.raises(DataError, match="node 3"):
        Wal.examine(tmp_path, node_id=4, group_count=2)


def test_a_missing_segment_in_the_middle_is_refused(tmp_path: Path) -> None:
    segments = write(tmp_path, segment_bytes=700)
    assert len(segments) > 2
    segments[1].unlink()
    with pytest.raises(DataError, match="missing"):
        Wal.examine(tmp_path, node_id=3, group_count=2)
