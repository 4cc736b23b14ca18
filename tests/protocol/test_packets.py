import gc

import msgspec
import pytest

from tests.protocol.cases import packet_of, rows
from wukong.protocol.packets import ChannelType, DeviceFlag, DeviceLevel, PacketType, Send


def test_packet_types_have_their_numbers_on_the_wire() -> None:
    assert [(kind.name, kind.value) for kind in PacketType] == [
        ("CONNECT", 1),
        ("CONNACK", 2),
        ("SEND", 3),
        ("SENDACK", 4),
        ("RECV", 5),
        ("RECVACK", 6),
        ("PING", 7),
        ("PONG", 8),
        ("DISCONNECT", 9),
        ("SUB", 10),
        ("SUBACK", 11),
        ("EVENT", 12),
    ]


def test_channel_and_device_numbers_are_those_clients_use() -> None:
    assert [kind.value for kind in ChannelType] == list(range(1, 13))
    assert (DeviceFlag.APP, DeviceFlag.WEB, DeviceFlag.PC, DeviceFlag.SYSTEM) == (0, 1, 2, 99)
    assert (DeviceLevel.SLAVE, DeviceLevel.MASTER) == (0, 1)


def test_packets_cannot_be_changed_and_do_not_burden_the_garbage_collector() -> None:
    for row in rows():
        packet = packet_of(row)
        assert not gc.is_tracked(packet)
        name = packet.__struct_fields__[0]
        with pytest.raises(AttributeError):
            setattr(packet, name, 0)


def test_a_changed_copy_is_a_new_packet() -> None:
    send = Send(0, 0, 1, "cmn", "bob", 1)
    assert msgspec.structs.replace(send, payload=b"x").payload == b"x"
    assert send.payload == b""
