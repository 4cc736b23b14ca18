import asyncio
from types import TracebackType
from typing import Self

import pytest

from tests.client.canned_api import canned_api
from tests.client.small_server import GROUP, PERSON, SmallServer, running_server
from wukong.cli.chat.talk import HELP, Talk
from wukong.client import AdminClient, Backoff, ChannelType, ConnectFailed, Kicked, State, StateChange, connect


class Script:
    """A terminal: lines are typed by the test, what is shown is kept."""

    def __init__(self) -> None:
        self.prompt = ""
        self.shown: list[tuple[str, str]] = []
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.changed = asyncio.Event()

    def show(self, line: str, style: str = "") -> None:
        self.shown.append((line, style))
        self.changed.set()

    async def next_line(self) -> str | None:
        return await self.lines.get()

    def enter(self, *lines: str | None) -> None:
        for line in lines:
            self.lines.put_nowait(line)

    async def until_shown(self, text: str) -> tuple[str, str]:
        while True:
            for line, style in self.shown:
                if text in line:
                    return line, style
            self.changed.clear()
            await self.changed.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.fixture
def terminal() -> Script:
    return Script()


async def talk(server: SmallServer, terminal: Script, *, admin: AdminClient | None = None) -> None:
    """A chat of ann with ben, until she leaves."""
    conversation = Talk(terminal, "ann", admin)
    conversation.choose("ben", ChannelType.PERSON)
    async with connect(server.tcp, "ann", on_state=conversation.state_changed) as client:
        await conversation.run(client)


async def test_what_is_typed_is_sent_in_order_before_the_end(terminal: Script) -> None:
    async with running_server() as server:
        terminal.enter("one", "  ", "two", "//three", "/group tea", "four", "/quit", "never")
        server.channel("tea", GROUP)
        await talk(server, terminal)
        rows = server.channel("ben", PERSON, "ann").messages
        assert [row.payload for row in rows] == [
            b'{"type":1,"content":"one"}',
            b'{"type":1,"content":"two"}',
            b'{"type":1,"content":"/three"}',
        ]
        assert [row.payload for row in server.channel("tea", GROUP).messages] == [b'{"type":1,"content":"four"}']
    own = [line for line, style in terminal.shown if style == "own"]
    assert len(own) == 4
    assert "ann > ben: one  [1]" in own[0]
    assert "ann #tea: four  [1]" in own[-1]
    assert terminal.prompt == "ann > #tea: "


async def test_messages_are_shown_with_their_sender_and_place(terminal: Script) -> None:
    async with running_server() as server:
        chat = asyncio.create_task(talk(server, terminal))
        await terminal.until_shown("connected")
        await server.store("ann", PERSON, "ben", b'{"type":1,"content":"hi"}')
        assert (await terminal.until_shown("ben: hi"))[1] == ""
        server.channel("tea", GROUP).members.add("ann")
        await server.store("tea", GROUP, "eve\x1b[2J", b"\x1b[1mbold")
        await terminal.until_shown("eve·[2J #tea: ·[1mbold")
        await server.store("tea", GROUP, "", b"news", flags=4)
        await terminal.until_shown("system #tea: [command] news")
        await server.store("ben", PERSON, "ann", b"from my phone")
        await terminal.until_shown("ann > ben: from my phone")
        terminal.enter(None)
        await chat


async def test_a_refused_message_says_what_to_do(terminal: Script) -> None:
    async with running_server() as server:
        server.on_send = lambda session, packet: (0, 3)
        terminal.enter("hello", None)
        await talk(server, terminal)
    line, style = await terminal.until_shown("not sent: hello")
    assert "wukong channel add" in line
    assert style == "fault"


async def test_a_kick_ends_the_chat(terminal: Script) -> None:
    async with running_server() as server:
        chat = asyncio.create_task(talk(server, terminal))
        session = await server.until_logged_in("ann")
        await session.kick(12, "login in other device")
        with pytest.raises(Kicked):
            await chat


async def test_the_commands_of_the_api_show_history_and_members(terminal: Script) -> None:
    row = {
        "message_seq": 1,
        "from_uid": "ben",
        "channel_id": "tea",
        "channel_type": 2,
        "timestamp": 0,
        "payload": "aGk=",
    }
    answers = {
        "/channel/messagesync": (200, {"messages": [row]}),
        "/channel/subscribers": (200, {"subscribers": ["ann", "ben"], "next": ""}),
        "/channel/subscriber_add": (200, {"status": 200}),
    }
    async with running_server() as server, canned_api(answers) as api, AdminClient(api.url) as admin:
        terminal.enter("/group tea", "/history 5", "/members", "/add cid dan", "/who", "/help", None)
        await talk(server, terminal, admin=admin)
        assert next(request.body.get("limit") for request in api.requests if request.body) == 5
        assert api.requests[-1].body["subscribers"] == ["cid", "dan"]
    shown = [line for line, _ in terminal.shown]
    assert any(line.endswith("ben #tea: hi") for line in shown)
    assert "ann, ben" in shown
    assert "added: cid, dan" in shown
    assert "you are ann, talking to tea" in shown
    assert HELP.splitlines()[0] in shown


async def test_without_the_api_the_chat_goes_on_without_history(terminal: Script) -> None:
    async with running_server() as server:
        terminal.enter("/history", "hello", None)
        await talk(server, terminal)
    assert ("the HTTP API is not there (--api)", "fault") in terminal.shown
    await terminal.until_shown("ann > ben: hello")


async def test_a_refusal_of_the_api_does_not_end_the_chat(terminal: Script) -> None:
    refused = {"/channel/messagesync": (400, {"msg": "no", "status": 400})}
    async with running_server() as server, canned_api(refused) as api, AdminClient(api.url) as admin:
        terminal.enter("/history", "hello", None)
        await talk(server, terminal, admin=admin)
    assert any("no" in line and style == "fault" for line, style in terminal.shown)
    await terminal.until_shown("ann > ben: hello")


@pytest.mark.parametrize("line", ["/nonsense", "/to", "/history x", "/add"])
async def test_what_is_no_command_is_not_sent(terminal: Script, line: str) -> None:
    async with running_server() as server:
        terminal.enter(line, None)
        await talk(server, terminal)
        assert server.sends == []
    assert (f"{line}: no such command; /help lists them", "fault") in terminal.shown


async def test_without_a_partner_nothing_is_sent(terminal: Script) -> None:
    async with running_server() as server:
        conversation = Talk(terminal, "ann", None)
        conversation.choose("", ChannelType.PERSON)
        terminal.enter("hello", None)
        async with connect(server.tcp, "ann") as client:
            await conversation.run(client)
        assert server.sends == []
    assert ("whom to? /to UID or /group ID", "fault") in terminal.shown


async def test_a_lost_connection_is_told_and_the_message_leaves_after_it(terminal: Script) -> None:
    async with running_server() as server:
        conversation = Talk(terminal, "ann", None)
        conversation.choose("ben", ChannelType.PERSON)
        backoff = Backoff(base_s=0.01, cap_s=0.02)
        async with connect(server.tcp, "ann", on_state=conversation.state_changed, backoff=backoff) as client:
            chat = asyncio.create_task(conversation.run(client))
            (await server.until_logged_in("ann")).cut()
            assert (await terminal.until_shown("connection lost"))[1] == "note"
            terminal.enter("hello", None)
            await chat
    await terminal.until_shown("ann > ben: hello  [1]")


def test_the_reason_of_a_lost_connection_is_told_in_plain_words(terminal: Script) -> None:
    change = StateChange(State.WAITING, ConnectionRefusedError(111, "Connect call failed"), 1.25)
    Talk(terminal, "ann", None).state_changed(change)
    assert terminal.shown == [("connection lost (connection refused), next attempt in 1.2 s", "note")]


async def test_unread_conversations_are_named_and_trouble_is_no_obstacle(terminal: Script) -> None:
    rows = [
        {"channel_id": "tea", "channel_type": 2, "unread": 3},
        {"channel_id": "ben", "channel_type": 1, "unread": 12},
        {"channel_id": "cid", "channel_type": 1, "unread": 0},
    ]
    async with canned_api({"/conversation/sync": (200, rows)}) as api, AdminClient(api.url) as admin:
        await Talk(terminal, "ann", admin).show_unread()
        api.answers = {}
        await Talk(terminal, "ann", admin).show_unread()
    await Talk(terminal, "ann", None).show_unread()
    lines = [line for line, _ in terminal.shown]
    assert lines[:2] == ["12 unread: /to ben, then /history 12", "3 unread: /group tea, then /history 3"]
    assert terminal.shown[2][1] == "fault"


def test_errors_that_end_a_chat_have_words() -> None:
    assert "connection refused" in str(ConnectFailed("h:1", ConnectionRefusedError()))
