"""The test client itself: what no correct server does must not pass it unnoticed."""

import pytest

from tests.support.wire import Client, Kind
from wukong.protocol.codec import encode
from wukong.protocol.packets import NO_PERSIST, SYNC_ONCE, Connack, Packet, Recv

CONNACK = Connack(1, server_version=5)


def recv(seq: int, *, message_id: int = 0, flags: int = 0, channel: str = "g") -> Recv:
    return Recv(flags, 0, "", "a", channel, 2, f"n{seq}", message_id or seq + 1_000, seq, 1, payload=b"x")


def faults(*packets: Packet) -> list[str]:
    client = Client("u", Kind.TCP)
    client.bytes_in(b"".join(encode(packet, 5) for packet in packets))
    return client.faults


async def test_what_a_server_may_do_is_no_fault() -> None:
    assert faults(CONNACK, recv(1), recv(2), recv(5), recv(1, message_id=7, channel="h")) == []
    # The command twin counts for itself, and what is not stored has no seq.
    assert faults(CONNACK, recv(3), recv(1, message_id=7, flags=SYNC_ONCE), recv(0, flags=NO_PERSIST)) == []


@pytest.mark.parametrize(
    ("packets", "fault"),
    [
        ([CONNACK, recv(1), recv(1)], "doubled"),
        ([CONNACK, recv(2), recv(1)], "out of order, seq 1 after 2"),
        ([CONNACK, recv(2), recv(2, message_id=9)], "out of order, seq 2 after 2"),
        ([CONNACK, recv(0)], "seq and no_persist contradict"),
        ([CONNACK, recv(1, flags=NO_PERSIST)], "seq and no_persist contradict"),
        ([recv(1)], "before CONNACK"),
        ([CONNACK, CONNACK], "second CONNACK"),
    ],
)
async def test_what_a_server_may_not_do_is_a_fault(packets: list[Packet], fault: str) -> None:
    assert any(fault in each for each in faults(*packets))


async def test_two_packets_in_one_websocket_message_are_a_fault() -> None:
    client = Client("u", Kind.WS)
    client.message_in(encode(CONNACK, 5), is_text=False)
    assert client.faults == []
    client.message_in(encode(recv(1), 5) + encode(recv(2), 5), is_text=False)
    assert "not one packet" in client.faults[0]


async def test_a_wrong_msg_key_is_a_fault() -> None:
    client = Client("u", Kind.TCP)
    key = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw="
    client.bytes_in(encode(Connack(1, server_key=key, salt="abcdefghijklmnop", server_version=5), 5))
    client.bytes_in(encode(recv(1), 5))
    assert client.faults[0].startswith("wrong msg_key")
