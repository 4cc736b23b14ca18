import os
from array import array
from pathlib import Path

import pytest

from wukong.cli.bench.figures import Samples, ServerProcesses, median_of, per, percentiles, shown


def test_percentiles_are_over_the_samples_of_all_processes() -> None:
    first, second = Samples(), Samples()
    for value in range(1, 51):
        first.add(value * 1_000_000)
    for value in range(51, 101):
        second.add(value * 1_000_000)
    found = percentiles("recv", [second.to_bytes(), first.to_bytes()])
    assert found == {"recv_p50_ms": 51.0, "recv_p99_ms": 100.0}


def test_no_samples_give_no_percentile() -> None:
    assert percentiles("x", [b""]) == {"x_p50_ms": None, "x_p99_ms": None}


def test_clocks_that_run_apart_give_no_negative_latency() -> None:
    samples = Samples()
    samples.add(-5)
    assert array("Q", samples.to_bytes()) == array("Q", [0])


def test_samples_stop_at_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wukong.cli.bench.figures.SAMPLES_LIMIT_COUNT", 2)
    samples = Samples()
    for value in range(5):
        samples.add(value)
    assert len(samples.to_bytes()) == 16


def test_medians_leave_out_what_was_not_measured() -> None:
    runs = [{"a": 1.0, "b": None}, {"a": 3.0, "b": None}, {"a": 100.0, "b": 5.0}]
    assert median_of(runs) == {"a": 3.0, "b": 5.0}


def test_processes_are_read_from_proc() -> None:
    server = ServerProcesses([os.getpid(), os.getppid()])
    cpu_s, rss_mib = server.cpu_s(), server.rss_mib()
    assert cpu_s is not None
    assert cpu_s > 0
    assert rss_mib is not None
    assert rss_mib > 10


def test_a_program_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 100 200 0 0")
    (folder / "status").write_text("Name:\tx\nVmRSS:\t  2048 kB\n")
    server = ServerProcesses([7], proc=tmp_path)
    assert server.cpu_s() == 300 / os.sysconf("SC_CLK_TCK")
    assert server.rss_mib() == 2.0


def test_no_pid_gives_no_figures_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    assert ServerProcesses([]).cpu_s() is None
    assert ServerProcesses([]).rss_mib() is None
    with pytest.raises(ValueError, match="no process 7"):
        ServerProcesses([7], proc=tmp_path)


def test_shares_of_nothing_are_nothing() -> None:
    assert per(None, 3) is None
    assert per(1.0, 0) is None
    assert per(1.0, 4, 100) == 25


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (3.0, "3"), (1234567.8, "1,234,568"), (0.12345, "0.123")])
def test_figures_are_shown_with_three_digits(value: float | None, text: str) -> None:
    assert shown(value) == text
