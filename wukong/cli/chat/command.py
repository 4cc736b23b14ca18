"""`wukong chat`: talk from a terminal."""

from typing import Annotated

import typer

from wukong.cli.options import DEFAULT_API, DEFAULT_TCP, Api, Tcp, Token, UserToken
from wukong.cli.output import run, warn


def chat(
    uid: Annotated[str, typer.Option("--uid", "-u", help="Who you are.")],
    to: Annotated[str, typer.Option("--to", help="Talk to this person.")] = "",
    group: Annotated[str, typer.Option("--group", help="Talk in this group.")] = "",
    device_flag: Annotated[int, typer.Option("--device-flag", help="0 app, 1 web, 2 PC.", min=0, max=255)] = 2,
    unread: Annotated[bool, typer.Option("--unread", help="Show every message you have not read first.")] = False,
    tcp: Tcp = DEFAULT_TCP,
    user_token: UserToken = "",
    api: Api = DEFAULT_API,
    token: Token = "",
) -> None:
    """Talk to a person or in a group. /help lists the commands; messages appear while you type.

    What was missed during a lost connection is fetched over the HTTP API; without the API the chat works too, but what
    is missed then is not shown. Input from a pipe is sent line by line.

    Example: wukong chat --uid alice --to bob

    Example: wukong chat --uid alice --group lunch
    """
    if to and group:
        raise typer.BadParameter("--to and --group: one of them")
    run(_chat(uid, to, group, device_flag, unread, tcp, user_token, api, token))


async def _chat(
    uid: str, to: str, group: str, device_flag: int, unread: bool, tcp: str, user_token: str, api: str, token: str
) -> None:
    import logging

    from wukong.cli.chat.talk import Talk
    from wukong.cli.chat.terminal import open_terminal
    from wukong.client import AdminClient, ApiError, Backoff, ChannelType, HttpSyncProvider, connect

    # The chat says by itself what happens to the connection.
    logging.getLogger("wukong.client").setLevel(logging.CRITICAL)
    async with AdminClient(api, token or None) as admin:
        has_api = True
        try:
            await admin.health()
        except ApiError as error:
            has_api = False
            warn(f"no history, and nothing is fetched after a lost connection: {error}")
        with open_terminal() as terminal:
            talk = Talk(terminal, uid, admin if has_api else None)
            talk.choose(group or to, ChannelType.GROUP if group else ChannelType.PERSON)
            if has_api and not unread:
                await talk.show_unread()
            client = connect(
                tcp,
                uid,
                token=user_token,
                device_flag=device_flag,
                sync=HttpSyncProvider(admin, uid) if has_api else None,
                start="unread" if unread else "now",
                backoff=Backoff(cap_s=5.0),
                on_state=talk.state_changed,
            )
            async with client:
                await talk.run(client)
