"""Manifests, and chains of backups that build on one another."""

from pathlib import Path

import pytest

from tests.backup.backups import applied, make
from wukong.backup.manifest import MANIFEST, Backup, chain, choose, list_backups, read_backup, sources
from wukong.backup.rows import entry_pair
from wukong.errors import DataError

ROW = [applied(5, 2), (b"a", b"b")]


def full(path: Path, **options: str) -> Backup:
    return make(path, [("rows", 5, 2, ROW), ("rows", 5, 2, ROW)], **options)


def later(path: Path, base: Backup, kind: str = "entries", **options: str) -> Backup:
    """One entry more in slot 0; slot 1 as kind says."""
    index = base.manifest.slots[0].index + 1
    entry = [entry_pair(index, 2, b"\1")]
    second = [applied(index, 2)] if kind == "rows" else entry
    return make(path, [("entries", index, 2, entry), (kind, index, 2, second)], base, **options)


def test_every_flipped_byte_and_every_cut_of_a_manifest_is_found(tmp_path: Path) -> None:
    path = full(tmp_path / "b").path / MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :], whole[:at]):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=MANIFEST):
                read_backup(path.parent)


def test_a_folder_without_a_manifest_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="written last"):
        read_backup(tmp_path)
    (tmp_path / "2026.unfinished").mkdir()
    assert [each.fault for each in list_backups(tmp_path)] == ["was not finished; it may be deleted"]
    with pytest.raises(DataError, match="holds no backup"):
        choose(tmp_path)


def test_the_newest_is_chosen_or_the_one_that_is_named(tmp_path: Path) -> None:
    first, second = full(tmp_path / "1"), full(tmp_path / "2")
    assert choose(tmp_path) == second
    assert choose(first.path) == first


def test_a_damaged_newest_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    full(tmp_path / "1")
    (full(tmp_path / "2").path / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="newest"):
        choose(tmp_path)


def test_a_chain_begins_with_the_full_one(tmp_path: Path) -> None:
    first = full(tmp_path / "1")
    second = later(tmp_path / "2", first)
    third = later(tmp_path / "3", second, "rows")
    assert chain(third) == [first, second, third]
    found = sources(chain(third))
    assert [path.parent.name for path, _ in found[0].parts] == ["1", "2", "3"]
    assert [path.parent.name for path, _ in found[1].parts] == ["3"], "taken in full: nothing older is needed"
    assert found[0].last.index == 7


def test_a_missing_base_is_told(tmp_path: Path) -> None:
    first = full(tmp_path / "1")
    second = later(tmp_path / "2", first)
    (first.path / MANIFEST).unlink()
    with pytest.raises(DataError, match="builds on backup 1"):
        chain(second)


def test_a_base_of_another_cluster_or_index_is_told(tmp_path: Path) -> None:
    first = full(tmp_path / "1")
    with pytest.raises(DataError, match="two clusters"):
        chain(later(tmp_path / "2", first, cluster="c2"))
    other = make(tmp_path / "o" / "1", [("rows", 9, 2, ROW), ("rows", 9, 2, ROW)])
    (tmp_path / "o" / "2").parent.mkdir(exist_ok=True)
    wrong = make(
        tmp_path / "o" / "2",
        [("entries", 10, 2, [entry_pair(10, 2, b"\1")]), ("rows", 9, 2, ROW)],
        Backup(other.path, first.manifest),
    )
    with pytest.raises(DataError, match="slot 0 does not go on"):
        chain(wrong)


def test_backups_that_name_one_another_end(tmp_path: Path) -> None:
    first = full(tmp_path / "1")
    second = later(tmp_path / "2", first, number="x")
    make(tmp_path / "3", [("rows", 5, 2, ROW), ("rows", 5, 2, ROW)], second, number="1")
    (first.path / MANIFEST).unlink()
    with pytest.raises(DataError):
        chain(second)
