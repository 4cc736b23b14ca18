from pathlib import Path

from wukong.cli.cluster.log_lines import LINE_LIMIT_BYTES, LINES_LIMIT, PERIOD_S, TAIL_LINES, Lines, LogFile, Watcher

WARNING = "2026-01-02 03:04:05,678 WARNING wukong: beware"
INFO = "2026-01-02 03:04:05,678 INFO wukong: ready"


def test_lines_come_whole_however_the_bytes_are_cut() -> None:
    data = "eins\nzwei\r\n\ndräi\nrest".encode()
    for cut in range(len(data)):
        lines = Lines()
        found = lines.feed(data[:cut]) + lines.feed(data[cut:]) + lines.end()
        assert found == ["eins", "zwei", "", "dräi", "rest"]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    lines = Lines()
    assert lines.feed(b"x" * LINE_LIMIT_BYTES) == []
    assert [len(each) for each in lines.feed(b"x")] == [LINE_LIMIT_BYTES + 1]
    assert lines.end() == []


def test_warnings_are_shown_and_the_rest_is_not() -> None:
    watcher = Watcher()
    assert watcher.look(INFO, 0) == []
    assert watcher.look(WARNING, 0) == ["03:04:05 WARNING wukong: beware"]


def test_a_traceback_is_shown_with_the_error_it_belongs_to() -> None:
    watcher = Watcher()
    watcher.look(WARNING.replace("WARNING", "ERROR"), 0)
    assert watcher.look("  File x, line 1", 0) == ["  File x, line 1"]
    watcher.look(INFO, 0)
    assert watcher.look("  more of an information", 0) == []


def test_a_fault_before_logging_begins_is_shown() -> None:
    assert Watcher(expects_warnings=True).look("wukong: addr: nonsense", 0) == ["wukong: addr: nonsense"]


def test_while_starting_a_warning_is_no_news_but_an_error_is() -> None:
    watcher = Watcher(expects_warnings=True)
    assert watcher.look(WARNING, 0) == []
    assert watcher.look(WARNING.replace("WARNING", "ERROR"), 0) != []
    watcher.expects_warnings = False
    assert watcher.look(WARNING, 0) != []


def test_a_flood_is_cut_and_counted() -> None:
    watcher = Watcher()
    shown = [line for _ in range(LINES_LIMIT + 5) for line in watcher.look(WARNING, 1.0)]
    assert len(shown) == LINES_LIMIT
    after = watcher.look(WARNING, 1.0 + PERIOD_S)
    assert after == ["... 5 more lines; the node's log file has them", "03:04:05 WARNING wukong: beware"]


def test_verbose_shows_everything() -> None:
    watcher = Watcher(verbose=True, expects_warnings=True)
    shown = [line for _ in range(2 * LINES_LIMIT) for line in watcher.look(INFO, 1.0)]
    assert len(shown) == 2 * LINES_LIMIT


def test_the_last_lines_are_remembered_as_they_were() -> None:
    watcher = Watcher()
    for number in range(100):
        watcher.look(f"{INFO} {number}", 0)
    assert len(watcher.tail) == TAIL_LINES
    assert watcher.tail[-1] == f"{INFO} 99"


def test_a_log_file_is_set_aside_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    file = LogFile(path, limit_bytes=10)
    for text in (b"first\n", b"second\n", b"third\n"):
        file.write(text)
    file.close()
    assert path.read_bytes() == b"third\n"
    assert (tmp_path / "server.log.1").read_bytes() == b"second\n"


def test_a_log_file_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        file = LogFile(tmp_path / "server.log")
        file.write(text)
        file.close()
    assert (tmp_path / "server.log").read_bytes() == b"first\nsecond\n"


def test_a_disk_that_refuses_does_not_stop_the_reading(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "server.log")
    file.close()
    file.write(b"lost\n")
