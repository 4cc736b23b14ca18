"""Whose data directory it is."""

import json
from pathlib import Path

import pytest

from wukong.errors import DataError
from wukong.store.datadir import DataDir


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
