"""`wukong cluster status|add|remove|replace|transfer|settings`: look at a cluster, and say what it should be.

The cluster carries a change out by itself. The commands wait and show how far it is; they can be interrupted and given
again at any time.
"""

import asyncio
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wukong.cli.options import DEFAULT_API, Apis, AsJson, Token, address_list, api_url
from wukong.cli.output import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, print_json, report, run, warn

if TYPE_CHECKING:
    from rich.table import Table

    from wukong.cli.cluster.calls import ClusterClient
    from wukong.cli.cluster.goals import Goal, Standing
    from wukong.cli.cluster.status import ClusterStatus

POLL_S: Final = 0.5
WATCH_S: Final = 1.0
EVERY_SLOT: Final = -1

NodeId = Annotated[int, typer.Argument(help="The node's number, its cluster.nodeId.", metavar="NODE", min=1, max=1023)]
Addr = Annotated[str, typer.Argument(help="host:port of its cluster.addr, as others reach it.", metavar="HOST:PORT")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as the cluster has accepted it.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait; the cluster goes on after.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class SettingsAction(StrEnum):
    SHOW = "show"
    ADOPT = "adopt"


def _client(api: str, token: str) -> "ClusterClient":
    from wukong.cli.cluster.calls import ClusterClient

    return ClusterClient([api_url(each) for each in address_list(api)], token)


# -- looking --


def status(
    slots: Annotated[bool, typer.Option("--slots", help="A line for every slot too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second until Ctrl-C.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit status 1 if something is not as it should be.")] = False,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Nodes, slots, what the cluster is doing, and what is not as it should be.

    Example: wukong cluster status --api http://node1:5001,http://node2:5001
    """
    from wukong.cli.cluster.status import troubles

    async def work() -> "ClusterStatus":
        async with _client(api, token) as client:
            if watch and not as_json:
                await _watch(client, slots)
            return await client.status()

    found = run(work(), as_json=as_json)
    if as_json:
        import msgspec

        print_json({**msgspec.to_builtins(found), "troubles": troubles(found)})
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_picture(found, with_slots=slots), soft_wrap=not console.is_terminal)
    if check and troubles(found):
        raise typer.Exit(EXIT_REFUSED)


async def _watch(client: "ClusterClient", with_slots: bool) -> None:
    """Until Ctrl-C. A status that cannot be had is said in place of it."""
    from rich.console import Console
    from rich.live import Live

    from wukong.client.errors import ApiUnavailable

    with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            try:
                live.update(_picture(await client.status(), with_slots=with_slots), refresh=True)
            except ApiUnavailable as fault:
                live.update(f"{fault}; asking again", refresh=True)
            await asyncio.sleep(WATCH_S)


def _picture(found: "ClusterStatus", *, with_slots: bool) -> Any:  # any: what rich can draw
    from rich.console import Group
    from rich.text import Text

    from wukong.cli.cluster.status import headline, troubles

    parts: list[Any] = [Text(headline(found)), Text(), _nodes_table(found), Text()]
    if with_slots:
        parts += [_slots_table(found), Text()]
    if found.job:
        parts.append(Text(f"Under way: {found.job}"))
    parts += [Text(f"Snapshot: {each}") for each in found.snapshots]
    wrong = troubles(found)
    parts += [Text(f"! {each}", style="bold red") for each in wrong]
    if not wrong and not found.job:
        parts.append(Text("All is well."))
    return Group(*parts)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        is_number = name in ("leads", "behind", "sessions", "term")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    return table


def _nodes_table(found: "ClusterStatus") -> "Table":
    has_sessions = any(node.sessions is not None for node in found.nodes)
    table = _table("node", "state", "link", "leads", "behind", *["sessions"] * has_sessions, "version", "address")
    for node in found.nodes:
        sessions = [] if not has_sessions else ["" if node.sessions is None else f"{node.sessions:,}"]
        link = "here" if node.id == found.node else "up" if node.connected else "down"
        table.add_row(
            *(str(node.id), node.state, link, str(node.leads), f"{node.lag_entries:,}", *sessions),
            *(node.version, node.addr),
            style=None if node.connected and not node.health else "red",
        )
    return table


def _slots_table(found: "ClusterStatus") -> "Table":
    """Members as they are: `*` leads, `?` learns; in brackets how many entries it lacks."""
    table = _table("slot", "term", "members: * leads, ? learns, (entries it lacks)")
    for slot in found.slots:
        members = []
        for member in slot.members:
            lag = 0 if member.match is None else max(0, slot.commit - member.match)
            mark = "*" if member.node == slot.leader else "" if member.voter else "?"
            members.append(f"{member.node}{mark}" + f" ({lag:,})" * bool(lag))
        style = None if slot.leader else "red"
        table.add_row(str(slot.id), str(slot.term), "  ".join(members), style=style)
    return table


# -- changing --


def add(
    node: NodeId,
    addr: Addr,
    node_api: Annotated[str, typer.Option("--node-api", help="Its API for the other nodes, http://host:port.")] = "",
    no_wait: NoWait = False,
    timeout: Timeout = 600.0,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Add a node: it copies the data while the others go on, then votes. Also takes back a removal.

    Needed only if it does not join by itself: a node that is started with an empty data folder and cluster.seed does.

    Example: wukong cluster add 1004 node4:11110
    """
    from wukong.cli.cluster.goals import joined

    url = api_url(node_api) if node_api else ""
    _change(
        "/cluster/member/add",
        {"node": node, "addr": addr, "api_url": url},
        joined(node),
        f"node {node} is a member",
        _Waiting(api, token, no_wait, timeout, as_json),
    )


def remove(
    node: NodeId,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = 600.0,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Remove a node: it stops leading and voting. Its clients go to other nodes when you stop it.

    Example: wukong cluster remove 1003
    """
    from wukong.cli.cluster.goals import left
    from wukong.cli.cluster.status import losses_survived

    waiting = _Waiting(api, token, no_wait, timeout, as_json)
    if not yes:

        async def look() -> "ClusterStatus":
            async with _client(api, token) as client:
                return await client.status()

        found = run(look(), as_json=as_json)
        voters = found.voters() - {node}
        if found.node == node and (others := [each.api_url for each in found.nodes if each.id != node]):
            named = ", ".join(filter(None, others)) or "http://..."
            warn(f"node {node} does not hear of its own end: give --api of another node ({named})")
            raise typer.Exit(EXIT_USAGE)
        _confirm(
            f"Remove node {node}? {len(voters)} will vote; that survives the loss of {losses_survived(len(voters))}.",
            as_json,
        )
    _change(
        "/cluster/member/remove",
        {"node": node},
        left(node),
        f"node {node} is out of the cluster; stop its process, and do not start it with its old data again",
        waiting,
    )


def replace(
    old: Annotated[int, typer.Argument(help="The node that goes.", metavar="OLD", min=1, max=1023)],
    new: Annotated[int, typer.Argument(help="The node that comes.", metavar="NEW", min=1, max=1023)],
    addr: Addr,
    no_wait: NoWait = False,
    timeout: Timeout = 600.0,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Put a node in the place of another: the new one joins first, then the old one leaves.

    A node that only lost its disk is not replaced: start it with an empty data folder, and it comes back by itself.

    Example: wukong cluster replace 1003 1004 node4:11110
    """
    from wukong.cli.cluster.goals import replaced

    _change(
        "/cluster/member/replace",
        {"node": old, "by": new, "addr": addr},
        replaced(old, new),
        f"node {new} has taken the place of node {old}; stop node {old}",
        _Waiting(api, token, no_wait, timeout, as_json),
    )


def transfer(
    node: NodeId,
    slot: Annotated[int, typer.Option("--slot", help="The slot; -1 is every slot.", min=-1)] = EVERY_SLOT,
    no_wait: NoWait = False,
    timeout: Timeout = 60.0,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Let a node lead a slot, or all. The cluster spreads leaders by itself again after a while.

    Example: wukong cluster transfer 1002 --slot 3
    """
    from wukong.cli.cluster.goals import leads

    what = "every slot" if slot == EVERY_SLOT else f"slot {slot}"
    _change(
        "/cluster/transfer",
        {"slot": slot, "node": node},
        leads(node, slot),
        f"node {node} was given {what}",
        _Waiting(api, token, no_wait, timeout, as_json),
    )


def settings(
    action: Annotated[SettingsAction, typer.Argument(help="show, or adopt.")] = SettingsAction.SHOW,
    yes: Yes = False,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Where configuration files differ from the settings of the cluster, which count.

    `adopt` makes what the file of the node at --api says the settings of the whole cluster.

    Example: wukong cluster settings adopt --api http://node1:5001
    """

    async def look() -> "ClusterStatus":
        async with _client(api, token) as client:
            return await client.status()

    async def adopt() -> None:
        async with _client(api, token) as client:
            await client.ask("/cluster/settings/adopt", {})

    if action is SettingsAction.ADOPT:
        if len(address_list(api)) != 1:
            warn("adopt: --api must name one node, whose file counts")
            raise typer.Exit(EXIT_USAGE)
        differ = run(look(), as_json=as_json).settings_differ
        own = [key for key in differ if ":" not in key]
        if not yes:
            _confirm(
                f"Make these the cluster's as the node at {api} has them: {', '.join(own) or 'none differs'}?", as_json
            )
        run(adopt(), as_json=as_json)
        text = f"adopted: {', '.join(own) or 'nothing differed'}"
        report({"adopted": own}, as_json=as_json, text=lambda: text)
        return
    differ = run(look(), as_json=as_json).settings_differ
    lines = [f"{key.rpartition(':')[2]}: differs in the file of {_whose(key)}" for key in differ]
    report(
        {"settings_differ": differ},
        as_json=as_json,
        text=lambda: "\n".join(lines) or "every node's configuration agrees with the cluster's settings",
    )


def _whose(entry: str) -> str:
    return f"node {entry.partition(':')[0]}" if ":" in entry else "the node that answered"


# -- carrying out --


class _Waiting:
    """How a change is to be waited for. timeout_s: then the command ends with status 1, and the cluster goes on."""

    def __init__(self, api: str, token: str, no_wait: bool, timeout_s: float, as_json: bool) -> None:
        self.api = api
        self.token = token
        self.no_wait = no_wait
        self.timeout_s = timeout_s
        self.as_json = as_json


def _confirm(question: str, as_json: bool) -> None:
    """Ask on the terminal. Where nobody can answer, --yes has to."""
    if as_json or not somebody_is_there():
        warn(f"{question} Say --yes")
        raise typer.Exit(EXIT_USAGE)
    if not typer.confirm(question, err=True):
        warn("nothing was changed")
        raise typer.Exit(EXIT_REFUSED)


def somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _change(path: str, body: dict[str, Any], goal: "Goal", done_text: str, waiting: _Waiting) -> None:
    """Say it to the cluster, and wait until it is so."""
    asked = {key: value for key, value in body.items() if value != ""}

    async def work() -> "Standing | None":
        async with _client(waiting.api, waiting.token) as client:
            await client.ask(path, body)
            return None if waiting.no_wait else await _until(client, goal, waiting.timeout_s)

    try:
        standing = run(work(), as_json=waiting.as_json)
    except typer.Exit as end:
        if end.exit_code == EXIT_INTERRUPTED:
            warn("not waiting any more; if the cluster has accepted it, it goes on: `wukong cluster status` shows it")
        raise
    if standing is None:
        text = "accepted; the cluster goes on by itself: `wukong cluster status` shows it"
        report({**asked, "done": False}, as_json=waiting.as_json, text=lambda: text)
        return
    result = {**asked, "done": standing.is_reached, "standing": standing.text}
    if not standing.is_reached:
        warn(f"not done within {waiting.timeout_s:g} s: {standing.text}. The cluster goes on by itself")
        if waiting.as_json:
            print_json(result)
        raise typer.Exit(EXIT_REFUSED)
    report(result, as_json=waiting.as_json, text=lambda: done_text)


async def _until(client: "ClusterClient", goal: "Goal", timeout_s: float) -> "Standing":
    """Poll until the goal is reached or the time is over. A cluster that does not answer meanwhile is asked again:
    the node asked may be the one that goes."""
    from wukong.cli.cluster.goals import Standing
    from wukong.client.errors import ApiUnavailable

    deadline = time.monotonic() + timeout_s
    standing = Standing(0, 1, "no answer yet")
    with _Line() as line:
        while True:
            try:
                standing = goal(await client.status())
                line.say(standing.text, standing.done, standing.total)
            except ApiUnavailable as fault:
                line.say(f"{fault.text or fault}; asking again", standing.done, standing.total)
            if standing.is_reached or time.monotonic() > deadline:
                return standing
            await asyncio.sleep(POLL_S)


class _Line:
    """A bar on a terminal; elsewhere a line whenever something changes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True, highlight=False)
        self._last = ""
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("asking", total=None)

    def __enter__(self) -> "_Line":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=done, total=total)
        elif text != self._last:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        self._last = text
