"""`wukong send`: one message, as a user over the client port, or as a back end over the HTTP API."""

import sys
from typing import Annotated

import typer

from wukong.cli.options import (
    DEFAULT_API,
    DEFAULT_TCP,
    Api,
    AsJson,
    ChannelTypeOption,
    Tcp,
    Token,
    UserToken,
)
from wukong.cli.output import report, run


def send(
    channel: Annotated[str, typer.Argument(help="Channel id; for a person his uid.", metavar="CHANNEL")],
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.", metavar="TEXT")],
    uid: Annotated[str, typer.Option("--uid", "-u", help="Who sends.")],
    kind: ChannelTypeOption = 2,
    over_http: Annotated[
        bool, typer.Option("--http", help="Over the HTTP API, like a back end: permissions are not checked.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help='Send the text as it is, not as {"type":1,"content":...}.')
    ] = False,
    no_persist: Annotated[bool, typer.Option("--no-persist", help="Do not store it.")] = False,
    sync_once: Annotated[bool, typer.Option("--command", help="Send it as a command (sync_once).")] = False,
    client_msg_no: Annotated[
        str, typer.Option("--client-msg-no", help="The message's number; sending a number again stores nothing new.")
    ] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the answer.")] = 10.0,
    tcp: Tcp = DEFAULT_TCP,
    user_token: UserToken = "",
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Send one message and print its seq.

    Example: wukong send lunch "noon?" --uid alice

    Example: date | wukong send bob - --uid alice --type person
    """
    from wukong.client import AdminClient, connect, text_payload

    content = sys.stdin.read().rstrip("\n") if text == "-" else text
    payload = content.encode() if raw else text_payload(content)

    async def as_user() -> dict[str, object]:
        async with connect(tcp, uid, token=user_token) as client:
            sent = await client.send(
                channel,
                kind,
                payload,
                client_msg_no=client_msg_no or None,
                no_persist=no_persist,
                sync_once=sync_once,
                timeout=timeout,
            )
        return {
            "message_seq": sent.message_seq,
            "message_id": sent.message_id,
            "client_msg_no": sent.client_msg_no,
        }

    async def as_back_end() -> dict[str, object]:
        async with AdminClient(api, token or None, timeout_s=timeout) as admin:
            accepted = await admin.send_message(
                channel,
                kind,
                payload,
                from_uid=uid,
                client_msg_no=client_msg_no,
                no_persist=no_persist,
                sync_once=sync_once,
            )
        return {"message_id": accepted.message_id, "client_msg_no": accepted.client_msg_no}

    result = run(as_back_end() if over_http else as_user(), as_json=as_json)

    def words() -> str:
        seq = result.get("message_seq")
        stored = f"stored as message {seq} of {channel}" if seq else "accepted"
        return f"{stored}, id {result['message_id']}"

    report(result, as_json=as_json, text=words)
