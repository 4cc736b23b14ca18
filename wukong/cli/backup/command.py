"""`wukong backup` and `wukong restore`: options, progress, and what they print."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from typer.core import TyperGroup

from wukong.cli.options import DEFAULT_API, Api, AsJson, Token
from wukong.cli.output import EXIT_REFUSED, fail, report, run

if TYPE_CHECKING:
    from wukong.backup.manifest import Backup

DEFAULT_NODE = 1_001

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of backups, one folder each.")]
BackupPath = Annotated[
    Path, typer.Argument(metavar="DIR", help="One backup, or a directory of them: the newest is meant.")
]


class _TakesByDefault(TyperGroup):
    """`wukong backup DIR` is `wukong backup take DIR`."""

    # typer shows only a subclass of the context that it gives.
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["take", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TakesByDefault,
    no_args_is_help=True,
    help="Back up a running node or cluster: `wukong backup DIR`; list and verify backups.",
)


@app.command()
def take(
    directory: Directory,
    api: Api = DEFAULT_API,
    token: Token = "",
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what came after the newest backup in DIR, where the log has it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a backup of a running node, which has everything a cluster has, into a new folder of DIR.

    Example: wukong backup /backups --api http://127.0.0.1:5001

    What came since then: wukong backup /backups --incremental
    """
    run(_take(directory, api, token, incremental, as_json), as_json=as_json)


async def _take(directory: Path, api: str, token: str, incremental: bool, as_json: bool) -> None:
    from wukong.backup.manifest import choose
    from wukong.cli.backup.fetch import Fetch

    base = choose(directory) if incremental else None
    started = time.monotonic()
    with _Bar("backing up") as bar:
        async with Fetch(api, token, bar.moved) as fetch:
            made = await fetch.take(directory, base)
    took_s = time.monotonic() - started
    manifest = made.manifest
    shown = _shown(made) | {"seconds": round(took_s, 3)}
    full = sum(part.kind == "rows" for part in manifest.slots)
    note = f", {full} of {len(manifest.slots)} slots in full" if incremental else ""
    report(
        shown,
        as_json=as_json,
        text=lambda: (
            f"{made.path}: {len(manifest.slots)} slots, {manifest.pairs:,} rows and entries, {_mib(manifest.bytes)} in "
            f"{_mib(manifest.size_bytes)}, {took_s:.1f} s{note}"
        ),
    )


@app.command()
def verify(path: BackupPath, as_json: AsJson = False) -> None:
    """Read a backup and all it builds on, and check every byte.

    Example: wukong backup verify /backups
    """
    from wukong.backup.manifest import chain, choose
    from wukong.backup.verify import verify as check
    from wukong.errors import DataError

    try:
        backups = chain(choose(path))
        with _Bar("verifying") as bar:
            faults = check(backups, bar.moved)
    except (DataError, OSError) as error:
        fail(error, as_json=as_json)
    newest = backups[-1]
    report(
        {**_shown(newest), "backups": [str(each.path) for each in backups], "faults": faults},
        as_json=as_json,
        text=lambda: "\n".join(faults) or f"{newest.path} is whole{_with(len(backups) - 1)}",
    )
    if faults:
        raise typer.Exit(EXIT_REFUSED)


def _with(more: int) -> str:
    return f", with the {more} it builds on" if more else ""


@app.command("list")
def list_(directory: Directory, as_json: AsJson = False) -> None:
    """List the backups in DIR, oldest first. Their files are not read: `verify` does that.

    Example: wukong backup list /backups
    """
    from wukong.backup.manifest import list_backups
    from wukong.errors import DataError

    try:
        found = list_backups(directory)
    except DataError as error:
        fail(error, as_json=as_json)
    rows = [_shown(each.backup) if each.backup else {"name": each.name, "fault": each.fault} for each in found]
    report(rows, as_json=as_json, text=lambda: "\n".join(_line(row) for row in rows) or f"{directory} is empty")


def _line(row: dict[str, Any]) -> str:
    if "fault" in row:
        return f"{row['name']}  {row['fault']}"
    kind = f"builds on {row['base']}" if row["base"] else "full"
    return f"{row['name']}  {row['id']}  node {row['node']}  {_mib(row['size_bytes']):>12}  {kind}"


def restore(
    path: BackupPath,
    data_dir: Annotated[
        list[Path], typer.Option("--data-dir", help="Empty directory that becomes the node's dataDir; once per node.")
    ],
    node_id: Annotated[
        list[int], typer.Option("--node-id", help="cluster.nodeId of the node; once per --data-dir.")
    ] = [DEFAULT_NODE],  # noqa: B006
    nodes: Annotated[
        str, typer.Option("--nodes", help="All nodes of the new cluster, like 1,2,3, if this run makes some of them.")
    ] = "",
    cluster_id: Annotated[
        str,
        typer.Option("--cluster-id", help="Number of the new cluster, hex: the same in every run of one restore."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write a backup into empty data directories: of one node, or of all nodes of a cluster of any size.

    Example: wukong restore /backups --data-dir /data --node-id 1001

    Three nodes: wukong restore /backups --data-dir a --node-id 1 --data-dir b --node-id 2 --data-dir c --node-id 3

    On three machines, on each: wukong restore /backups --data-dir /data --node-id 1 --nodes 1,2,3 --cluster-id 5eed
    """
    from wukong.backup.manifest import choose
    from wukong.backup.restore import Target, check_empty, formation_of
    from wukong.backup.restore import restore as write
    from wukong.errors import DataError
    from wukong.store.datadir import new_number

    if len(data_dir) != len(node_id):
        raise typer.BadParameter("give one --node-id per --data-dir")
    try:
        members = [int(each) for each in nodes.split(",")] if nodes else node_id
        cluster = int(cluster_id, 16) if cluster_id else new_number()
        formation = formation_of(cluster, members)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not set(node_id) <= set(members):
        raise typer.BadParameter("--nodes does not name the node that is restored")
    if set(node_id) != set(members) and not cluster_id:
        raise typer.BadParameter(
            "nodes that are restored in several runs need the same --cluster-id, a new one per restore"
        )
    try:
        backup = choose(path)
        for directory in data_dir:
            check_empty(directory)
        for node, directory in zip(node_id, data_dir, strict=True):
            with _Bar(f"node {node}") as bar:
                write(backup, Target(node, directory), formation, bar.moved)
    except (DataError, OSError) as error:
        fail(error, as_json=as_json)
    made = [
        {"node": node, "data_dir": str(directory), "disk": f"{dict(formation.members)[node]:x}"}
        for node, directory in zip(node_id, data_dir, strict=True)
    ]
    slots = backup.manifest.slot_count
    shown = {"from": str(backup.path), "at_ms": backup.manifest.at_ms, "cluster": f"{cluster:x}", "slot_count": slots}
    report(shown | {"nodes": made}, as_json=as_json, text=lambda: _advice(backup, cluster, members, made))


def _advice(backup: "Backup", cluster: int, members: list[int], made: list[dict[str, Any]]) -> str:
    lines = [f"node {each['node']}: {each['data_dir']}" for each in made]
    lines += [
        f"cluster {cluster:x} of node{'s' * (len(members) > 1)} {', '.join(map(str, members))}, as of {_when(backup)}.",
        f"Start with cluster.nodeId as above and wukong.slotCount {backup.manifest.slot_count}"
        + (", and with initNodes that names all." if len(members) > 1 else "."),
        "The nodes that were backed up must not serve the same clients any more.",
    ]
    return "\n".join(lines)


def _when(backup: "Backup") -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(backup.manifest.at_ms / 1000))


def _shown(backup: "Backup") -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": backup.path.name,
        "path": str(backup.path),
        "id": manifest.id,
        "base": manifest.base,
        "cluster": manifest.cluster,
        "node": manifest.node,
        "version": manifest.version,
        "at_ms": manifest.at_ms,
        "slots": manifest.slot_count,
        "slots_in_full": sum(part.kind == "rows" for part in manifest.slots),
        "pairs": manifest.pairs,
        "bytes": manifest.bytes,
        "size_bytes": manifest.size_bytes,
    }


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


class _Bar:
    """Progress on stderr, if somebody looks at it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}: {task.fields[slots]} slots, {task.fields[mib]:,.1f} MiB"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(self._text, total=None, slots=0, mib=0.0)
        self._bytes = 0
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def moved(self, slots: int, size: int) -> None:
        self._bytes += size
        self._progress.update(self._task, slots=slots, mib=self._bytes / (1 << 20))
