"""`wukong explain`: why a user got a message, or did not, in plain sentences. docs/explain.md."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final, NamedTuple

import typer

from wukong.cli.options import CHANNEL_TYPES, DEFAULT_API, Api, AsJson, ChannelTypeOption, Token
from wukong.cli.output import print_json, run

PATH: Final = "/message/explain"

# any: JSON of the answer, as wukong/service/explain.py gives it.
Json = dict[str, Any]

_TYPE_NAMES: Final = {number: name for name, number in CHANNEL_TYPES.items()}
_DEVICES: Final = {0: "app", 1: "web", 2: "pc"}
_ENDS: Final = {
    "slow": "it did not read: too much waited for it",
    "idle": "nothing came from it for too long",
    "client_closed": "the client closed the connection",
    "connection_lost": "the connection broke",
    "protocol_error": "it did not keep to the protocol",
    "kicked": "it was kicked",
    "replaced": "the same device logged in again",
    "let_go": "the server closed it so that it connects again",
    "fenced": "its node lost touch with the other nodes and closed all clients",
    "stopped": "its node was shut",
}


class Line(NamedTuple):
    text: str
    style: str = ""


def explain(
    channel: Annotated[
        str,
        typer.Argument(help="Channel id; for a chat of two UID@UID, or one uid and --login-uid.", metavar="CHANNEL"),
    ],
    seq: Annotated[int, typer.Argument(help="The message's seq; with --id its id.", metavar="SEQ", min=1)],
    uid: Annotated[str, typer.Argument(help="Only this user.", metavar="[UID]")] = "",
    kind: ChannelTypeOption = 0,
    by_id: Annotated[
        bool, typer.Option("--id", help="SEQ is a message id. It finds messages that are not stored, too.")
    ] = False,
    command: Annotated[bool, typer.Option("--command", help="A command (sync_once) is meant.")] = False,
    login_uid: Annotated[str, typer.Option("--login-uid", help="The other one in a chat of two.")] = "",
    start: Annotated[str, typer.Option("--start", help="Where a long list goes on, as the last page said.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="Users shown.", min=1, max=100)] = 100,
    api: Api = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Who was to get a message and why, where it was pushed, and what came back.

    Without a type, CHANNEL is a group, or with @ in it a chat of two.

    Example: wukong explain lunch 15

    Example: wukong explain lunch 15 bob

    Example: wukong explain alice@bob 3 bob

    Example: wukong explain lunch 2063118731960229888 --id --json
    """
    import msgspec

    from wukong.client import AdminClient

    kind = kind or CHANNEL_TYPES["person" if "@" in channel or login_uid else "group"]
    if kind in (CHANNEL_TYPES["person"], CHANNEL_TYPES["agent"]) and "@" not in channel and not login_uid:
        raise typer.BadParameter(f"a chat of two needs both: {channel}@UID, or --login-uid UID", param_hint="CHANNEL")
    query = {
        "channel_id": channel,
        "channel_type": kind,
        "message_id" if by_id else "message_seq": seq,
        "cmd": int(command),
        "limit": limit,
        **{name: text for name, text in (("uid", uid), ("login_uid", login_uid), ("start", start)) if text},
    }

    async def work() -> Json:
        async with AdminClient(api, token or None) as admin:
            return dict(msgspec.json.decode(await admin.call("GET", PATH, query=query)))

    answer = run(work(), as_json=as_json)
    if as_json:
        print_json(answer)
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines(answer):
        console.print(line.text, style=line.style or None)


def lines(answer: Json) -> Iterator[Line]:
    """The answer in sentences, line by line. Times are local."""
    message = answer["message"]
    sent_ms = message["sent_ms"]
    yield Line(_heading(answer), "bold")
    if not message["stored"]:
        yield Line("It is not stored: what is known of it is what the nodes remember.")
    counts = answer["counts"]
    if counts is not None:
        yield Line(_counts(counts))
    for node in answer["nodes"]:
        trouble = _trouble(node, sent_ms)
        if trouble:
            yield Line(trouble, "yellow")
    forgetful = not all(node["covers"] for node in answer["nodes"])
    for user in answer["users"]:
        yield Line("")
        yield Line(f"{user['uid']}: {_verdict(user, sent_ms)}", _style(user))
        yield from (Line(f"  {text}") for text in _details(user, message, sent_ms, forgetful=forgetful))
    if not answer["users"]:
        yield Line("Nobody is known to be concerned.")
    if answer["next"]:
        yield Line("")
        yield Line(f"There are more: go on with --start {answer['next']}")


def _heading(answer: Json) -> str:
    message = answer["message"]
    kind = _TYPE_NAMES.get(answer["channel_type"], f"type {answer['channel_type']}")
    what = "command" if answer["command"] else "message"
    number = f"{what} {message['message_seq']}" if message["stored"] else what
    sender = f" by {message['from_uid']}" if message["from_uid"] else ""
    sent = _date_time(message["sent_ms"])
    return f"{number} of {kind} {answer['channel_id']}, id {message['message_id']}, sent {sent}{sender}"


def _counts(counts: Json) -> str:
    most = "" if counts["exact"] else "up to "
    return (
        f"{counts['recipients']:,} {'recipient' if counts['recipients'] == 1 else 'recipients'}: pushed to "
        f"{counts['pushed']:,}, confirmed by {counts['acknowledged']:,}, by sync {most}{counts['by_sync']:,}"
    )


def _trouble(node: Json, sent_ms: int) -> str:
    """What is not known of a node; "" for nothing."""
    name = f"node {node['node']}"
    if not node["answered"]:
        return f"{name} did not answer: what it pushed is not known"
    if not node["recording"]:
        return f"{name} remembers no pushes (wukong.deliveryRecordBytes is off)"
    if node["covers"]:
        return ""
    if node["pushed"]:
        return f"{name} has forgotten some sessions that got the message"
    if node["since_ms"] > sent_ms:
        return (
            f"{name} started {_clock(node['since_ms'], sent_ms)}, after the message: what it pushed before is not known"
        )
    return f"{name} has forgotten what it pushed up to {_clock(node['forgotten_ms'], sent_ms)}"


def _style(user: Json) -> str:
    return {True: "green", False: "red"}.get(user["recipient"], "yellow")


def _verdict(user: Json, sent_ms: int) -> str:
    why, of = user["why"], user["membership"]
    since = _joined(of, sent_ms) if of else ""
    texts = {
        "member": f"gets it: member since {since}",
        "implicit": "gets it: takes part by the channel's id",
        "named": "gets it: named by the sender",
        "not_named": "does not get it: the sender named others",
        "joined_later": f"does not get it: joined later, {since}{_before(user['earlier'], sent_ms)}",
        "removed_before": f"does not get it: removed {_removed(of, sent_ms)}, member since {since}",
        "no_member": "does not get it: no membership is known; he never was a member, or nothing of it is kept",
        "pushed": "got it: it was pushed to him; his membership of then is not kept",
        "not_kept": "not known: whether he was a member then is not kept",
        "system_account": "does not get it: nothing is pushed to the system account",
    }
    return str(texts.get(why, why))


def _joined(of: Json, sent_ms: int) -> str:
    return f"{_span(of['from_ms'], sent_ms)} (log index {of['from_log_index']}, after seq {of['from_seq']})"


def _before(earlier: Json | None, sent_ms: int) -> str:
    if earlier is None:
        return "; whether he was a member before is not kept"
    return f"; before that he was removed {_removed(earlier, sent_ms)}"


def _removed(of: Json | None, sent_ms: int) -> str:
    if of is None or "until_seq" not in of:
        return ""
    return f"{_span(of['until_ms'], sent_ms)} (log index {of['until_log_index']}, after seq {of['until_seq']})"


def _details(user: Json, message: Json, sent_ms: int, *, forgetful: bool) -> Iterator[str]:
    if user["sender"]:
        yield "sent it himself: the session that sent it gets none, his others do"
    if user["denied"]:
        yield "is on the deny list now: may not send, and still gets what others send"
    if user["system"]:
        yield "is a system account: may send anywhere"
    for session in user["sessions"]:
        yield _device(session, message, sent_ms)
    if not user["recipient"]:
        return
    if not user["connected"]:
        yield "is not connected now"
    if user["sender"]:
        return
    sessions = user["sessions"]
    if not any(session["pushed_ms"] for session in sessions):
        if forgetful:
            yield "no push to him is remembered"
        elif not any(session["opened_ms"] <= sent_ms <= (session["ended_ms"] or sent_ms) for session in sessions):
            yield "was not pushed to him: he was not connected then"
    if user["sync"] is not None:
        yield _sync(user["sync"], message["message_seq"])


def _device(session: Json, message: Json, sent_ms: int) -> str:
    name = _DEVICES.get(session["device_flag"], f"device {session['device_flag']}")
    parts = []
    if session["pushed_ms"]:
        parts.append(f"pushed {_clock(session['pushed_ms'], sent_ms)}")
        if session["repeated_ms"]:
            times = len(session["repeated_ms"])
            last = _clock(session["repeated_ms"][-1], sent_ms)
            parts.append(f"repeated {times} {'time' if times == 1 else 'times'}, last {last}")
        if session["acknowledged_ms"]:
            parts.append(f"confirmed {_clock(session['acknowledged_ms'], sent_ms)}")
        elif message["stored"]:
            parts.append("not confirmed")
    elif session["state"] == "connected" and not session["known"]:
        parts.append(f"connected since {_clock(session['opened_ms'], sent_ms)}; its node cannot tell what it pushed")
    elif session["state"] == "connected" and session["opened_ms"] > sent_ms:
        parts.append(f"connected since {_clock(session['opened_ms'], sent_ms)}, after the message")
    elif session["state"] == "connected":
        parts.append(f"connected since {_clock(session['opened_ms'], sent_ms)}, no push remembered")
    else:
        parts.append(f"connected {_clock(session['opened_ms'], sent_ms)}")
    if session["state"] == "ended":
        why = _ENDS.get(session["why"], session["why"])
        said = f' ("{session["text"]}")' if session["text"] else ""
        parts.append(f"ended {_clock(session['ended_ms'], sent_ms)}: {why}{said}")
    elif session["state"] == "lost":
        parts.append("its node failed or was restarted since: what it pushed there is not known")
    return f"{name} on node {session['node']}: {', '.join(parts)}"


def _sync(sync: Json, seq: int) -> str:
    way = sync["way"]
    if way == "none":
        return "does not come by sync: it is not stored"
    if way == "command":
        if sync["done"]:
            return "confirmed as a command (/message/syncack, or a RECVACK)"
        return f"comes by /message/sync, which begins with seq {sync['from_seq']}"
    if sync["done"]:
        return f"read: his read position is {sync['from_seq'] - 1}"
    if way == "conversation":
        return f"comes by sync: his conversation is unread from seq {sync['from_seq']}"
    return f"comes by /channel/messagesync only, with seq {seq}: he has no conversation that shows it"


# -- times --


def _date_time(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d ", time.localtime(time_ms / 1000)) + _time_of_day(time_ms)


def _time_of_day(time_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_ms / 1000)) + f".{time_ms % 1000:03d}"


def _clock(time_ms: int, sent_ms: int) -> str:
    """Without the date on the day of the message."""
    day = "%Y-%m-%d"
    if time.strftime(day, time.localtime(time_ms / 1000)) == time.strftime(day, time.localtime(sent_ms / 1000)):
        return _time_of_day(time_ms)
    return _date_time(time_ms)


def _span(bounds: list[int], sent_ms: int) -> str:
    low, high = bounds
    if low == high:
        return _clock(low, sent_ms)
    if not low:
        return f"{_clock(high, sent_ms)} at the latest"
    return f"between {_clock(low, sent_ms)} and {_clock(high, sent_ms)}"
