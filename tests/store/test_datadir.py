"""Whose data directory it is."""

import json
from pathlib import Path

import pytest

from wukong.errors import DataError
from wukong.store.datadir import DataDir, Formation, found


def test_a_directory_is_made_once_and_opened_again(tmp_path: Path) -> None:
    DataDir(tmp_path / "d", node_id=1, slot_count=16).close()
    again = DataDir(tmp_path / "d", node_id=1, slot_count=16)
    assert json.loads((tmp_path / "d" / "node.json").read_text())["slot_count"] == 16
    again.close()


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    first = DataDir(tmp_path, node_id=1, slot_count=16)
    with pytest.raises(DataError, match=r"in use by another wukong process \(pid"):
        DataDir(tmp_path, node_id=1, slot_count=16)
    first.close()


@pytest.mark.parametrize(("node", "slots", "words"), [(2, 16, "belongs to node 1"), (1, 64, "made with 16 slots")])
def test_it_refuses_to_be_somebody_elses(tmp_path: Path, node: int, slots: int, words: str) -> None:
    DataDir(tmp_path, node_id=1, slot_count=16).close()
    with pytest.raises(DataError, match=words):
        DataDir(tmp_path, node_id=node, slot_count=slots)
    DataDir(tmp_path, node_id=1, slot_count=16).close()


def test_data_without_its_description_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(DataError, match=r"no node\.json"):
        DataDir(tmp_path, node_id=1, slot_count=16)


def test_files_are_private(tmp_path: Path) -> None:
    DataDir(tmp_path / "d", node_id=1, slot_count=16).close()
    assert (tmp_path / "d").stat().st_mode & 0o077 == 0
    assert (tmp_path / "d" / "node.json").stat().st_mode & 0o077 == 0


def test_a_directory_whose_log_is_gone_is_refused_with_advice(tmp_path: Path) -> None:
    directory = DataDir(tmp_path, node_id=1, slot_count=4)
    (directory.wal / "000000000001.wal").write_bytes(b"x")
    directory.promise()
    directory.close()
    (directory.wal / "000000000001.wal").unlink()
    with pytest.raises(DataError, match="Move the whole directory"):
        DataDir(tmp_path, node_id=1, slot_count=4)


def test_a_directory_has_a_number_of_its_own_and_remembers_its_cluster(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path / "a", node_id=1, slot_count=4), DataDir(tmp_path / "b", node_id=1, slot_count=4)
    assert first.disk != second.disk
    assert first.formation is None
    formation = Formation(77, ((1, first.disk), (2, 5)))
    first.form(formation)
    first.close()
    again = DataDir(tmp_path / "a", node_id=1, slot_count=4)
    assert (again.disk, again.formation) == (first.disk, formation)
    again.close()
    second.close()


def test_a_directory_made_before_directories_had_numbers_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    DataDir(tmp_path, node_id=3, slot_count=4).close()
    (tmp_path / "node.json").write_text('{"format": 1, "node_id": 3, "slot_count": 4}')
    (tmp_path / "wal" / "000000000001.wal").write_bytes(b"x")
    directory = DataDir(tmp_path, node_id=3, slot_count=4)
    assert directory.disk == 0
    assert directory.formation is not None
    assert directory.formation.members == ((3, 0),)
    directory.close()


def test_a_directory_that_was_filled_by_other_hands_belongs_to_its_node_when_it_is_told_so(tmp_path: Path) -> None:
    for name in ("store", "wal"):
        (tmp_path / name).mkdir()
    (tmp_path / "wal" / "000000000001.wal").write_bytes(b"")
    with pytest.raises(DataError, match=r"no node\.json"):
        DataDir(tmp_path, node_id=2, slot_count=4)
    formation = Formation(9, ((2, 7), (3, 8)))
    found(tmp_path, node_id=2, slot_count=4, disk=7, formation=formation)
    opened = DataDir(tmp_path, node_id=2, slot_count=4)
    assert (opened.disk, opened.formation, opened.starts) == (7, formation, 1)
    opened.close()
