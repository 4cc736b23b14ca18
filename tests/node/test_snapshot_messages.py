"""What passes between the two ends of a snapshot, and what is refused."""

import random
from typing import Any

import msgpack
import pytest

from tests.node.snapshot_world import MEMBERS
from wukong.node.snapshot_messages import Chunk, Done, Gone, Message, Offer, Pull, checksum, decode, encode
from wukong.raft.log import Snapshot

ROWS = [(b"a", b""), (b"b", b"\x00" * 300), (b"\xff", b"x")]
MESSAGES: list[Message] = [
    Offer(1, 7, Snapshot(100, 6, MEMBERS)),
    Pull(1, 7, b""),
    Pull(1, 7, b"\x00\xff"),
    Chunk(1, 7, b"", ROWS, False, checksum(ROWS)),
    Chunk(1, 7, b"\xff", [], True, checksum([])),
    Gone(1, 7),
    Done(1, 7),
]


def carried(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = msgpack.unpackb(msgpack.packb(encode(message)))
    return body


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(carried(message)) == message


def test_a_checksum_tells_apart_where_rows_and_values_begin() -> None:
    assert len({checksum(rows) for rows in ([(b"ab", b"c")], [(b"a", b"bc")], [(b"a", b"b"), (b"c", b"")], [])}) == 4


@pytest.mark.parametrize("body", [None, 1, b"", "offer", [], {}, {"op": "offer"}, {"op": ["pull"], "id": 1, "term": 1}])
def test_what_is_no_message_is_refused(body: object) -> None:
    assert decode(body) is None


@pytest.mark.parametrize("message", MESSAGES[:5], ids=lambda message: type(message).__name__)
def test_a_message_with_a_missing_or_wrong_field_is_refused(message: Message) -> None:
    whole = carried(message)
    for name in whole:
        assert decode({key: value for key, value in whole.items() if key != name}) is None, name
        for wrong in (None, -1, 1 << 70, 1.5, "text", {"a": 1}, [[1]], [[1, 2, 3]], [[b"k", "text"]], [b"kv"]):
            if name == "crc" and type(wrong) is int:
                continue  # a number, though never the right one
            assert decode({**whole, name: wrong}) is None, (name, wrong)
    assert decode({**whole, "id": True}) is None


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_a_map_can_hold_makes_it_raise(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    values: list[object] = [
        None,
        True,
        0,
        1,
        -1,
        1 << 63,
        1.0,
        b"",
        b"x",
        "",
        "offer",
        [],
        [[]],
        [[b"a", b"b"]],
        {},
        [None],
    ]
    for _ in range(5000):
        body = dict(carried(chance.choice(MESSAGES)))
        for name in chance.sample(sorted(body), chance.randint(0, 2)):
            body[name] = chance.choice(values)
        decode(body)
