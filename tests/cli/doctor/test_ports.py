import errno
import os
import socket
from pathlib import Path

import pytest

from wukong.cli.doctor import ports
from wukong.cli.doctor.finding import ERROR, OK, WARNING
from wukong.cli.doctor.ports import Listener, judge_refusal
from wukong.config import Address, Config, load_config


def config(tmp_path: Path, **keys: str) -> Config:
    every = {"WK_HTTPADDR": "127.0.0.1:0", "WK_ADDR": "tcp://127.0.0.1:0", "WK_WSADDR": "ws://127.0.0.1:0"}
    every |= {"WK_MANAGER_ON": "false", "WK_DATADIR": str(tmp_path), **keys}
    return load_config(None, every, embedded=True)[0]


@pytest.fixture
def listening() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_ports_that_the_system_chooses_are_not_looked_at(tmp_path: Path) -> None:
    assert ports.listeners(config(tmp_path)) == []
    assert ports.look_at_free_ports(config(tmp_path)) == []


def test_a_taken_port_is_told_with_its_key_and_owner(tmp_path: Path, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    (found,) = ports.look_at_free_ports(config(tmp_path, WK_WSADDR=f"ws://0.0.0.0:{port}"))
    assert found.level == ERROR
    assert f"port {port} (wsAddr) is taken by process {os.getpid()} (" in found.text


def test_a_running_server_is_known_by_its_pid(tmp_path: Path, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    chosen = config(tmp_path, WK_ADDR=f"tcp://127.0.0.1:{port}")
    assert [each.level for each in ports.look_at_served_ports(chosen, os.getpid())] == [OK]
    (found,) = ports.look_at_served_ports(chosen, os.getppid())
    assert (found.level, "not by the server" in found.text) == (ERROR, True)


def test_a_server_that_does_not_listen_is_told(tmp_path: Path, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    (found,) = ports.look_at_served_ports(config(tmp_path, WK_ADDR=f"tcp://127.0.0.1:{port}"), os.getpid())
    assert (found.level, "nobody listens" in found.text) == (ERROR, True)


def test_every_refusal_says_what_to_do() -> None:
    listener = Listener("httpAddr", Address("127.0.0.1", 80))
    for number in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
        found = judge_refusal(listener, OSError(number, os.strerror(number)), "")
        assert (found.level, bool(found.advice)) == (ERROR, True)
    assert judge_refusal(listener._replace(needed=False), OSError(errno.EADDRINUSE, ""), "").level == WARNING


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    (found,) = ports.look_at_free_ports(config(tmp_path, WK_HTTPADDR="192.0.2.1:5999"))
    assert (found.level, "192.0.2.1:5999" in found.text) == (ERROR, True)
