"""Data directories made out of backups: what is in them, and what is refused."""

import json
import random
from contextlib import closing
from pathlib import Path

import pytest

from tests.backup.backups import applied, make, some_rows
from wukong.backup.manifest import Backup
from wukong.backup.restore import Target, check_empty, formation_of, restore
from wukong.backup.rows import Pair, entry_pair
from wukong.errors import DataError
from wukong.node.node import APPLIED_KEY
from wukong.raft.log import Member
from wukong.raft.wal import Wal
from wukong.store.datadir import DataDir
from wukong.store.generations import slot_prefix
from wukong.store.overlay import prefix_end
from wukong.store.rocks import RocksStore

FORMATION = formation_of(77, [1, 2, 3])


def rows_of(seed: int, index: int, term: int) -> list[Pair]:
    """None that the state machine reads: no slot has keys of these letters."""
    rows = [(b"~" + key, value) for key, value in some_rows(random.Random(seed), 60)]
    return [applied(index, term), *rows]


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    return make(tmp_path / "b" / "1", [("rows", 9, 2, rows_of(1, 9, 2)), ("rows", 12, 3, rows_of(2, 12, 3))])


def later(backup: Backup, entries: list[Pair], index: int) -> Backup:
    contents = [("entries", index, 4, entries), ("rows", 20, 4, rows_of(3, 20, 4))]
    return make(backup.path.parent / "2", contents, backup)


def test_a_directory_has_the_rows_a_log_behind_them_and_belongs_to_the_node(tmp_path: Path, backup: Backup) -> None:
    directory = tmp_path / "data"
    told: list[tuple[int, int]] = []
    assert restore(backup, Target(2, directory), FORMATION, lambda *step: told.append(step)) == backup.manifest.pairs
    assert told[-1] == (2, 0)
    with closing(DataDir(directory, node_id=2, slot_count=2)) as found:
        assert found.formation == FORMATION
        assert (2, found.disk) in FORMATION.members
    with closing(RocksStore(str(directory / "store"))) as store:
        for slot, rows in ((0, rows_of(1, 9, 2)), (1, rows_of(2, 12, 3))):
            prefix = slot_prefix(slot, 0)
            stored = {key[6:]: value for key, value in store.scan(prefix, prefix_end(prefix))}
            assert stored == {**dict(rows), b"z": stored[b"z"]}
    wal = Wal.open(directory / "wal", node_id=2, group_count=2)
    with closing(wal):
        members = tuple(Member(node, disk, True) for node, disk in FORMATION.members)
        assert [(log.base_index, log.last_index, log.term, log.vote) for log in wal.logs] == [
            (9, 9, 2, 0),
            (12, 12, 3, 0),
        ]
        assert [log.term_at(log.base_index) for log in wal.logs] == [2, 3]
        assert [log.members_now() for log in wal.logs] == [members] * 2


def test_entries_are_applied_over_the_rows(tmp_path: Path, backup: Backup) -> None:
    newest = later(backup, [entry_pair(10, 2, b"\1"), entry_pair(11, 4, b"\1")], 11)
    restore(newest, Target(1, tmp_path / "data"), FORMATION)
    with closing(RocksStore(str(tmp_path / "data" / "store"))) as store:
        assert store.get(slot_prefix(0, 0) + APPLIED_KEY) == applied(11, 4)[1]
        assert store.get(slot_prefix(1, 0) + APPLIED_KEY) == applied(20, 4)[1]
        assert store.get(slot_prefix(0, 0) + rows_of(1, 9, 2)[1][0]) is not None


@pytest.mark.parametrize(
    ("entries", "index", "told"),
    [
        ([entry_pair(11, 4, b"\1")], 11, "entry 11 follows entry 9"),
        ([entry_pair(10, 4, b"\1")], 11, "leads to entry"),
        ([entry_pair(10, 4, b"")], 10, "entry 10 follows"),
        ([entry_pair(10, 4, b"\0\xff")], 10, "cannot be applied"),
    ],
)
def test_entries_that_do_not_fit_are_refused_and_no_node_starts_there(
    tmp_path: Path, backup: Backup, entries: list[Pair], index: int, told: str
) -> None:
    directory = tmp_path / "data"
    with pytest.raises(DataError, match=told):
        restore(later(backup, entries, index), Target(1, directory), FORMATION)
    check_no_start(directory)


def check_no_start(directory: Path) -> None:
    with pytest.raises(DataError, match=r"no node\.json"):
        DataDir(directory, node_id=1, slot_count=2)


def test_a_damaged_file_ends_the_restore_and_no_node_starts_there(tmp_path: Path, backup: Backup) -> None:
    path = backup.path / backup.manifest.slots[1].file
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        restore(backup, Target(1, tmp_path / "data"), FORMATION)
    check_no_start(tmp_path / "data")
    with pytest.raises(DataError, match="not empty"):
        check_empty(tmp_path / "data")


def test_rows_of_another_index_than_the_manifest_says_are_refused(tmp_path: Path) -> None:
    wrong = make(tmp_path / "b" / "1", [("rows", 9, 2, rows_of(1, 8, 2))])
    with pytest.raises(DataError, match="leads to entry"):
        restore(wrong, Target(1, tmp_path / "data"), FORMATION)


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path: Path, backup: Backup) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "lost+found").mkdir()
    check_empty(directory)
    (directory / "notes").write_text("mine")
    with pytest.raises(DataError, match="holds notes"):
        restore(backup, Target(1, directory), FORMATION)
    assert sorted(each.name for each in directory.iterdir()) == ["lost+found", "notes"]


def test_a_backup_of_a_newer_program_is_refused_before_anything_is_written(tmp_path: Path, backup: Backup) -> None:
    import msgspec

    newer = backup._replace(manifest=msgspec.structs.replace(backup.manifest, entries=99))
    with pytest.raises(DataError, match="newer program"):
        restore(newer, Target(1, tmp_path / "data"), FORMATION)
    assert not (tmp_path / "data").exists()


def test_disks_follow_from_the_clusters_number_and_are_no_others() -> None:
    assert formation_of(77, [3, 1, 2]) == FORMATION
    disks = {disk for cluster in (77, 78) for _, disk in formation_of(cluster, [1, 2, 3]).members}
    assert len(disks) == 6
    assert all(0 < disk <= 1 << 62 for disk in disks)
    for nodes, cluster in (([1, 1], 5), ([], 5), ([0], 5), ([5_000], 5), ([1], 0), ([1], 1 << 63)):
        with pytest.raises(ValueError, match=r"\d"):
            formation_of(cluster, nodes)


def test_node_json_is_what_a_node_writes(tmp_path: Path, backup: Backup) -> None:
    restore(backup, Target(3, tmp_path / "data"), FORMATION)
    facts = json.loads((tmp_path / "data" / "node.json").read_text())
    with closing(DataDir(tmp_path / "other", node_id=3, slot_count=2)) as other:
        other.promise()
        other.form(FORMATION)
    assert facts.keys() == json.loads((tmp_path / "other" / "node.json").read_text()).keys()
