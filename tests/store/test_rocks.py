"""RocksDB: what survives the end of a process and a power loss, and what an operator reads when it cannot open."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from wukong.errors import DataError
from wukong.store.rocks import LEVEL0_SLOWDOWN_FILES, RocksStore, _total_stalls

CHILD_LIMIT_S = 60


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=CHILD_LIMIT_S, check=False)


def everything(store: RocksStore) -> dict[bytes, bytes]:
    return dict(store.scan(b"", b"\xff" * 8))


WRITE_AND_END = """
    import contextlib, os, signal, sys
    from wukong.store.rocks import RocksStore
    store = RocksStore(sys.argv[1], write_buffer_bytes=64 << 10)
    for number in range(1000):
        store.write({b"%06d" % number: b"x" * 200, b"last": b"%d" % number})
        if number == 500:
            store.flush()
            sizes = [0]
            for entry in os.scandir(sys.argv[1]):
                with contextlib.suppress(FileNotFoundError):  # RocksDB deletes logs of its own accord
                    sizes += [entry.stat().st_size] if entry.name.endswith(".log") else []
            print(max(sizes), flush=True)
    store.delete_range(b"000100", b"000200")
    if sys.argv[2] == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("kill", -9)])
def test_a_process_that_ends_without_close_loses_nothing(tmp_path: Path, how: str, code: int) -> None:
    ended = child(WRITE_AND_END, tmp_path / "db", how)
    assert ended.returncode == code, ended.stderr
    store = RocksStore(tmp_path / "db")
    expected = {b"%06d" % number: b"x" * 200 for number in range(1000) if not 100 <= number < 200}
    assert everything(store) == expected | {b"last": b"999"}
    store.close()


def test_a_log_cut_anywhere_gives_a_prefix_of_the_batches_and_all_before_the_flush(tmp_path: Path) -> None:
    """What a power loss leaves: the synced part of the log, and any part of the rest."""
    seed = 11
    print(f"seed {seed}")
    chance = random.Random(seed)
    source = tmp_path / "db"
    flushed = 40
    code = """
        import os, sys
        from wukong.store.rocks import RocksStore
        store = RocksStore(sys.argv[1])
        for number in range(100):
            store.write({b"a%d" % number: b"x" * 300, b"count": b"%d" % (number + 1), b"b%d" % number: b"x"})
            if number + 1 == int(sys.argv[2]):
                store.flush()
                print(sum(e.stat().st_size for e in os.scandir(sys.argv[1]) if e.name.endswith(".log")), flush=True)
        os._exit(0)
    """
    ended = child(code, source, flushed)
    assert ended.returncode == 0, ended.stderr
    synced_bytes = int(ended.stdout)
    (log,) = source.glob("*.log")
    size = log.stat().st_size
    assert synced_bytes < size
    for number, cut in enumerate([synced_bytes, size, *(chance.randint(synced_bytes, size) for _ in range(20))]):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(source, copy)
        with open(copy / log.name, "r+b") as file:
            file.truncate(cut)
        store = RocksStore(copy)
        count = int(store.get(b"count") or b"0")
        assert count >= flushed
        assert len(everything(store)) == 2 * count + 1
        assert store.get(b"a%d" % (count - 1)) == b"x" * 300
        store.write({b"goes on": b""})
        store.close()


def test_a_second_open_in_the_same_process_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    with pytest.raises(DataError, match="already open in this process"):
        RocksStore(tmp_path / "db")
    store.write({b"a": b"the first one goes on"})
    store.close()


def test_a_second_open_from_another_process_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    code = """
        import sys
        from wukong.errors import DataError
        from wukong.store.rocks import RocksStore
        try:
            RocksStore(sys.argv[1])
        except DataError as error:
            print(error)
    """
    ended = child(code, tmp_path / "db")
    assert "open in another process" in ended.stdout, ended
    assert str(tmp_path / "db") in ended.stdout
    store.close()


def test_a_closed_store_can_be_opened_again(tmp_path: Path) -> None:
    for number in range(3):
        store = RocksStore(tmp_path / "db")
        assert store.get(b"n") == (b"%d" % (number - 1) if number else None)
        store.write({b"n": b"%d" % number})
        store.close()


def made(path: Path) -> Path:
    store = RocksStore(path)
    store.write({b"%06d" % number: random.Random(number).randbytes(100) for number in range(2000)})
    store.close()
    return path


def test_a_damaged_manifest_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    (manifest,) = path.glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[:20])
    with pytest.raises(DataError, match=r"move the whole data directory .* restore a backup"):
        RocksStore(path)


def test_a_missing_table_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    next(path.glob("*.sst")).unlink()
    with pytest.raises(DataError, match="restore a backup"):
        RocksStore(path)


def test_a_missing_current_file_is_not_taken_for_a_new_database(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    (path / "CURRENT").unlink()
    with pytest.raises(DataError, match="CURRENT is missing"):
        RocksStore(path)
    for table in path.glob("*.sst"):
        table.unlink()
    # Rows may be in the log alone.
    with pytest.raises(DataError, match="CURRENT is missing"):
        RocksStore(path)


def test_a_damaged_block_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    table = next(path.glob("*.sst"))
    content = bytearray(table.read_bytes())
    for place in range(1000, len(content) // 2, 500):
        content[place] ^= 0x55
    table.write_bytes(content)
    store = RocksStore(path)
    with pytest.raises(DataError, match=r"Corruption.*restore a backup"):
        store.scan(b"", b"\xff")
    with pytest.raises(DataError, match=r"Corruption.*restore a backup"):
        store.get_many([b"%06d" % number for number in range(200)])
    with pytest.raises(DataError, match=r"Corruption.*restore a backup"):
        for number in range(200):
            store.get(b"%06d" % number)
    store.close()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty and not a database"):
        RocksStore(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used as the database directory"):
        RocksStore(tmp_path / "file")


def test_what_an_interrupted_first_open_left_is_no_obstacle(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    for file in path.iterdir():
        if not file.name.startswith(("LOG", "LOCK", "IDENTITY", "OPTIONS-", "MANIFEST-", "rocksdict-config.json")):
            file.unlink()
    store = RocksStore(path)
    assert everything(store) == {}
    store.close()


class BrokenDisk:
    """Stands for the database handle of rocksdict; each call fails as a failing disk does."""

    def __init__(self) -> None:
        self.calls = 0

    def flush_wal(self, sync: bool) -> None:
        assert sync
        self.calls += 1
        raise Exception("IO error: While fdatasync: /db/000004.log: Input/output error")


def test_after_a_failed_flush_the_store_does_not_try_again(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    database, broken = store._db, BrokenDisk()
    store._db = broken  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            store.flush()
    with pytest.raises(OSError, match="Input/output error"):
        store.write({b"a": b""})
    with pytest.raises(OSError, match="Input/output error"):
        store.delete_range(b"a", b"b")
    with pytest.raises(OSError, match="Input/output error"):
        store.checkpoint(str(tmp_path / "copy"))
    assert broken.calls == 1
    database.close()


def test_a_checkpoint_that_cannot_be_made_does_no_harm_to_the_store(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    with pytest.raises(OSError, match="No such file or directory"):
        store.checkpoint(str(tmp_path / "no such directory" / "copy"))
    store.write({b"a": b"1"})
    store.flush()
    store.checkpoint(str(tmp_path / "copy"))
    store.close()


def table_bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in path.glob("*.sst"))


def some_rows(store: RocksStore, count: int) -> None:
    """Values that do not compress."""
    for number in range(count):
        store.write({b"%06d" % number: os.urandom(2_000)})


def test_a_compaction_gives_back_the_disk_of_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "db"
    store = RocksStore(path, write_buffer_bytes=1 << 20)
    some_rows(store, 10_000)
    store.compact(b"0", b"1")
    before = table_bytes(path)
    store.write({b"%06d" % number: None for number in range(9_000)})
    assert table_bytes(path) == before > 10_000 * 2_000
    store.compact(b"%06d" % 0, b"%06d" % 9_000)
    assert table_bytes(path) < 1_300 * 2_000
    assert len(everything(store)) == 1_000
    store.close()


def test_closing_ends_a_compaction_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "db"
    store = RocksStore(path, write_buffer_bytes=1 << 20)
    some_rows(store, 30_000)
    store.write({b"%06d" % number: None for number in range(0, 30_000, 2)})
    begun = threading.Event()

    def compact() -> None:
        begun.set()
        # Cut short or done: nobody is told, for it changes nothing.
        with contextlib.suppress(OSError):
            store.compact(b"0", b"1")

    thread = threading.Thread(target=compact)
    thread.start()
    begun.wait(10)
    store.write({b"last": b"word"})
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        store.compact(b"0", b"1")
    store = RocksStore(path)
    rows = everything(store)
    assert rows.pop(b"last") == b"word"
    assert sorted(rows) == [b"%06d" % number for number in range(1, 30_000, 2)]
    store.close()


def test_stats_count_what_is_there(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", write_buffer_bytes=64 << 10)
    for number in range(50):
        store.write({b"%06d" % (100 * number + row): b"x" * 100 for row in range(100)})
    stats = store.stats()
    assert stats["estimated_keys"] > 1000
    assert stats["memtable_bytes"] > 0
    assert stats["background_errors"] == stats["write_stopped"] == 0
    assert stats["level0_slowdown_files"] == LEVEL0_SLOWDOWN_FILES
    assert all(isinstance(value, float) for value in stats.values())
    store.close()


def test_slowdowns_and_stops_are_counted_together() -> None:
    line = "Write Stall (count): l0-file-count-limit-delays: 5, total-delays: 7, total-stops: 2\n"
    assert _total_stalls(line) == 9
    assert _total_stalls("") == 0


def test_the_text_log_of_rocksdb_stays_few_files(tmp_path: Path) -> None:
    for _ in range(8):
        RocksStore(tmp_path / "db").close()
    assert len(list((tmp_path / "db").glob("LOG*"))) <= 4
