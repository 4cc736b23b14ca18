"""`wukong channel`: channels and their members, over the HTTP API."""

from typing import TYPE_CHECKING, Annotated

import typer

from wukong.cli.options import DEFAULT_API, Api, AsJson, ChannelTypeOption, Token
from wukong.cli.output import report, run

if TYPE_CHECKING:
    from wukong.client.admin import AdminClient

app = typer.Typer(no_args_is_help=True, help="Channels and their members.")

ChannelId = Annotated[str, typer.Argument(help="The channel's id.", metavar="CHANNEL")]
Uids = Annotated[list[str], typer.Argument(help="Users.", metavar="UID...")]


def _admin(api: str, token: str) -> "AdminClient":
    from wukong.client.admin import AdminClient

    return AdminClient(api, token or None)


@app.command()
def create(
    channel: ChannelId,
    uids: Annotated[list[str] | None, typer.Argument(help="First members.", metavar="UID...")] = None,
    kind: ChannelTypeOption = 2,
    reset: Annotated[bool, typer.Option("--reset", help="Replace the members it has.")] = False,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create a channel, with members if you like. One that exists keeps its members and loses its bans.

    Example: wukong channel create lunch alice bob
    """
    members = uids or []

    async def work() -> None:
        async with _admin(api, token) as admin:
            await admin.create_channel(channel, kind, subscribers=members, reset=reset)

    run(work(), as_json=as_json)
    result = {"channel_id": channel, "channel_type": kind, "members": members}
    report(result, as_json=as_json, text=lambda: f"channel {channel}: created, {_people(len(members))} added")


@app.command()
def add(
    channel: ChannelId,
    uids: Uids,
    kind: ChannelTypeOption = 2,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Add members. When this returns, they get every message that is sent from then on.

    Example: wukong channel add lunch carol dave
    """

    async def work() -> None:
        async with _admin(api, token) as admin:
            await admin.add_subscribers(channel, kind, uids)

    run(work(), as_json=as_json)
    result = {"channel_id": channel, "channel_type": kind, "added": uids}
    report(result, as_json=as_json, text=lambda: f"channel {channel}: {_people(len(uids))} added")


@app.command()
def remove(
    channel: ChannelId,
    uids: Uids,
    kind: ChannelTypeOption = 2,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Remove members. When this returns, they get no message that is sent from then on.

    Example: wukong channel remove lunch dave
    """

    async def work() -> None:
        async with _admin(api, token) as admin:
            await admin.remove_subscribers(channel, kind, uids)

    run(work(), as_json=as_json)
    result = {"channel_id": channel, "channel_type": kind, "removed": uids}
    report(result, as_json=as_json, text=lambda: f"channel {channel}: {_people(len(uids))} removed")


@app.command()
def members(
    channel: ChannelId,
    kind: ChannelTypeOption = 2,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List the members, one a line.

    Example: wukong channel members lunch
    """

    async def work() -> list[str]:
        async with _admin(api, token) as admin:
            return await admin.subscribers(channel, kind)

    uids = run(work(), as_json=as_json)
    report(uids, as_json=as_json, text=lambda: "\n".join(uids) if uids else f"channel {channel} has no members")


@app.command()
def info(
    channel: ChannelId,
    kind: ChannelTypeOption = 2,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """What the API tells of a channel: members, allow list, last message.

    Example: wukong channel info lunch --json
    """
    import time

    from wukong.client.errors import ApiRefused
    from wukong.client.message import Message

    async def work() -> tuple[int, int, int, Message | None]:
        async with _admin(api, token) as admin:
            try:
                last_seq = await admin.max_message_seq(channel, kind)
                last = await admin.last_message(channel, kind)
            except ApiRefused as refusal:
                if refusal.http_status == 401:
                    raise
                # WuKongIM knows nothing of a channel nobody wrote to.
                last_seq, last = 0, None
            uids = await admin.subscribers(channel, kind)
            return len(uids), len(await admin.allowlist(channel, kind)), last_seq, last

    members_count, allowed_count, last_seq, last = run(work(), as_json=as_json)
    result = {
        "channel_id": channel,
        "channel_type": kind,
        "members": members_count,
        "allowed": allowed_count,
        "last_message_seq": last_seq,
        "last_message": None
        if last is None
        else {"from_uid": last.from_uid, "timestamp": last.timestamp, "text": last.text},
    }

    def text() -> str:
        lines = [f"channel {channel}, type {kind}: {_people(members_count)}, {last_seq:,} messages"]
        if allowed_count:
            lines.append(f"only {_people(allowed_count)} on the allow list may write")
        if last is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.timestamp))
            lines.append(f"last message {when} from {last.from_uid or 'the system account'}: {last.text}")
        return "\n".join(lines)

    report(result, as_json=as_json, text=text)


@app.command()
def delete(
    channel: ChannelId,
    kind: ChannelTypeOption = 2,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Dissolve a channel: nobody may write any more. Members and history stay; `create` opens it again.

    Example: wukong channel delete lunch
    """

    async def work() -> None:
        async with _admin(api, token) as admin:
            await admin.delete_channel(channel, kind)

    run(work(), as_json=as_json)
    result = {"channel_id": channel, "channel_type": kind, "deleted": True}
    report(result, as_json=as_json, text=lambda: f"channel {channel}: dissolved")


def _people(count: int) -> str:
    return f"{count:,} member" + "s" * (count != 1)
