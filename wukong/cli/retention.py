"""`wukong retention` and `wukong erase`: how long messages are kept, and what a user wrote made unreadable.

docs/retention.md tells what goes and what stays.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wukong.cli.options import DEFAULT_API, Api, AsJson, ChannelTypeOption, Token
from wukong.cli.output import report, run

if TYPE_CHECKING:
    from wukong.client.admin import AdminClient

app = typer.Typer(no_args_is_help=True, help="How long messages are kept.")
default = typer.Typer(no_args_is_help=True, help="For all channels of a type that have no policy of their own.")
app.add_typer(default, name="default")

GROUP = 2

ChannelId = Annotated[str, typer.Argument(help="The channel's id; of two persons both: alice@bob.", metavar="CHANNEL")]
Days = Annotated[
    int | None, typer.Option("--days", help="Messages older than so many days go.", min=1, show_default=False)
]
Count = Annotated[int | None, typer.Option("--count", help="So many of the newest stay.", min=1, show_default=False)]
Bytes = Annotated[
    int | None, typer.Option("--bytes", help="The newest stay up to so many bytes together.", min=1, show_default=False)
]
Forever = Annotated[bool, typer.Option("--forever", help="Keep everything, whatever the channel's type says.")]


def _admin(api: str, token: str) -> "AdminClient":
    from wukong.client.admin import AdminClient

    return AdminClient(api, token or None)


def _limits(days: int | None, count: int | None, limit_bytes: int | None, forever: bool) -> dict[str, int]:
    if forever == bool(days or count or limit_bytes):
        raise typer.BadParameter("say --days, --count or --bytes, or --forever alone")
    return {"days": days or 0, "count": count or 0, "bytes": limit_bytes or 0}


def _post(api: str, token: str, path: str, body: dict[str, Any], *, as_json: bool, said: str) -> None:
    async def work() -> None:
        async with _admin(api, token) as admin:
            await admin.call("POST", path, body=body)

    run(work(), as_json=as_json)
    report(body, as_json=as_json, text=lambda: said)


@app.command("set")
def set_policy(
    channel: ChannelId,
    days: Days = None,
    count: Count = None,
    limit_bytes: Bytes = None,
    forever: Forever = False,
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Keep a channel's messages within limits. What is beyond any of them goes, oldest first, within minutes.

    Example: wukong retention set lunch --days 30 --count 10000
    """
    limits = _limits(days, count, limit_bytes, forever)
    body = {"channel_id": channel, "channel_type": kind, **limits}
    _post(api, token, "/retention/set", body, as_json=as_json, said=f"channel {channel}: keeps {_words(limits)}")


@app.command()
def clear(
    channel: ChannelId,
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """A channel has no policy of its own any more; that of its type counts.

    Example: wukong retention clear lunch
    """
    body = {"channel_id": channel, "channel_type": kind}
    said = f"channel {channel}: no policy of its own"
    _post(api, token, "/retention/clear", body, as_json=as_json, said=said)


@app.command()
def show(
    channel: Annotated[str, typer.Argument(help="Without it all policies are listed.", metavar="[CHANNEL]")] = "",
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """A channel's policy and where its messages begin, or all policies there are.

    Example: wukong retention show lunch
    """
    import msgspec

    async def work() -> dict[str, Any]:
        query = {"channel_id": channel, "channel_type": kind} if channel else None
        async with _admin(api, token) as admin:
            found: dict[str, Any] = msgspec.json.decode(await admin.call("GET", "/retention", query=query))
            return found

    found = run(work(), as_json=as_json)
    report(found, as_json=as_json, text=lambda: _standing(found) if channel else _list(found))


@app.command("run")
def run_now(
    channel: Annotated[str, typer.Argument(help="Without it all channels.", metavar="[CHANNEL]")] = "",
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Carry the policies out now instead of within wukong.retentionInterval.

    Example: wukong retention run
    """
    body = {"channel_id": channel, "channel_type": kind} if channel else {}
    count = run(_all_of("/retention/run", body, "retired", api, token), as_json=as_json)
    report({"retired": count}, as_json=as_json, text=lambda: f"{_messages(count)} retired")


@default.command("set")
def set_default(
    days: Days = None,
    count: Count = None,
    limit_bytes: Bytes = None,
    forever: Forever = False,
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Keep the messages of all channels of a type within limits, but of those with a policy of their own.

    Example: wukong retention default set --type group --days 365
    """
    limits = _limits(days, count, limit_bytes, forever)
    said = f"channels of type {kind}: each keeps {_words(limits)}"
    _post(api, token, "/retention/default/set", {"channel_type": kind, **limits}, as_json=as_json, said=said)


@default.command("clear")
def clear_default(
    kind: ChannelTypeOption = GROUP,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Channels of a type keep everything, but those with a policy of their own.

    Example: wukong retention default clear --type group
    """
    said = f"channels of type {kind}: no policy"
    _post(api, token, "/retention/default/clear", {"channel_type": kind}, as_json=as_json, said=said)


def erase(
    uid: Annotated[str, typer.Argument(help="Whose messages.", metavar="UID")],
    channel: Annotated[str, typer.Option("--channel", "-c", help="In this channel only.", show_default=False)] = "",
    kind: ChannelTypeOption = GROUP,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Make unreadable what a user wrote, in all channels or in one. It cannot be undone.

    Example: wukong erase alice --channel lunch
    """
    where = f"channel {channel}" if channel else "all channels"
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"this erases what {uid} wrote in {where} for good; say --yes")
        typer.confirm(f"Erase what {uid} wrote in {where}, for good?", abort=True, err=True)
    body = {"uid": uid, **({"channel_id": channel, "channel_type": kind} if channel else {})}
    count = run(_all_of("/erase", body, "erased", api, token), as_json=as_json)
    result = {"uid": uid, "channel_id": channel, "erased": count}
    report(result, as_json=as_json, text=lambda: f"{_messages(count)} of {uid} erased in {where}")


async def _all_of(path: str, body: dict[str, Any], name: str, api: str, token: str) -> int:
    """Ask until all is done; each answer comes after some seconds at most."""
    import msgspec

    total, cursor = 0, ""
    async with _admin(api, token) as admin:
        while True:
            answer = msgspec.json.decode(await admin.call("POST", path, body={**body, "cursor": cursor}))
            total += int(answer[name])
            cursor = answer["cursor"]
            if not cursor:
                return total


def _standing(found: dict[str, Any]) -> str:
    policy, name = found["policy"], found["channel_id"]
    if policy is None:
        keeps = "no policy, everything is kept"
    else:
        keeps = f"keeps {_words(policy)}, by {'its own policy' if found['own'] else 'the policy of its type'}"
    lines = [f"channel {name}, type {found['channel_type']}: {keeps}"]
    for first, last, what in (
        ("first_seq", "last_seq", "messages"),
        ("first_command_seq", "last_command_seq", "commands"),
    ):
        if found[last]:
            there = f"{found[first]} to {found[last]}" if found[first] <= found[last] else "none left"
            lines.append(f"{what}: {there}")
    return "\n".join(lines)


def _list(found: dict[str, Any]) -> str:
    lines = [
        f"{'channel ' + each['channel_id'] if each['channel_id'] else 'every channel'}, type {each['channel_type']}: "
        f"{_words(each)}"
        for each in found["policies"]
    ]
    return "\n".join([*lines, *(["and more"] if found["more"] else [])]) or "no policies, everything is kept"


def _words(limits: dict[str, int]) -> str:
    said = [
        f"{limits['days']:,} days" if limits["days"] else "",
        _messages(limits["count"]) if limits["count"] else "",
        f"{limits['bytes']:,} bytes" if limits["bytes"] else "",
    ]
    return ", ".join(filter(None, said)) or "everything"


def _messages(count: int) -> str:
    return f"{count:,} message" + "s" * (count != 1)
