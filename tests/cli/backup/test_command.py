"""`wukong backup` and `wukong restore` against a real server."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.backup.backups import applied, make
from tests.cli.conftest import Wukong
from tests.support.http import open_api
from tests.support.server import ServerProcess
from wukong.backup.rows import entry_pair


def fill(node: ServerProcess, count: int) -> None:
    async def sending() -> None:
        async with open_api(node.http_url) as api:
            await api.create("lunch", ["alice"])
            for number in range(count):
                await api.send("alice", "lunch", b"%d" % number)

    asyncio.run(sending())


def test_back_up_list_verify_and_restore(on_node: Wukong, node: ServerProcess, tmp_path: Path) -> None:
    fill(node, 20)
    backups = tmp_path / "backups"
    made = on_node("backup", backups)
    assert made.exit_code == 0, made.stderr
    assert "16 slots" in made.stdout
    increment = on_node("backup", "--incremental", backups, "--json")
    assert json.loads(increment.stdout)["slots_in_full"] == 0
    listed = on_node("backup", "list", backups).stdout.splitlines()
    assert ["full" in line for line in listed] == [True, False]
    assert "is whole, with the 1 it builds on" in on_node("backup", "verify", backups).stdout
    targets = ["--data-dir", tmp_path / "a", "--node-id", 1, "--data-dir", tmp_path / "b", "--node-id", 2]
    restored = on_node("restore", backups, *targets)
    assert restored.exit_code == 0, restored.stderr
    assert "nodes 1, 2" in restored.stdout
    assert "wukong.slotCount 16" in restored.stdout
    again = on_node("restore", backups, *targets, "--json")
    assert again.exit_code == 1
    assert "not empty" in json.loads(again.stdout)["error"]


def test_a_flipped_byte_in_each_file_is_named(wukong: Wukong, tmp_path: Path) -> None:
    rng = random.Random(5)
    first = make(tmp_path / "1", [("rows", 5, 1, [applied(5, 1)])] * 2)
    make(tmp_path / "2", [("entries", 6, 1, [entry_pair(6, 1, b"\1")])] * 2, first)
    for path in sorted(tmp_path.rglob("*.*")):
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 4,)) + whole[at + 1 :])
        found = wukong("backup", "verify", tmp_path)
        assert found.exit_code == 1
        if path == first.path / "manifest.json":
            assert f"{tmp_path / '2'} builds on backup 1" in found.stderr
        else:
            assert f"{path}: byte " in found.stdout + found.stderr
        path.write_bytes(whole)
    assert wukong("backup", "verify", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data-dir", "a", "--data-dir", "b"], "one --node-id per --data-dir"),
        (["--data-dir", "a", "--node-id", "0"], "1 to 1023"),
        (["--data-dir", "a", "--node-id", "1", "--nodes", "2,3", "--cluster-id", "5"], "does not name"),
        (["--data-dir", "a", "--node-id", "1", "--nodes", "1,2"], "need the same --cluster-id"),
        (["--data-dir", "a", "--cluster-id", "xyz"], "xyz"),
        ([], "--data-dir"),
    ],
)
def test_a_restore_that_makes_no_sense_is_refused(
    wukong: Wukong, tmp_path: Path, arguments: list[str], told: str
) -> None:
    found = wukong("restore", str(tmp_path), *arguments)
    assert found.exit_code == 2
    assert told in found.stderr.replace("\n", " ")


def test_what_is_no_backup_and_who_is_no_server_are_told(wukong: Wukong, tmp_path: Path) -> None:
    assert "holds no backup" in wukong("backup", "verify", tmp_path).stderr
    assert "there is no directory" in wukong("backup", "list", tmp_path / "none").stderr
    assert "is empty" in wukong("backup", "list", tmp_path).stdout
    assert "holds no backup" in wukong("backup", tmp_path, "--incremental").stderr
    away = wukong("backup", tmp_path, "--api", "http://127.0.0.1:1")
    assert away.exit_code == 3
    assert "Is the server running?" in away.stderr


def test_help_shows_how(wukong: Wukong) -> None:
    assert "Example" in wukong("backup", "take", "--help").stdout
    assert "verify" in wukong("backup", "--help").stdout
    assert "--cluster-id" in wukong("restore", "--help").stdout
