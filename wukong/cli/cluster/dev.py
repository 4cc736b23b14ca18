"""`wukong cluster dev`: a whole cluster on this machine with one command, until Ctrl-C."""

import asyncio
import contextlib
import errno
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wukong.cli.cluster import layout
from wukong.cli.cluster.layout import DevNode, Plan
from wukong.cli.options import AsJson
from wukong.cli.output import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, print_json, warn
from wukong.errors import WukongError

if TYPE_CHECKING:
    from rich.status import Status

    from wukong.cli.cluster.processes import NodeProcess

POLL_S: Final = 0.2
PROBE_TIMEOUT_S: Final = 2.0
STAMP: Final = "cluster.json"
_COLOURS: Final = ("cyan", "green", "magenta", "blue", "yellow")


class ClusterFailed(WukongError):
    """The cluster did not come up, or is gone; the text is for people."""


def dev(
    nodes: Annotated[int, typer.Option("--nodes", "-n", help="Nodes to start.", min=1, max=layout.MAX_NODES)] = 3,
    first: Annotated[
        int, typer.Option("--first", help="Number of the first node. Above 1001: they join the cluster that runs here.")
    ] = layout.FIRST_NODE,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the data stay, for the next start too. Without it: a temporary folder."),
    ] = None,
    base_port: Annotated[
        int, typer.Option("--base-port", help="APIs from N+1, TCP N+100, WebSocket N+200, other nodes N+400.")
    ] = layout.DEFAULT_BASE_PORT,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the temporary folder at the end.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start a node again when it dies.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show everything the nodes log.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until all must be healthy.", min=1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run a cluster on this machine, on loopback, until Ctrl-C.

    Starts a server process per node, waits until all are healthy and says where they are. From then on their
    warnings are shown; all they log is in DIR/node-ID/server.log.

    Example: wukong cluster dev --nodes 3

    Kept, and restarted when a node dies: wukong cluster dev --dir ./cluster --restart

    Two more nodes beside it: wukong cluster dev --nodes 2 --first 1004
    """
    try:
        plan = layout.lay_out(nodes, first=first, base_port=base_port)
        check_ports(plan)
        with folder(directory, plan, keep=keep) as place:
            asyncio.run(Cluster(plan, place, restart, verbose, as_json).run(timeout))
    except KeyboardInterrupt:
        # Before the first node was started; later it is the ordinary end.
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except ValueError as error:
        _end(error, EXIT_USAGE, as_json)
    except (ClusterFailed, OSError) as error:
        _end(error, EXIT_REFUSED, as_json)


def _end(error: Exception, status: int, as_json: bool) -> None:
    warn(str(error))
    if as_json:
        print_json({"error": str(error)})
    raise typer.Exit(status) from None


def check_ports(plan: Plan) -> None:
    """Raises ClusterFailed that names every port in use."""
    taken = []
    for node in plan.nodes:
        for port, purpose in node.ports().items():
            with socket.socket() as probe:
                # As the servers bind: what is left of ended connections does not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((layout.HOST, port))
                except OSError as error:
                    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                        raise
                    taken.append(f"{port} ({purpose} of node {node.node})")
    if taken:
        raise ClusterFailed(
            f"in use already: port{'s' * (len(taken) > 1)} {', '.join(taken)}. Does another cluster or server run? "
            "--base-port chooses others"
        )


@contextlib.contextmanager
def folder(directory: Path | None, plan: Plan, *, keep: bool) -> Iterator[Path]:
    """Where the nodes have their data. A given folder belongs to what was made in it: other ports, or a cluster where
    nodes joined one, are refused with ValueError, because the nodes know each other by their addresses."""
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="wukong-cluster-"))
        _claim(place, plan)
        try:
            yield place
        finally:
            if keep:
                warn(f"the data are kept in {place}; --dir {place} goes on with them")
            else:
                shutil.rmtree(place, ignore_errors=True)
        return
    place = directory.resolve()
    place.mkdir(parents=True, exist_ok=True)
    _claim(place, plan)
    yield place


def _claim(place: Path, plan: Plan) -> None:
    """Write into an empty folder whose it is, or compare."""
    import msgspec

    wanted = {"first": plan.nodes[0].node, "base_port": plan.base_port}
    stamp = place / STAMP
    if stamp.exists():
        try:
            found = msgspec.json.decode(stamp.read_bytes(), type=dict[str, int])
        except msgspec.MsgspecError:
            found = {}
        if found != wanted:
            options = f"--first {found.get('first')} --base-port {found.get('base_port')}"
            raise ValueError(f"{place} holds a cluster made with {options}: use the same, or another --dir")
    elif any(place.iterdir()):
        raise ValueError(f"{place} is not empty and holds no cluster of this command; choose another --dir")
    else:
        stamp.write_bytes(msgspec.json.encode(wanted))


class Cluster:
    """The processes and the screen. `run` returns after Ctrl-C; raises ClusterFailed."""

    def __init__(self, plan: Plan, place: Path, restart: bool, verbose: bool, as_json: bool) -> None:
        from rich.console import Console

        self._plan = plan
        self._place = place
        self._restart = restart
        self._verbose = verbose
        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False)
        self._processes: dict[int, NodeProcess] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._stop_requests = 0
        self._is_ready = False

    async def run(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        try:
            self._start()
            await self._until_ready(timeout_s)
            if not self._stop.is_set():
                self._is_ready = True
                for process in self._processes.values():
                    process.watcher.expects_warnings = False
                self._announce()
                await self._until_stopped()
        finally:
            await self._end()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    # -- start --

    def _start(self) -> None:
        import yaml

        from wukong.cli.cluster.processes import NodeProcess

        for node in self._plan.nodes:
            home = self._place / f"node-{node.node}"
            home.mkdir(exist_ok=True)
            config = home / "wk.yaml"
            config.write_text(yaml.safe_dump(dict(layout.configuration(node, self._plan, str(home))), sort_keys=False))
            process = self._processes[node.node] = NodeProcess(
                node.node,
                config,
                home / "server.log",
                show=self._show,
                died=self._tell_death,
                restart=self._restart,
                verbose=self._verbose,
            )
            process.watcher.expects_warnings = True
            self._lives[node.node] = asyncio.get_running_loop().create_task(process.run())

    async def _until_ready(self, timeout_s: float) -> None:
        """Until every node is healthy, or Ctrl-C."""
        began = time.monotonic()
        count = len(self._plan.nodes)
        with self._live_line(f"starting {count} node" + "s" * (count > 1)) as line:
            while not self._stop.is_set():
                nodes = self._plan.nodes
                states = dict(zip(nodes, await asyncio.gather(*map(self._state, nodes)), strict=True))
                if not any(states.values()):
                    return
                self._raise_if_lost()
                spent_s = time.monotonic() - began
                if spent_s > timeout_s:
                    raise ClusterFailed(self._why_not(states, timeout_s))
                if line is not None:
                    line.update(f"{progress_text(states)} ({spent_s:.0f} s)")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._stop.wait()

    @contextlib.contextmanager
    def _live_line(self, text: str) -> Iterator["Status | None"]:
        """One line that changes, on a terminal; the text once elsewhere."""
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
            yield None
            return
        with self._console.status(text) as line:
            yield line

    async def _state(self, node: DevNode) -> str:
        """Why a node is not there yet; "" when it is."""
        from wukong.cli.cluster.probe import ask

        process = self._processes[node.node]
        if not process.is_running:
            return "starting"
        reason = await asyncio.to_thread(ask, layout.HOST, node.api_port, timeout_s=PROBE_TIMEOUT_S)
        return "starting" if reason == "nobody listens there" else reason

    def _raise_if_lost(self) -> None:
        """Without --restart a node that died while starting does not come any more."""
        for node, life in self._lives.items():
            if life.done():
                if (fault := life.exception()) is not None:
                    raise ClusterFailed(f"node {node} cannot be run: {fault}") from fault
                raise ClusterFailed(
                    f"node {node} does not start; its log was {self._log_of(node)}:\n{self._tail(node)}"
                )

    def _why_not(self, states: dict[DevNode, str], timeout_s: float) -> str:
        lines = [f"not healthy within {timeout_s:g} s (--timeout gives more time):"]
        for node, reason in states.items():
            if reason:
                lines += [f"node {node.node}: {reason}. Last in {self._log_of(node.node)}:", self._tail(node.node)]
        return "\n".join(lines)

    def _log_of(self, node: int) -> Path:
        return self._place / f"node-{node}" / "server.log"

    def _tail(self, node: int) -> str:
        return "\n".join(f"  {line}" for line in self._processes[node].watcher.tail)

    # -- run --

    def _announce(self) -> None:
        if self._as_json:
            rows = [
                {
                    "id": node.node,
                    "api": node.api,
                    "tcp": node.tcp,
                    "ws": node.ws,
                    "addr": node.addr,
                    "pid": self._processes[node.node].pid,
                }
                for node in self._plan.nodes
            ]
            print_json({"dir": str(self._place), "nodes": rows})
            return
        from rich.console import Console
        from rich.table import Table

        # As narrow as it can be: with five-digit ports it just fits 80 columns.
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("node", "API", "TCP", "WebSocket", "pid"):
            table.add_column(name, no_wrap=True)
        for node in self._plan.nodes:
            table.add_row(str(node.node), node.api, node.tcp, node.ws, str(self._processes[node.node].pid))
        console = Console(highlight=False)
        console.print(table)
        console.print()
        console.print(layout.advice(self._plan), soft_wrap=True)
        console.print(f"Data and logs: {self._place}\nCtrl-C stops all nodes.", soft_wrap=True)
        sys.stdout.flush()

    async def _until_stopped(self) -> None:
        """Until Ctrl-C. Raises ClusterFailed when no node is left."""
        asked = asyncio.ensure_future(self._stop.wait())
        try:
            lives = set(self._lives.values())
            while lives and not self._stop.is_set():
                done, _ = await asyncio.wait({*lives, asked}, return_when=asyncio.FIRST_COMPLETED)
                for life in done & lives:
                    lives.discard(life)
                    await life
        finally:
            asked.cancel()
        if not self._stop.is_set():
            raise ClusterFailed("no node is left")

    def _show(self, node: int, line: str) -> None:
        from rich.text import Text

        colour = _COLOURS[node % len(_COLOURS)]
        text = Text(f"{node} | ", style=colour) + Text(line, style="default")
        self._console.print(text, soft_wrap=True)

    def _tell_death(self, node: int, text: str) -> None:
        from rich.text import Text

        if not self._restart and self._is_ready:
            text += "; with --restart such a node is started again"
        self._console.print(Text(f"{node} | {text}", style="bold red"), soft_wrap=True)

    # -- end --

    def _ask_to_stop(self) -> None:
        self._stop_requests += 1
        self._stop.set()
        if self._stop_requests > 1:
            for process in self._processes.values():
                process.kill()

    async def _end(self) -> None:
        from wukong.cli.cluster.processes import STOP_TIMEOUT_S

        running = [each for each in self._processes.values() if each.is_running]
        for process in self._processes.values():
            process.watcher.expects_warnings = True
            process.ask_to_stop()
        if not self._lives:
            return
        count = len(running)
        with self._live_line(f"stopping {count} node" + "s" * (count != 1)):
            _, late = await asyncio.wait(self._lives.values(), timeout=STOP_TIMEOUT_S)
            if late:
                slow = [str(each.node) for each in self._processes.values() if each.is_running]
                for process in self._processes.values():
                    process.kill()
                warn(f"killed after {STOP_TIMEOUT_S:.0f} s: node {', '.join(slow)}")
                await asyncio.wait(late, timeout=STOP_TIMEOUT_S)


def progress_text(states: dict[DevNode, str]) -> str:
    """One line: how many are there, and why the others are not."""
    waiting: dict[str, list[str]] = {}
    for node, reason in states.items():
        if reason:
            waiting.setdefault(reason, []).append(str(node.node))
    ready_count = sum(not reason for reason in states.values())
    parts = [f"{ready_count} of {len(states)} nodes are up"]
    parts += [f"{', '.join(names)}: {reason}" for reason, names in waiting.items()]
    return "; ".join(parts)
