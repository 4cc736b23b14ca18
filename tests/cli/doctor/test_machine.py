import os
import resource

import pytest

from wukong.cli.doctor import machine
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING


@pytest.mark.parametrize(
    ("limit", "used", "level"),
    [
        (256, None, ERROR),
        (1_024, None, WARNING),
        (65_536, None, OK),
        (resource.RLIM_INFINITY, None, OK),
        (65_536, 60_000, ERROR),
        (65_536, 100, OK),
    ],
)
def test_file_descriptors_must_be_enough_for_clients(limit: int, used: int | None, level: str) -> None:
    assert machine.judge_files(limit, used).level == level


def test_a_running_server_is_judged_by_its_own_limits() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = machine.look_at_files(os.getpid())
    assert f"{soft:,}" in told.text or told.level == OK
    assert machine.look_at_files(2**22 + 1).text.startswith("not checked")


def test_a_short_queue_of_the_kernel_is_told_with_the_command_that_makes_it_longer() -> None:
    assert machine.judge_somaxconn(4_096).level == OK
    assert machine.judge_somaxconn(1_024).level == NOTE
    assert machine.judge_somaxconn(128).level == WARNING
    assert "sysctl" in machine.judge_somaxconn(128).advice
    assert machine.look_at_kernel().check == "kernel"


def test_a_clock_that_nobody_steers_is_noted() -> None:
    assert [machine.judge_own_clock(state).level for state in (-1, 0, 1, 5)] == [NOTE, OK, OK, NOTE]
    assert machine.look_at_own_clock().check == "clock"
