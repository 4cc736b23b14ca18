import asyncio

import pytest

from tests.client.small_server import GROUP, PERSON, SmallServer, running_server
from wukong.cli.lean import LeanConnection, NoLogin
from wukong.client.transport import host_and_port
from wukong.protocol.packets import RED_DOT


class Seen:
    """What a connection told its callbacks."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, int]] = []
        self.answers: list[tuple[int, int, int]] = []
        self.changed = asyncio.Event()

    def recv(self, connection: LeanConnection, client_msg_no: bytes, message_seq: int) -> None:
        self.received.append((client_msg_no, message_seq))
        self.changed.set()

    def sendack(self, connection: LeanConnection, client_seq: int, message_seq: int, reason: int) -> None:
        self.answers.append((client_seq, message_seq, reason))
        self.changed.set()

    async def until(self, received_count: int, answers_count: int = 0) -> None:
        while len(self.received) < received_count or len(self.answers) < answers_count:
            self.changed.clear()
            await self.changed.wait()


async def opened(server: SmallServer, uid: str) -> tuple[LeanConnection, Seen]:
    seen = Seen()
    host, port = host_and_port(server.tcp)
    connection = await LeanConnection.open(host, port, uid, on_recv=seen.recv, on_sendack=seen.sendack)
    return connection, seen


@pytest.mark.parametrize("encryption", [True, False])
async def test_messages_are_sent_answered_received_and_acknowledged(encryption: bool) -> None:
    async with running_server(encryption=encryption) as server:
        alice, told = await opened(server, "alice")
        bob, heard = await opened(server, "bob")
        payload = b"x" * 300
        for number in ("n1", "n2"):
            alice.send("bob", PERSON, alice.sealed(payload), number, RED_DOT)
        assert alice.in_flight == 2
        await told.until(0, 2)
        await heard.until(2)
        await server.until(lambda: len(server.recvacks) == 2)
        assert told.answers == [(1, 1, 1), (2, 2, 1)]
        assert heard.received == [(b"n1", 1), (b"n2", 2)]
        assert alice.in_flight == 0
        assert [row.payload for row in server.channel("bob", PERSON, "alice").messages] == [payload, payload]
        alice.close()
        bob.close()


async def test_repetitions_are_let_through_and_unstored_messages_not_acknowledged() -> None:
    async with running_server() as server:
        bob, heard = await opened(server, "bob")
        channel = server.channel("g", GROUP)
        channel.members.add("bob")
        row = await server.store("g", GROUP, "x", b"1", client_msg_no="n")
        await server.fan_out(channel, row)
        await server.store("g", GROUP, "x", b"2", client_msg_no="m", flags=1)
        await heard.until(3)
        assert heard.received == [(b"n", 1), (b"n", 1), (b"m", 0)]
        await server.until(lambda: len(server.recvacks) == 2)
        bob.close()


async def test_frames_in_pieces_are_put_together() -> None:
    async with running_server() as server:
        _, heard = await opened(server, "bob")
        connection = LeanConnection("x", on_recv=heard.recv)
        frames: list[bytes] = []

        async def record(data: bytes) -> None:
            frames.append(data)

        session = await server.until_logged_in("bob")
        session._write = record
        server.channel("g", GROUP).members.add("bob")
        for number in ("a", "b"):
            await server.store("g", GROUP, "x", b"y" * 200, client_msg_no=number)
        for byte in b"".join(frames) + b"\x80":
            connection.data_received(bytes((byte,)))
        assert heard.received == [(b"a", 1), (b"b", 2)]
        assert connection.pongs_count == 1


async def test_a_kick_and_a_closed_socket_are_noticed() -> None:
    async with running_server() as server:
        bob, _ = await opened(server, "bob")
        session = await server.until_logged_in("bob")
        await session.kick(12, "away")
        session.cut()
        while not bob.closed:
            await asyncio.sleep(0.01)


async def test_pings_are_answered() -> None:
    async with running_server() as server:
        bob, _ = await opened(server, "bob")
        bob.ping()
        while not bob.pongs_count:
            await asyncio.sleep(0.01)
        bob.close()


async def test_a_refused_login_says_why() -> None:
    async with running_server() as server:
        server.login_reason = 2
        with pytest.raises(NoLogin, match="ReasonAuthFail") as caught:
            await opened(server, "bob")
        assert caught.value.reason == 2


async def test_a_server_that_closes_and_one_that_is_not_there_are_told(unused_address: str) -> None:
    async with running_server() as server:
        server.refuse_connections = True
        with pytest.raises(NoLogin) as caught:
            await opened(server, "bob")
        assert caught.value.reason == 0
    host, port = host_and_port(unused_address)
    with pytest.raises(NoLogin, match=f"cannot connect to {unused_address}: connection refused"):
        await LeanConnection.open(host, port, "bob")
