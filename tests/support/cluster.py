"""Several server processes that form one cluster on loopback, with a proxy on every way between them.

Loop-free like `ServerProcess`: from a coroutine call the blocking methods through `asyncio.to_thread`. Ports of a node
stay the same over its lives, since the other nodes and the clients know them.
"""

import contextlib
import json
import signal
import time
import urllib.error
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.proxy import LinkProxy
from tests.support.server import ServerFailed, ServerProcess, free_ports
from wukong.channel.ids import slot_of

FORM_TIMEOUT_S = 40.0
LEADERS_TIMEOUT_S = 30.0
# A disk that is replaced faster than a second process with the same number could be told from it.
EXCUSED = ("tells disk",)
_POLL_S = 0.02
_ASK_TIMEOUT_S = 3.0


class SlotStatus(NamedTuple):
    """leader: 0 when the asked node knows none."""

    slot: int
    leader: int
    term: int
    applied: int


class NodeProcess(ServerProcess):
    """One node of a cluster. Its ports are drawn once."""

    def __init__(self, directory: Path, node_id: int, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(directory, settings)
        self.node_id = node_id
        self.is_paused = False
        self.http_port, self.tcp_port, self.ws_port, self.cluster_port = free_ports(4)

    def launch(self) -> None:
        self.run_with(self.write_config())

    def start(self, timeout_s: float = FORM_TIMEOUT_S) -> None:
        assert not self.is_running
        self.launch()
        self.wait_ready(timeout_s)

    def kill(self) -> None:
        super().kill()
        self.is_paused = False

    def pause(self) -> None:
        """SIGSTOP: the process is there and does nothing."""
        self.signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        if self.is_paused and self.is_running:
            self.signal(signal.SIGCONT)
        self.is_paused = False

    def stop(self, timeout_s: float = 15.0) -> int:
        self.resume()
        return super().stop(timeout_s)

    # -- what it says of itself

    def ask(self, path: str, timeout_s: float = _ASK_TIMEOUT_S) -> Any:
        """A GET. Raises OSError for everything but a good answer."""
        with self.open(path, timeout_s) as answer:
            return json.loads(answer.read())

    @property
    def is_healthy(self) -> bool:
        return not self.is_paused and self.is_running and self._is_healthy()

    def why_unhealthy(self) -> str:
        try:
            with self.open("/health", _ASK_TIMEOUT_S) as answer:
                return "" if answer.status == 200 else f"HTTP {answer.status}"
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code} {error.read().decode(errors='replace')[:300]}"
        except OSError as error:
            return str(error) or type(error).__name__

    def slots(self) -> list[SlotStatus]:
        """Who leads each slot, as this node knows. Raises OSError."""
        return [
            SlotStatus(each["id"], each["leader"], each["term"], each["applied"])
            for each in self.ask("/cluster/status")["slots"]
        ]

    def disk(self) -> str:
        """The number of its data directory. Raises OSError."""
        found: str = next(each["disk"] for each in self.ask("/cluster/status")["nodes"] if each["id"] == self.node_id)
        return found

    def metrics(self) -> dict[str, float]:
        """Figures of GET /metrics; a figure with labels under its whole name. Raises OSError."""
        with self.open("/metrics", _ASK_TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


class ClusterProcesses:
    """Created stopped. settings: of every node's wk.yaml; own_settings: of one node, by its number, merged over these.

    nodes: how many; they are numbered 1, 2, 3, ... proxied: with a proxy on the ways between them, which is `links`.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        settings: Mapping[str, Any] | None = None,
        *,
        own_settings: Mapping[int, Mapping[str, Any]] | None = None,
        secret: str = "",
        proxied: bool = True,
    ) -> None:
        self.directory = directory
        self.settings = dict(settings or {})
        self.slot_count = int(self.settings.get("wukong", {}).get("slotCount", 16))
        self.nodes = {number: NodeProcess(directory / f"node-{number}", number) for number in range(1, nodes + 1)}
        self._proxy = LinkProxy({number: node.cluster_port for number, node in self.nodes.items()}) if proxied else None
        for number, node in self.nodes.items():
            node.settings = merged(self.settings, (own_settings or {}).get(number, {}))
            node.settings = merged(node.settings, {"cluster": self._cluster_section(number, secret)})

    def _cluster_section(self, number: int, secret: str) -> dict[str, Any]:
        ports = {other: self._proxy.port(number, other) if self._proxy and other != number else node.cluster_port
                 for other, node in self.nodes.items()}  # fmt: skip
        return {
            "nodeId": number,
            "addr": f"tcp://127.0.0.1:{self.nodes[number].cluster_port}",
            "apiUrl": self.nodes[number].http_url,
            "initNodes": [f"{other}@127.0.0.1:{port}" for other, port in ports.items()],
            **({"secret": secret} if secret else {}),
        }

    def __getitem__(self, number: int) -> NodeProcess:
        return self.nodes[number]

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self.nodes.values())

    @property
    def links(self) -> LinkProxy:
        assert self._proxy is not None, "made without a proxy"
        return self._proxy

    @property
    def http_url(self) -> str:
        """Of the first node: what names this cluster."""
        return self.nodes[1].http_url

    @property
    def running(self) -> list[NodeProcess]:
        return [node for node in self if node.is_running and not node.is_paused]

    # -- life

    def start(self, timeout_s: float = FORM_TIMEOUT_S) -> None:
        """Start all that do not run, and wait until every node says it is well and knows a leader of every slot."""
        for node in self:
            if not node.is_running:
                node.launch()
        for node in self:
            node.wait_ready(timeout_s)
        self.wait_leaders(timeout_s)

    def wait_healthy(self, timeout_s: float = FORM_TIMEOUT_S, nodes: Iterable[NodeProcess] | None = None) -> float:
        """Until these nodes, by default all, say they are well. Returns the seconds it took."""
        began = time.monotonic()
        waiting = list(self if nodes is None else nodes)
        while waiting := [node for node in waiting if not node.is_healthy]:
            for node in waiting:
                if not node.is_running:
                    raise ServerFailed(f"node {node.node_id} ended with code {node.wait()}\n{node.log_tail()}")
            if time.monotonic() - began > timeout_s:
                told = "\n".join(f"node {node.node_id}: {node.why_unhealthy()}\n{node.log_tail()}" for node in waiting)
                raise ServerFailed(f"not well within {timeout_s} s:\n{told}")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def stop(self) -> list[int]:
        """SIGTERM to all at once. Returns the exit codes of those that ran."""
        running = [node for node in self if node.is_running]
        for node in running:
            node.resume()
            node.signal(signal.SIGTERM)
        return [node.wait() for node in running]

    def kill(self) -> None:
        for node in self:
            node.kill()

    def close(self) -> None:
        """Kill what still runs, and end the proxy."""
        self.kill()
        if self._proxy is not None:
            self._proxy.close()

    def restart_one_after_the_other(self, *, settle_s: float = 0.0) -> None:
        """A rolling restart: each node is stopped in good order and is well again before the next goes."""
        for node in self:
            code = node.stop()
            if code != 0:
                raise ServerFailed(f"node {node.node_id} stopped with code {code}\n{node.log_tail()}")
            node.start()
            self.wait_healthy()
            time.sleep(settle_s)

    # -- leaders

    def slot(self, routing_key: str) -> int:
        """Of a channel's stored id or a uid."""
        return slot_of(routing_key, self.slot_count)

    def leaders(self, *, asked: int = 0) -> dict[int, int]:
        """Leader of each slot, 0 where none is known, as the first running node says, or the asked one."""
        last: OSError | None = None
        for node in [self.nodes[asked]] if asked else self.running:
            try:
                return {each.slot: each.leader for each in node.slots()}
            except OSError as error:
                last = error
        raise ServerFailed(f"no node answers: {last}")

    def leader_of(self, routing_key: str) -> int:
        return self.leaders()[self.slot(routing_key)]

    def led_by(self, number: int) -> list[int]:
        """Slots that a node leads, by its own word."""
        return [slot for slot, leader in self.leaders(asked=number).items() if leader == number]

    def busiest_leader(self) -> int:
        """The node that leads most slots; the lowest number of several."""
        counts = Counter(leader for leader in self.leaders().values() if leader)
        return min(counts, key=lambda number: (-counts[number], number))

    def wait_leaders(self, timeout_s: float = LEADERS_TIMEOUT_S, *, balanced: bool = False) -> dict[int, int]:
        """Until all running nodes name the same leader for every slot, and each of these runs. balanced: and no node
        leads over one slot more than another."""
        deadline = time.monotonic() + timeout_s
        seen: list[dict[int, int]] = []
        while time.monotonic() < deadline:
            running = self.running
            with contextlib.suppress(OSError, ServerFailed):
                seen = [self.leaders(asked=node.node_id) for node in running]
                agreed = all(each == seen[0] for each in seen)
                counts = Counter({node.node_id: 0 for node in running}) + Counter(seen[0].values())
                spread = [seen[0] and sum(leader == node.node_id for leader in seen[0].values()) for node in running]
                known = set(counts) <= {node.node_id for node in running}
                if agreed and known and (not balanced or max(spread) - min(spread) <= 1):
                    return seen[0]
            time.sleep(_POLL_S)
        raise ServerFailed(f"no agreement on leaders within {timeout_s} s: {seen}")

    def wait_taken_in(self, node: NodeProcess, old_disk: str, timeout_s: float = LEADERS_TIMEOUT_S * 3) -> None:
        """Until a node that came back with another disk than the old one votes in every slot."""
        deadline = time.monotonic() + timeout_s
        slots: list[Any] = []
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                slots = node.ask("/cluster/status")["slots"]
                disks = [{each["disk"]: each["voter"] for each in slot["members"] if each["node"] == node.node_id}
                         for slot in slots]  # fmt: skip
                if all(each and old_disk not in each and all(each.values()) for each in disks):
                    return
            time.sleep(_POLL_S)
        raise ServerFailed(f"node {node.node_id} does not vote everywhere within {timeout_s} s: {slots}")

    # -- log

    def complaints(self) -> list[str]:
        """Of all nodes, but for what follows from what a test does to them or from a slow machine."""
        return [
            f"node {node.node_id} {told}"
            for node in self
            for told in node.complaints()
            if not any(excused in told.splitlines()[0] for excused in EXCUSED)
        ]

    def log_tails(self) -> str:
        return "\n".join(node.log_tail() for node in self)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Sections merged, other values replaced."""
    out = dict(base)
    for key, value in over.items():
        held = out.get(key)
        out[key] = merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return out


@contextlib.contextmanager
def running_cluster(
    directory: Path, nodes: int = 3, settings: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[ClusterProcesses]:
    """Started; killed at the end, whatever happens. Complaints are the caller's to look at."""
    cluster = ClusterProcesses(directory, nodes, settings, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
