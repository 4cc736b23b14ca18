import json
from typing import Any

import pytest

from tests.protocol.cases import packet_of, rows
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Event


@pytest.mark.parametrize(
    "row", [row for row in rows() if row["packet"] == "EVENT" and row["fields"]["id"]], ids=lambda row: row["id"]
)
def test_an_event_is_the_recorded_frame_and_made_once(row: dict[str, Any]) -> None:
    packet = packet_of(row)
    assert isinstance(packet, Event)
    event = SharedEvent(packet)
    assert event.frame().hex() == row["hex"]
    assert event.frame() is event.frame()


def test_the_json_form_carries_the_data_as_text_and_is_made_once() -> None:
    event = SharedEvent(Event("e1", "stream.delta", 1700000000123, b'{"a":1}'))
    assert json.loads(event.json_text()) == {
        "jsonrpc": "2.0",
        "method": "event",
        "params": {
            "header": {},
            "id": "e1",
            "type": "stream.delta",
            "timestamp": 1700000000123,
            "data": '{"a":1}',
        },
    }
    assert event.json_text() is event.json_text()


def test_an_event_without_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="has an id"):
        SharedEvent(Event("", "stream.delta", 1))
