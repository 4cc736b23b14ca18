"""A chain of backups with one flipped byte in each of its files."""

import random
from pathlib import Path

from tests.backup.backups import applied, make, some_rows
from wukong.backup.manifest import chain
from wukong.backup.rows import entry_pair
from wukong.backup.verify import verify


def test_each_damaged_file_is_named_once(tmp_path: Path) -> None:
    rng = random.Random(3)
    first = make(tmp_path / "1", [("rows", 9, 1, [applied(9, 1), *some_rows(rng, 50)])] * 3)
    second = make(tmp_path / "2", [("entries", 10, 1, [entry_pair(10, 1, b"\1")])] * 3, first)
    backups = chain(second)
    seen = []
    assert verify(backups, lambda slots, size: seen.append((slots, size))) == []
    assert seen[-1] == (6, 0)
    files = sorted(path for path in tmp_path.rglob("slot-*"))
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 255,)) + whole[at + 1 :])
        faults = verify(backups)
        assert len(faults) == 1
        assert faults[0].startswith(f"{path}: byte ")
        path.write_bytes(whole)
    files[0].unlink()
    files[5].write_bytes(b"")
    assert [fault.split()[0].rstrip(":") for fault in verify(backups)] == [str(files[0]), str(files[5])]
