"""The gateway as a whole: listeners, limits, figures, stop. On both transports."""

import asyncio
import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.gateway.client import Client, Closed
from tests.gateway.conftest import World
from wukong.gateway.tcp import TcpEndpoint
from wukong.gateway.websocket import WebSocketEndpoint
from wukong.protocol.crypto import ClientHandshake
from wukong.protocol.packets import Connect, Ping, Pong, Sendack

Make = Callable[..., Any]


async def test_stop_closes_everybody_so_that_they_come_back(world: World) -> None:
    clients = [await world.logged_in(f"u{index}") for index in range(20)]
    stopping = asyncio.create_task(world.gateway.stop())
    for client in clients:
        # No DISCONNECT: SDKs take it as final.
        with pytest.raises(Closed) as closed:
            await client.next_message()
        assert closed.value.code == (1012 if world.kind == "ws" else None)
        client.close()
    await stopping
    assert sorted(number for number, _ in world.sessions.logouts) == list(range(1, 21))
    assert world.gateway.connections == 0
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", world.ports[world.kind])


async def test_stop_does_not_wait_for_clients_that_do_not_go(make_world: Make) -> None:
    world = await make_world(linger_ms=60_000)
    client = await world.logged_in()
    client.stop_reading()
    world.gateway._hub.by_number[1]._transport.write(bytes(20_000_000))
    begin = asyncio.get_running_loop().time()
    await world.gateway.stop(timeout_s=0.2)
    assert asyncio.get_running_loop().time() - begin < 5
    assert world.gateway.connections == 0
    assert world.sessions.logouts == [(1, "alice")]


async def test_stop_has_one_time_limit_for_all_that_it_waits_for(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(linger_ms=60_000)
    await world.logged_in()
    for kind in (TcpEndpoint, WebSocketEndpoint):
        # A socket that does not go, whatever is done to it.
        monkeypatch.setattr(kind, "_hang_up", lambda self, code: None)
        monkeypatch.setattr(kind, "abort", lambda self: None)
    begin = asyncio.get_running_loop().time()
    await world.gateway.stop(timeout_s=1.0)
    assert asyncio.get_running_loop().time() - begin < 1.8


async def test_stop_ends_logins_under_way(world: World) -> None:
    world.sessions.gate.clear()
    client = await world.open()
    client.send_packet(Connect(5, "alice", "", "d1", 0, 0, ClientHandshake().client_key))
    await world.sessions.until(lambda: bool(world.sessions.logins))
    stopping = asyncio.create_task(world.gateway.stop())
    with pytest.raises(Closed):
        await client.next_message()
    client.close()
    await stopping
    assert world.sessions.cancelled == [1]
    assert world.sessions.logouts == [(1, "alice")]
    assert world.gateway.logins_in_progress == 0


async def test_sockets_beyond_the_limit_are_closed_as_they_come(make_world: Make) -> None:
    world = await make_world(connections_limit=2)
    first, second = await world.logged_in("a"), await world.logged_in("b")
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[world.kind])
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 10)
    writer.close()
    assert world.gateway.counters.rejected == 1
    for client in (first, second):
        client.send_packet(Ping())
        assert await client.packet() == Pong()
    first.abort()
    await world.sessions.until(lambda: world.sessions.logouts == [(1, "a")])
    await world.logged_in("c")


async def test_a_session_can_be_described(world: World) -> None:
    client = await world.logged_in("alice", device_id="phone", device_flag=1, version=4)
    begin_ms = world.clock.now_ms()
    client.send_bytes(client.message(1, b"12345"))
    assert isinstance(await client.packet(), Sendack)
    world.clock.advance(5)
    info = world.gateway.info(1)
    assert info is not None
    assert (info.id, info.uid, info.device_id, info.device_flag, info.version) == (1, "alice", "phone", 1, 4)
    assert (info.ip, info.transport, info.is_json, info.is_encrypted) == ("127.0.0.1", world.kind, False, True)
    assert info.port == client.writer.get_extra_info("sockname")[1]
    assert (info.in_messages, info.in_message_bytes) == (1, 5)
    assert (info.in_packets, info.out_packets, info.out_messages) == (2, 2, 0)
    assert info.in_packet_bytes > 100
    assert info.out_packet_bytes > 100
    assert (info.idle_ms, info.uptime_ms) == (5_000, 5_000)
    assert (info.last_activity_ms, info.connected_ms) == (begin_ms, begin_ms)
    assert [each.uid for each in world.gateway.infos()] == ["alice"]
    counters = world.gateway.counters
    assert (counters.accepted, counters.logins, counters.in_messages, counters.in_packets) == (1, 1, 1, 2)
    assert (counters.in_bytes, counters.out_bytes) == (info.in_packet_bytes, info.out_packet_bytes)
    assert (world.gateway.connections, world.gateway.sessions) == (1, 1)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    key_file, cert_file = directory / "key.pem", directory / "cert.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return cert_file, key_file


@pytest.mark.parametrize("kind", ["wss"])
async def test_a_conversation_over_tls(make_world: Make, tmp_path: Path) -> None:
    world = await make_world()
    cert_file, key_file = certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert_file, key_file)
    port = await world.gateway.listen_websocket("127.0.0.1", 0, tls=server)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = False
    theirs.verify_mode = ssl.CERT_NONE
    client = await Client.open("wss", port, tls=theirs)
    await client.login()
    client.send_bytes(client.message(1))
    assert isinstance(await client.packet(), Sendack)
    info = world.gateway.info(1)
    assert info is not None
    assert info.transport == "wss"
    world.gateway.drop(1)
    assert await client.closed() == 1013
    client.close()
