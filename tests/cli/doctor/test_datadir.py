import fcntl
import json
import os
from pathlib import Path

import pytest

from wukong.cli.doctor import datadir
from wukong.cli.doctor.datadir import Entry, Identity, judge_identity, judge_log, judge_permissions
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from wukong.config import Config, load_config
from wukong.raft.log import ENTRY, Record
from wukong.raft.wal import Wal

HOME = Path("/d")
NOBODY = 65_534


def entries(*more: Entry, mode: int = 0o700, uid: int = 7) -> list[Entry]:
    return [Entry(HOME, uid, mode, True), *more]


def levels(found: list[Finding]) -> list[str]:
    return [each.level for each in found]


def config(data_dir: Path) -> Config:
    return load_config(None, {"WK_DATADIR": str(data_dir)}, embedded=True)[0]


def test_a_directory_of_ones_own_is_well() -> None:
    found = judge_permissions(HOME, entries(Entry(HOME / "node.json", 7, 0o600, False)), 7)
    assert levels(found) == [OK]


def test_the_database_may_have_files_that_are_only_read() -> None:
    assert levels(judge_permissions(HOME, entries(Entry(HOME / "store" / "1.sst", 7, 0o444, False)), 7)) == [OK]
    assert levels(judge_permissions(HOME, entries(Entry(HOME / "wal" / "1.wal", 7, 0o444, False)), 7)) == [ERROR]


def test_a_directory_of_another_user_is_an_error_and_to_root_a_warning() -> None:
    assert levels(judge_permissions(HOME, entries(), 8)) == [ERROR]
    assert levels(judge_permissions(HOME, entries(), 0)) == [WARNING]


def test_files_that_a_tool_left_as_root_are_named() -> None:
    found = judge_permissions(HOME, entries(Entry(HOME / "node.json", 0, 0o600, False)), 7)
    assert levels(found) == [ERROR]
    assert "node.json" in found[0].text
    assert "chown" in found[0].advice


def test_a_mode_that_shuts_its_owner_out_or_lets_others_in_is_told() -> None:
    assert levels(judge_permissions(HOME, entries(mode=0o500), 7)) == [ERROR]
    found = judge_permissions(HOME, entries(mode=0o755), 7)
    assert levels(found) == [WARNING]
    assert "755" in found[0].text


def test_another_user_is_told_that_the_directory_is_closed_to_him(tmp_path: Path) -> None:
    """For real: as nobody if this is root, for whom permissions do not count."""
    home = tmp_path / "data"
    home.mkdir(mode=0o700)
    (home / "node.json").write_text("{}")
    if os.geteuid() != 0:
        home.chmod(0)
        found = [each.text for each in datadir.look_at_permissions(home) if each.level == ERROR]
        home.chmod(0o700)
    else:
        for place in (tmp_path, *tmp_path.parents):
            if not place.stat().st_mode & 0o001:
                place.chmod(place.stat().st_mode | 0o011)  # only pytest's own folders are closed
            if place.name.startswith("pytest-of-"):
                break
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            told = [each.text for each in datadir.look_at_permissions(home) if each.level == ERROR]
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
        os.waitpid(child, 0)
        found = json.loads(os.read(reading, 65_536))
        os.close(reading)
        os.close(writing)
    assert found


def test_a_place_where_no_directory_can_be_made_is_an_error(tmp_path: Path) -> None:
    assert levels(datadir.look_at_permissions(tmp_path / "a" / "b")) == [OK]
    found = datadir.look_at_permissions(Path("/proc/nothing/data"))
    assert found[0].level == (OK if os.access("/proc", os.W_OK | os.X_OK) else ERROR)


def test_who_holds_the_directory_is_found_without_taking_it(tmp_path: Path) -> None:
    assert datadir.holder(tmp_path) == 0
    (tmp_path / "lock").write_text("4711\n")
    assert datadir.holder(tmp_path) == 0
    with (tmp_path / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert datadir.holder(tmp_path) == 4711
    with (tmp_path / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- node.json


def write_node(path: Path, **facts: object) -> None:
    told = {"format": 1, "node_id": 1001, "slot_count": 16, "disk": 5, "cluster": 6, "members": [], "log": True}
    (path / "node.json").write_text(json.dumps({**told, **facts}))


def test_a_good_node_json_gives_the_identity(tmp_path: Path) -> None:
    write_node(tmp_path)
    identity, found = datadir.look_at_data(tmp_path, config(tmp_path))
    assert identity == Identity(1001, 16, 5, 6, True)
    assert levels(found) == [OK]


@pytest.mark.parametrize("facts", [{"format": 2}, {"node_id": 3}, {"slot_count": 4}, {"disk": "x"}])
def test_a_node_json_that_does_not_fit_is_an_error(tmp_path: Path, facts: dict[str, object]) -> None:
    write_node(tmp_path, **facts)
    identity, found = datadir.look_at_data(tmp_path, config(tmp_path))
    assert identity is None
    assert levels(found) == [ERROR]


def test_data_without_node_json_are_an_error_and_nothing_at_all_is_not(tmp_path: Path) -> None:
    assert levels(datadir.look_at_data(tmp_path, config(tmp_path))[1]) == [OK]
    (tmp_path / "store").mkdir()
    assert levels(datadir.look_at_data(tmp_path, config(tmp_path))[1]) == [ERROR]


def test_node_and_slots_are_both_compared() -> None:
    assert len(judge_identity(HOME, Identity(1, 2, 3, 4, True), 5, 6)) == 2


# -- the log


def write_log(path: Path) -> Path:
    wal = Wal.open(path / "wal", node_id=1001, group_count=16)
    for index in range(2, 6):
        wal.append([Record(ENTRY, 0, index, 1, b"\x00" * 100)])
        batch = wal.take()
        assert batch is not None
        wal.write(batch)
    wal.close()
    return next((path / "wal").glob("*.wal"))


IDENTITY = Identity(1001, 16, 5, 6, True)


def test_a_whole_a_torn_and_a_damaged_log_are_told_apart(tmp_path: Path) -> None:
    segment = write_log(tmp_path)
    content = segment.read_bytes()
    assert datadir.look_at_log(tmp_path, IDENTITY).level == OK
    segment.write_bytes(content[:-1])
    assert datadir.look_at_log(tmp_path, IDENTITY).level == WARNING
    assert segment.read_bytes() == content[:-1], "looking changes nothing"
    segment.write_bytes(content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :])
    found = datadir.look_at_log(tmp_path, IDENTITY)
    assert (found.level, "damaged" in found.text) == (ERROR, True)


def test_a_log_that_is_gone_is_an_error_only_if_there_was_one(tmp_path: Path) -> None:
    assert datadir.look_at_log(tmp_path, IDENTITY).level == ERROR
    assert datadir.look_at_log(tmp_path, IDENTITY._replace(had_log=False)).level == OK


def test_a_torn_end_says_how_much_is_cut() -> None:
    assert "1,234 bytes" in judge_log(10_000, 1_234).text
    assert datadir.running_note(12).level == NOTE
