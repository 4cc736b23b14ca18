from tests.gateway.conftest import World
from wukong.protocol.packets import Ping, Pong, Sendack
from wukong.protocol.recv_frame import SharedRecv


async def test_conversation(world: World) -> None:
    c = await world.logged_in()
    c.send_packet(Ping())
    assert await c.packet() == Pong()
    c.send_bytes(c.message(1))
    ack = await c.packet()
    assert isinstance(ack, Sendack) and ack.client_seq == 1
    v = SharedRecv(message_id=5, message_seq=1, client_msg_no="x", timestamp=1, payload=b"hi").view("bob", "bob", 1, 2)
    world.gateway.deliver(v, [1])
    assert (await c.recv()).payload == b"hi"
    await world.gateway.stop()
    print(await c.closed())
    assert world.sessions.logouts
