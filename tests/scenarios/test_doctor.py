"""`wukong doctor` on real nodes: each of ten faults is made as it happens to operators, and has to be named."""

import contextlib
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.cluster import ClusterProcesses, NodeProcess, running_cluster
from tests.support.server import ROOT, ServerProcess, free_ports

SECRET = "one-secret-for-all-nodes"
NOBODY = 65_534


class Told(NamedTuple):
    exit_code: int
    findings: list[dict[str, str]]
    output: str

    def at(self, level: str, check: str = "") -> list[str]:
        return [each["text"] for each in self.findings if each["level"] == level and check in ("", each["check"])]

    def says(self, level: str, check: str, words: str) -> bool:
        return any(words in text for text in self.at(level, check))


def doctor(config: Path, *arguments: str, prefix: tuple[str, ...] = (), limit: int | None = None) -> Told:
    """limit: of open files."""

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    command = [*prefix, sys.executable, "-m", "wukong", "doctor", "--config", str(config), "--json", *arguments]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False, preexec_fn=lower
    )
    assert finished.stdout, finished.stderr
    findings = json.loads(finished.stdout)["findings"]
    assert all(each["advice"] for each in findings if each["level"] == "error"), findings
    return Told(finished.returncode, findings, finished.stdout + finished.stderr)


def config_of(node: ServerProcess) -> Path:
    return node.directory / "wk.yaml"


def changed(config: Path, target: Path, **values: Any) -> Path:
    """A copy of a configuration with other values; `cluster` is merged."""
    tree = yaml.safe_load(config.read_text())
    values["cluster"] = {**tree.get("cluster", {}), **values.get("cluster", {})}
    target.write_text(yaml.safe_dump(tree | values))
    return target


@pytest.fixture
def stopped(own_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A node with data in its log, that does not run."""
    server = own_server()
    server.start()
    assert server.stop() == 0
    return server


# -- one machine


def test_a_healthy_node_is_found_healthy_running_and_stopped(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server()
    server.start()
    running = doctor(config_of(server))
    assert [each for each in running.findings if each["level"] == "error" and each["check"] != "disk"] == []
    assert running.says("ok", "api", "is healthy")
    assert running.says("ok", "ports", "listens on all its ports")
    assert running.says("ok", "clock", "agrees with")
    assert running.says("note", "data", f"process {server.pid} runs")
    assert server.stop() == 0
    at_rest = doctor(config_of(server))
    assert at_rest.says("ok", "log", "the log is whole")
    assert at_rest.says("ok", "ports", f"{server.http_port}")
    assert at_rest.says("note", "api", "no server runs")
    assert [each for each in at_rest.findings if each["level"] == "error" and each["check"] != "disk"] == []


def test_the_doctor_leaves_the_data_as_they_were(stopped: ServerProcess) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in stopped.data_dir.rglob("*") if path.is_file()}

    segment = max(stopped.data_dir.glob("wal/*.wal"))
    os.truncate(segment, segment.stat().st_size - 3)
    before = files()
    doctor(config_of(stopped))
    assert files() == before


def test_a_wrong_permission_is_named(stopped: ServerProcess) -> None:
    if os.geteuid() == 0:
        os.chown(stopped.data_dir, NOBODY, NOBODY)
        told = doctor(config_of(stopped))
        assert told.says("warning", "permissions", "wrong permission")
        assert told.says("error", "permissions", "belong to another user")
    else:
        stopped.data_dir.chmod(0o500)
        told = doctor(config_of(stopped))
        assert told.says("error", "permissions", "wrong permission")
        stopped.data_dir.chmod(0o700)


def test_a_port_that_is_taken_is_named_with_who_has_it(stopped: ServerProcess) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", stopped.tcp_port))
        other.listen()
        told = doctor(config_of(stopped))
    assert told.exit_code == 1
    assert told.says("error", "ports", f"port {stopped.tcp_port} (addr) is taken by process {os.getpid()}")


def test_a_full_disk_is_named(stopped: ServerProcess, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    config = changed(config_of(stopped), tmp_path / "full.yaml", dataDir=str(place / "data"))
    fill = f"mount -t tmpfs -o size=100m none {place} && head -c 99m /dev/zero > {place}/fill"
    can = subprocess.run(["unshare", "-m", "sh", "-c", fill], capture_output=True, timeout=60, check=False)
    if can.returncode != 0:
        pytest.skip("this user may not mount; tests/cli/doctor/test_disk.py judges a full disk")
    told = doctor(config, prefix=("unshare", "-m", "sh", "-c", f'{fill} && "$@"', "sh"))
    assert told.exit_code == 1
    assert told.says("error", "disk", "99 % full")
    assert told.says("warning", "disk", "tmpfs")


def test_a_torn_log_is_named_and_damage_inside_it_is_an_error(stopped: ServerProcess) -> None:
    segment = max(stopped.data_dir.glob("wal/*.wal"))
    content = segment.read_bytes()
    os.truncate(segment, len(content) - 3)
    assert doctor(config_of(stopped)).says("warning", "log", "torn log")
    middle = len(content) // 2
    segment.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    told = doctor(config_of(stopped))
    assert told.exit_code == 1
    assert told.says("error", "log", "damaged")


def test_too_few_file_descriptors_are_named(stopped: ServerProcess) -> None:
    told = doctor(config_of(stopped), limit=256)
    assert told.exit_code == 1
    assert told.says("error", "files", "too few file descriptors: 256")


def test_an_unreachable_webhook_is_named_without_what_is_secret_in_its_address(
    stopped: ServerProcess, tmp_path: Path
) -> None:
    port = free_ports(1)[0]
    hook = {"httpAddr": f"http://user:hidden-password@127.0.0.1:{port}/hook?key=hidden-key"}
    told = doctor(changed(config_of(stopped), tmp_path / "hook.yaml", webhook=hook))
    assert told.exit_code == 1
    assert told.says("error", "webhook", f"127.0.0.1:{port} (webhook.httpAddr) is unreachable")
    assert "hidden" not in told.output


# -- a cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    directory = tmp_path_factory.mktemp("doctor")
    with running_cluster(directory, settings={"wukong": {"slotCount": 4}}, secret=SECRET, proxied=False) as running:
        yield running


@contextlib.contextmanager
def odd(node: NodeProcess, directory: Path, code: str) -> Iterator[None]:
    """The node's next life runs with this code before it."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    os.environ["PYTHONPATH"] = str(directory)
    try:
        node.start()
    finally:
        del os.environ["PYTHONPATH"]
    yield
    node.kill()


def test_a_healthy_cluster_is_found_healthy(nodes: ClusterProcesses) -> None:
    nodes.wait_healthy()
    told = doctor(config_of(nodes[1]))
    assert [each for each in told.findings if each["level"] == "error" and each["check"] != "disk"] == []
    assert len(told.at("ok", "peers")) == 3
    assert told.says("ok", "cluster", "3 nodes")
    assert len(told.at("ok", "api")) == 3, "the other nodes' APIs are asked too"


def test_a_wrong_cluster_secret_is_named(nodes: ClusterProcesses, tmp_path: Path) -> None:
    wrong = changed(config_of(nodes[1]), tmp_path / "wrong.yaml", cluster={"secret": "another-secret-of-20"})
    told = doctor(wrong)
    assert told.exit_code == 1
    assert len([text for text in told.at("error", "peers") if "wrong secret" in text]) == 3, "of this node's file too"
    assert nodes.wait_healthy() < 30, "nobody was disturbed"


def test_a_missing_peer_is_named_by_a_node_and_from_outside(nodes: ClusterProcesses, tmp_path: Path) -> None:
    nodes[3].kill()
    told = doctor(config_of(nodes[1]))
    assert told.exit_code == 1
    assert told.says("error", "peers", "missing peer: node 3")
    command = [sys.executable, "-m", "wukong", "doctor", "--json", "--api", nodes[1].http_url]
    outside = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    nodes[3].start()
    assert outside.returncode == 1
    assert "missing peer: node 3" in outside.stdout


def test_mixed_versions_are_named(nodes: ClusterProcesses, tmp_path: Path) -> None:
    nodes[3].kill()
    with odd(nodes[3], tmp_path / "odd", "import wukong\nwukong.__version__ = '9.8.7'\n"):
        nodes.wait_healthy()
        told = doctor(config_of(nodes[1]))
    nodes[3].start()
    assert told.says("warning", "versions", "9.8.7")
    assert any("mixed versions" in text for text in told.at("warning", "versions"))


def test_a_clock_that_is_ten_minutes_off_is_named(nodes: ClusterProcesses, tmp_path: Path) -> None:
    code = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + 600
time.time_ns = lambda: _time_ns() + 600 * 10**9
"""
    nodes[3].kill()
    with odd(nodes[3], tmp_path / "odd", code):
        nodes.wait_healthy()
        told = doctor(config_of(nodes[1]))
    nodes[3].start()
    assert told.exit_code == 1
    off = [text for text in told.at("error", "clock") if "clock off" in text]
    assert len(off) == 1
    assert nodes[3].http_url in off[0]
    assert "10 min" in off[0] or "9 min 59 s" in off[0]


# -- the archive


def test_the_bundle_tells_everything_but_the_secrets(own_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    secrets = {
        "manager": "mgr-token-5f3a",
        "readonly": "look-only-77ab",
        "cluster": "cluster-secret-0123456789",
        "jwt": "jwt-secret-abcdef-0123456789-abcdef",
        "webhook": "webhook-secret-0123456789",
        "console": "console-pass-9",
        "url_password": "url-pass-1",
        "url_query": "url-query-2",
        "datasource": "ds-pass-3",
        "logged_user_token": "user-tok-4",
    }
    manager_port = free_ports(1)[0]
    server = own_server(
        managerToken=secrets["manager"],
        manager={"on": True, "addr": f"127.0.0.1:{manager_port}", "readonlyToken": secrets["readonly"]},
        cluster={"secret": secrets["cluster"], "addr": f"tcp://127.0.0.1:{free_ports(1)[0]}"},
        jwt={"secret": secrets["jwt"]},
        auth={"users": [f"ann:{secrets['console']}:*"]},
        webhook={"httpAddr": f"http://ann:{secrets['url_password']}@127.0.0.1:1/?key={secrets['url_query']}"},
        datasource={"addr": f"http://x:{secrets['datasource']}@127.0.0.1:1/"},
        wukong={"webhookSecret": secrets["webhook"]},
    )
    server.start()
    log = tmp_path / "server.log"
    shutil.copy(server.log_path, log)
    with log.open("a") as file:
        file.write(
            "".join(f"INFO someone wrote {name} {value}\n" for name, value in secrets.items() if "user" not in name)
        )
        file.write(f'DEBUG body {{"uid":"u1","token":"{secrets["logged_user_token"]}"}}\n')
        file.write("a harmless last line\n")
    archive = tmp_path / "support.tar.gz"
    told = doctor(config_of(server), "--bundle", str(archive), "--log", str(log))
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as opened:
        content = {
            member.name.partition("/")[2]: file.read()
            for member in opened
            if (file := opened.extractfile(member)) is not None
        }
    leaks = [
        (name, where)
        for name, value in secrets.items()
        for where, text in {**content, "stdout": told.output.encode()}.items()
        if value.encode() in text
    ]
    assert leaks == []
    assert {"README.txt", "findings.json", "config.json", "versions.json", "log.txt"} <= content.keys()
    assert json.loads(content["config.json"])["managerToken"] == "***"
    assert json.loads(content["api-1/status.json"])["nodes"]
    assert b"wukong_sessions" in content["api-1/metrics.txt"]
    assert b"a harmless last line" in content["log.txt"]
    assert str(server.http_port).encode() in content["config.json"]


def test_a_bundle_does_not_replace_a_file(stopped: ServerProcess, tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.write_text("mine")
    command = [sys.executable, "-m", "wukong", "doctor", "--config", str(config_of(stopped)), "--bundle", str(target)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 2
    assert target.read_text() == "mine"
