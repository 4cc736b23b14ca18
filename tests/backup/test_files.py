"""One file of a backup: what is damaged is found where it is."""

import random
import re
from pathlib import Path

import pytest

from tests.backup.backups import CHUNK, some_rows, write_file
from wukong.backup.files import ENTRIES, ROWS, SlotWriter, read_slot
from wukong.backup.rows import Pair, encode_pairs
from wukong.errors import DataError

ROWS_OF_IT = some_rows(random.Random(1), 3 * CHUNK - 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "slot-003.rows"
    write_file(found, 3, ROWS, ROWS_OF_IT)
    return found


def read(path: Path) -> list[Pair]:
    return [pair for chunk in read_slot(path, 3, ROWS) for pair in chunk]


def test_rows_come_back_as_they_were(path: Path) -> None:
    assert read(path) == ROWS_OF_IT


def test_a_file_without_rows_is_whole(tmp_path: Path) -> None:
    part = write_file(tmp_path / "empty", 0, ENTRIES, [])
    assert list(read_slot(tmp_path / "empty", 0, ENTRIES, part.written)) == []


def test_what_does_not_shrink_is_stored_as_it_is(tmp_path: Path) -> None:
    noise = [(b"key", random.Random(2).randbytes(10_000))]
    part = write_file(tmp_path / "noise", 0, ROWS, noise)
    assert part.size_bytes < part.bytes + 200
    assert [pair for chunk in read_slot(tmp_path / "noise", 0, ROWS) for pair in chunk] == noise


def test_every_flipped_byte_is_found_and_placed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1 << at % 8,)) + whole[at + 1 :])
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            read(path)
        told = re.search(r": byte (\d+): ", str(caught.value))
        assert told, caught.value
        assert "backup list" in str(caught.value)
        if "it was cut" not in str(caught.value):
            # A part is named by where it begins: at or before the byte, and not a whole part before it.
            assert int(told[1]) <= at < int(told[1]) + len(whole) // 2


def test_every_cut_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=f"byte {end}: the file ends here"):
            read(path)


def test_bytes_behind_the_end_are_found(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="goes on behind its end"):
        read(path)


def test_a_part_that_was_taken_out_doubled_or_exchanged_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    starts = []
    writer = SlotWriter(path, 3, ROWS)
    for number in range(3):
        starts.append(writer._size)
        pairs = [(b"key %d" % number, b"v" * 9)]
        writer.add(encode_pairs(pairs), 1)
    starts.append(writer._size)
    writer.close()
    whole = path.read_bytes()
    head, first, second, third, tail = (
        whole[start:end] for start, end in zip([0, *starts], [*starts, len(whole)], strict=True)
    )
    for parts in ([first, third], [first, second, second, third], [second, first, third], [first, second]):
        path.write_bytes(head + b"".join(parts) + tail)
        with pytest.raises(DataError, match="is damaged"):
            read(path)


def test_a_missing_file_and_the_file_of_another_slot_are_named(path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        list(read_slot(path.with_name("none"), 3, ROWS))
    with pytest.raises(DataError, match="file of slot 3"):
        list(read_slot(path, 4, ROWS))


def test_a_whole_file_that_the_manifest_does_not_mean_is_told(path: Path) -> None:
    other = write_file(path.with_name("other"), 3, ROWS, ROWS_OF_IT[:-1])
    with pytest.raises(DataError, match="not the file that the manifest names"):
        list(read_slot(path, 3, ROWS, other.written))
