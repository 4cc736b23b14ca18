"""`wukong import`: options, progress, and how the report is shown."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from wukong.cli.options import DEFAULT_API, AsJson, Token, api_url
from wukong.cli.output import EXIT_INTERRUPTED, EXIT_REFUSED, fail, report, run

if TYPE_CHECKING:
    from wukong.cli.import_v2.book import Book, Given
    from wukong.cli.import_v2.transfer import Report

# Rows of the table that are equal; all that differ are shown, up to MOST_ROWS.
EQUAL_ROWS = 20
MOST_ROWS = 200

_File = typer.Option(exists=True, dir_okay=False, readable=True)


def import_v2(
    source: Annotated[
        str, typer.Option("--from", help="HTTP API of the WuKongIM v2 server to copy.", callback=api_url)
    ],
    target: Annotated[
        str, typer.Option("--to", envvar="WUKONG_API", help="HTTP API of this server.", callback=api_url)
    ] = DEFAULT_API,
    source_token: Annotated[
        str, typer.Option("--from-token", envvar="WUKONG_FROM_TOKEN", help="The old server's managerToken.")
    ] = "",
    token: Token = "",
    users: Annotated[Path | None, typer.Option("--users", help="File with uids, one a line.", exists=True)] = None,
    channels: Annotated[
        Path | None, typer.Option("--channels", help="File with channels, one a line: TYPE ID, or JSON.", exists=True)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Directory for the state: the same again goes on.", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy channels, members, lists, messages and read positions of a running WuKongIM v2 server, and compare.

    Example: wukong import --from http://old:5001 --to http://127.0.0.1:5001 --users uids.txt --resume import-state
    """
    if users is None and channels is None:
        raise typer.BadParameter("--users or --channels is needed: the old server does not tell all it has")
    from wukong.cli.import_v2.book import Book
    from wukong.cli.import_v2.sources import read_channels, read_users

    with ExitStack() as stack:
        directory = resume or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wukong-import-")))
        try:
            uids = read_users(users) if users is not None else []
            given = read_channels(channels) if channels is not None else []
            book = Book(directory, source=source)
        except (ValueError, OSError) as error:
            fail(error, as_json=as_json)
        stack.callback(book.close)
        try:
            found = run(_import(source, source_token, target, token, book, uids, given), as_json=as_json)
        except typer.Exit as end:
            if resume is not None:
                sys.stderr.write("wukong: the same command goes on from here\n")
            elif end.exit_code == EXIT_INTERRUPTED:
                sys.stderr.write("wukong: what is copied stays; with --resume DIR an import goes on where it was\n")
            raise
    report(_json(found), as_json=as_json, text=lambda: _text(found))
    if not found.is_equal:
        raise typer.Exit(EXIT_REFUSED)


async def _import(
    source: str, source_token: str, target: str, token: str, book: "Book", uids: list[str], given: "list[Given]"
) -> "Report":
    from wukong.channel.ids import PERSON
    from wukong.cli.import_v2.calls import Server
    from wukong.cli.import_v2.old_server import OldServer
    from wukong.cli.import_v2.transfer import Transfer

    book.add_users(uids)
    # Type 1 with a bare uid says something of a user.
    book.add_users(each.channel_id for each in given if each.channel_type == PERSON and "@" not in each.channel_id)
    book.add_given(given)
    old, new = Server(source, source_token), Server(target, token)
    try:
        with _Bar() as bar:
            try:
                return await Transfer(OldServer(old), new, book, bar).run()
            except* Exception as group:
                error: BaseException = group
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                raise error from None
    finally:
        await old.close()
        await new.close()


class _Bar:
    """Progress on stderr, if somebody looks at it."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[copied]:,} messages"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("servers", total=None, copied=0)
        self._copied = 0
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None) -> None:
        self._progress.update(self._task, description=name, total=total, completed=0)

    def step(self, count: int = 1) -> None:
        self._progress.advance(self._task, count)

    def messages(self, count: int) -> None:
        self._copied += count
        self._progress.update(self._task, copied=self._copied)


# -- the report --


def _json(found: "Report") -> dict[str, Any]:
    return {
        "equal": found.is_equal,
        "channels": [
            {
                "channel_id": each.channel.id,
                "channel_type": each.channel.type,
                "equal": each.is_equal,
                "old": {"messages": each.old_messages, "digest": each.old_digest, "members": each.old_members},
                "new": {"messages": each.new_messages, "digest": each.new_digest, "members": each.new_members},
                "fault": each.fault,
            }
            for each in found.channels
        ],
        "users": found.users,
        "conversations": found.conversations,
        "differences": [
            {
                "uid": each.uid,
                "what": each.what,
                **(
                    {"channel_id": each.channel.id, "channel_type": each.channel.type}
                    if each.channel is not None
                    else {}
                ),
            }
            for each in found.differences
        ],
    }


def _text(found: "Report") -> str:
    from rich.console import Console
    from rich.table import Table

    different = [each for each in found.channels if not each.is_equal]
    equal = [each for each in found.channels if each.is_equal]
    table = Table("channel", "type", "messages there", "here", "checksum there", "here", "members there", "here", "")
    for each in [*different[:MOST_ROWS], *equal[:EQUAL_ROWS]]:
        table.add_row(
            each.channel.id,
            str(each.channel.type),
            f"{each.old_messages:,}",
            f"{each.new_messages:,}",
            each.old_digest[:8],
            each.new_digest[:8],
            "?" if each.old_members is None else f"{each.old_members:,}",
            f"{each.new_members:,}",
            each.fault or "equal",
        )
    # Wide lines are for whoever reads them; nothing is cut.
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    lines = [capture.get().rstrip("\n")]
    if len(equal) > EQUAL_ROWS:
        lines.append(f"... and {len(equal) - EQUAL_ROWS:,} more that are equal")
    for difference in found.differences[:MOST_ROWS]:
        where = f" in {difference.channel.id} (type {difference.channel.type})" if difference.channel else ""
        lines.append(f"{difference.uid}{where}: {difference.what}")
    more = max(0, len(different) - MOST_ROWS) + max(0, len(found.differences) - MOST_ROWS)
    if more:
        lines.append(f"... and {more:,} more differences; --json has all")
    messages = sum(each.new_messages for each in found.channels)
    lines.append(
        f"{len(found.channels):,} channels, {messages:,} messages, {found.users:,} users, "
        f"{found.conversations:,} conversations compared: "
        + ("both sides are equal" if found.is_equal else f"{len(different) + len(found.differences):,} differences")
    )
    if not found.is_equal:
        lines.append(_ADVICE)
    return "\n".join(lines)


_ADVICE = """\
What to do:
- The old server was written to meanwhile: stop that, and call the same again with the same --resume:
  it fetches the rest.
- "another message ... of its own": the channel was used here before. Begin with an empty server.
- "members not known": name them in the --channels file, as JSON with "subscribers".
- "members differ" with more here than there: `wukong channel remove` takes out who has left since.
- A server did not answer: call it again."""
