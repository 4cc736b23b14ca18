"""The conversation of one user: lines and commands in, messages out, over the SDK."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Final

from wukong.cli.chat.terminal import Terminal, harmless
from wukong.cli.output import explain
from wukong.client import (
    AdminClient,
    ApiError,
    ChannelType,
    Client,
    ClientError,
    Message,
    State,
    StateChange,
    text_payload,
)
from wukong.client.errors import cause_text

HISTORY_COUNT: Final = 10
HISTORY_LIMIT_COUNT: Final = 200
UNREAD_LIMIT_COUNT: Final = 10
SENDS_LIMIT_COUNT: Final = 32

HELP: Final = """\
/to UID        talk to a person
/group ID      talk in a group
/history [N]   show the last N messages of this conversation (10)
/members       members of this group
/add UID...    add members to this group
/who           who you are and whom you talk to
/help          this list
/quit          leave (also Ctrl-C, Ctrl-D)"""


class Talk:
    """admin: for history and members; None when the HTTP API is not there."""

    def __init__(self, terminal: Terminal, uid: str, admin: AdminClient | None) -> None:
        self._terminal = terminal
        self._uid = uid
        self._admin = admin
        self._channel_id = ""
        self._channel_type = int(ChannelType.PERSON)
        self._client: Client | None = None
        self._sends = asyncio.Semaphore(SENDS_LIMIT_COUNT)
        self._sending: set[asyncio.Task[None]] = set()

    def choose(self, channel_id: str, channel_type: int) -> None:
        self._channel_id = channel_id
        self._channel_type = channel_type
        place = harmless(channel_id) or "nobody"
        if channel_type != ChannelType.PERSON:
            place = f"#{place}"
        self._terminal.prompt = f"{harmless(self._uid)} > {place}: "

    def state_changed(self, change: StateChange) -> None:
        """For the client's on_state."""
        if change.state is State.WAITING:
            cause = cause_text(change.error) if change.error is not None else "no reason"
            text = f"connection lost ({cause}), next attempt in {change.retry_in_s:.1f} s"
            self._terminal.show(text, "note")
        elif change.state is State.CONNECTED:
            self._terminal.show("connected", "note")

    async def run(self, client: Client) -> None:
        """Until the user leaves or the client ends by a final error, which is raised."""
        self._client = client
        listening = asyncio.create_task(self._listen(client))
        typing = asyncio.create_task(self._type())
        try:
            await asyncio.wait((listening, typing), return_when=asyncio.FIRST_COMPLETED)
            if typing.done():
                typing.result()
                await self._wait_for_answers()
            else:
                listening.result()
        finally:
            under_way = [listening, typing, *self._sending]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _wait_for_answers(self) -> None:
        """What was typed last should leave before the program does; each send ends by its own time limit."""
        for _ in range(SENDS_LIMIT_COUNT):
            await self._sends.acquire()

    async def _listen(self, client: Client) -> None:
        async for message in client:
            self._terminal.show(self._line_of(message))

    def _line_of(self, message: Message) -> str:
        who = harmless(message.from_uid) or "system"
        if message.channel_type != ChannelType.PERSON:
            who = f"{who} #{harmless(message.channel_id)}"
        elif message.from_uid == self._uid:
            # From another device of this user: the channel is the other person.
            who = f"{who} > {harmless(message.channel_id)}"
        mark = "[command] " if message.sync_once else ""
        return f"{_clock(message.timestamp)} {who}: {mark}{harmless(message.text)}"

    # -- typing --

    async def _type(self) -> None:
        while (line := await self._terminal.next_line()) is not None:
            line = line.strip()
            if not line:
                continue
            if line.startswith("//"):
                line = line[1:]
            elif line.startswith("/"):
                if not await self._command(line[1:].split()):
                    return
                continue
            if not self._channel_id:
                self._terminal.show("whom to? /to UID or /group ID", "fault")
                continue
            # One at a time gets its place here, so the order of typing is the order of sending.
            await self._sends.acquire()
            task = asyncio.create_task(self._send(self._channel_id, self._channel_type, line))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, channel_id: str, channel_type: int, text: str) -> None:
        assert self._client is not None
        try:
            sent = await self._client.send(channel_id, channel_type, text_payload(text))
        except (ClientError, ValueError) as error:
            self._terminal.show(f"not sent: {harmless(text)} -- {explain(error)[0]}", "fault")
        else:
            place = f" #{harmless(channel_id)}" if channel_type != ChannelType.PERSON else f" > {harmless(channel_id)}"
            line = f"{_clock(time.time())} {harmless(self._uid)}{place}: {harmless(text)}  [{sent.message_seq}]"
            self._terminal.show(line, "own")
        finally:
            self._sends.release()

    async def _command(self, words: Sequence[str]) -> bool:
        """False: leave."""
        name, arguments = (words[0], words[1:]) if words else ("help", [])
        match name, arguments:
            case (("quit" | "q" | "exit"), _):
                return False
            case "help", _:
                for line in HELP.splitlines():
                    self._terminal.show(line, "note")
            case "to", [uid]:
                self.choose(uid, ChannelType.PERSON)
            case "group", [channel_id]:
                self.choose(channel_id, ChannelType.GROUP)
            case "who", _:
                self._terminal.show(f"you are {self._uid}, talking to {self._channel_id or 'nobody'}", "note")
            case "history", _ if not arguments or arguments[0].isdigit():
                count = int(arguments[0]) if arguments else HISTORY_COUNT
                await self._over_api(self._show_history(min(count, HISTORY_LIMIT_COUNT)))
            case "members", []:
                await self._over_api(self._show_members())
            case "add", [_, *_]:
                await self._over_api(self._add(arguments))
            case _:
                self._terminal.show(f"/{' '.join(words)}: no such command; /help lists them", "fault")
        return True

    async def _over_api(self, work: Coroutine[object, object, None]) -> None:
        if self._admin is None or not self._channel_id:
            work.close()
            text = "the HTTP API is not there (--api)" if self._admin is None else "whom to? /to UID or /group ID"
            self._terminal.show(text, "fault")
            return
        try:
            await work
        except ApiError as error:
            self._terminal.show(explain(error)[0], "fault")

    async def show_unread(self) -> None:
        """Where unread messages wait, most of them first. Without the API, or when it refuses, nothing."""
        if self._admin is None:
            return
        try:
            waiting = [each for each in await self._admin.conversations(self._uid) if each.unread > 0]
        except ApiError as error:
            self._terminal.show(explain(error)[0], "fault")
            return
        for each in sorted(waiting, key=lambda each: -each.unread)[:UNREAD_LIMIT_COUNT]:
            place = "/to " if each.channel_type == ChannelType.PERSON else "/group "
            text = f"{each.unread:,} unread: {place}{harmless(each.channel_id)}, then /history {each.unread}"
            self._terminal.show(text, "note")

    async def _show_history(self, count: int) -> None:
        assert self._admin is not None
        page = await self._admin.sync_messages(self._uid, self._channel_id, self._channel_type, limit=count)
        for message in page.messages:
            self._terminal.show(self._line_of(message), "own" if message.from_uid == self._uid else "")
        if not page.messages:
            self._terminal.show("nothing yet", "note")

    async def _show_members(self) -> None:
        assert self._admin is not None
        uids = await self._admin.subscribers(self._channel_id, self._channel_type)
        self._terminal.show(", ".join(map(harmless, uids)) or "no members", "note")

    async def _add(self, uids: Sequence[str]) -> None:
        assert self._admin is not None
        await self._admin.add_subscribers(self._channel_id, self._channel_type, uids)
        self._terminal.show(f"added: {', '.join(map(harmless, uids))}", "note")


def _clock(timestamp: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(timestamp))
