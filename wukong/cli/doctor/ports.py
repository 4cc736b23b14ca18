"""The addresses of the configuration: can they be listened on, or does the running server listen there?"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from wukong.cli.doctor.finding import ERROR, OK, WARNING, Finding
from wukong.config import Address, Config
from wukong.config.keys import ManagerConfig

CHECK: Final = "ports"
CONNECT_TIMEOUT_S: Final = 2.0
_LISTENING: Final = "0A"


class Listener(NamedTuple):
    """needed: a server that cannot have it does not start."""

    key: str
    address: Address
    needed: bool = True


def listeners(config: Config) -> list[Listener]:
    found = [
        Listener("httpAddr", config.http_addr),
        Listener("addr", config.tcp_addr),
        Listener("wsAddr", config.ws_addr),
    ]
    if config.wss_addr is not None:
        found.append(Listener("wssAddr", config.wss_addr))
    if config.manager.on:
        # Nobody asked for the default one: a server that cannot have it goes without.
        found.append(Listener("manager.addr", config.manager.addr, config.manager.addr != ManagerConfig.addr))
    if not config.cluster.is_single_node:
        found.append(Listener("cluster.addr", config.cluster.addr))
    return [each for each in found if each.address.port]


def look_at_free_ports(config: Config) -> list[Finding]:
    """While no server runs."""
    found = [fault for each in listeners(config) if (fault := _try(each)) is not None]
    if found:
        return found
    ports = ", ".join(str(each.address.port) for each in listeners(config))
    return [Finding(CHECK, OK, f"free: {ports}")] if ports else []


def _try(listener: Listener) -> Finding | None:
    try:
        where = socket.getaddrinfo(
            listener.address.host or None, listener.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in where:
            with socket.socket(family, kind, protocol) as probe:
                # As the server binds: what is left of ended connections does not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        return judge_refusal(listener, error, owner_of(listener.address.port))
    return None


def judge_refusal(listener: Listener, error: OSError, owner: str) -> Finding:
    level = ERROR if listener.needed else WARNING
    key, address = listener.key, listener.address
    if error.errno == errno.EADDRINUSE:
        text = f"port {address.port} ({key}) is taken by {owner or 'another process'}"
        return Finding(CHECK, level, text, f"stop that, or choose another port (key {key})")
    if error.errno in (errno.EACCES, errno.EPERM):
        text = f"this user may not listen on port {address.port} ({key})"
        return Finding(CHECK, level, text, "choose a port above 1023, or give the right (CAP_NET_BIND_SERVICE)")
    text = f"{address} ({key}) cannot be listened on: {error.strerror or error}"
    return Finding(CHECK, level, text, "choose an address of this machine, or 0.0.0.0 for all")


def look_at_served_ports(config: Config, pid: int) -> list[Finding]:
    """While the server of this configuration runs as pid, if that is known (above 0)."""
    found = []
    for listener in listeners(config):
        key, address = listener.key, listener.address
        owner = owner_of(address.port)
        if not _answers(address):
            if not listener.needed:
                continue
            text = f"the server runs, but nobody listens on {address} ({key})"
            advice = "it is still starting, waits for other nodes, or runs with another configuration than this one"
            found.append(Finding(CHECK, ERROR, text, advice))
        elif owner and pid > 0 and not owner.startswith(f"process {pid} "):
            text = f"port {address.port} ({key}) is taken by {owner}, not by the server, which is process {pid}"
            advice = f"stop that and restart the server, or choose another port (key {key})"
            found.append(Finding(CHECK, ERROR if listener.needed else WARNING, text, advice))
    return found or [Finding(CHECK, OK, "the server listens on all its ports")]


def _answers(address: Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(address.host, address.host)
    try:
        with socket.create_connection((host, address.port), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


# -- who listens


def owner_of(port: int) -> str:
    """`process 123 (nginx)`, of the first process found that listens on the port; "" if it cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return ""
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if not sockets.isdisjoint(_files_of(process)):
            with contextlib.suppress(OSError):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def _files_of(process: Path) -> Iterator[str]:
    """None of another user's, and none of one that is gone."""
    try:
        numbers = os.listdir(process / "fd")
    except OSError:
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            yield os.readlink(process / "fd" / number)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
