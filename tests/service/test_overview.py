"""Connections and figures of this node. http-api.md section 7."""

import pytest

from tests.service.stack import NODE_ID, START_MS, FakeFacts, Stack
from wukong.service.overview import ConnectionPage, format_age, format_time


async def connected(stack: Stack) -> None:
    for number, uid in enumerate(("alice", "bob", "alicia"), start=1):
        await stack.connect(uid, number, flag=number - 1, level=number % 2)
    facts = stack.connections.facts
    facts[1] = FakeFacts(in_messages=5, idle_ms=9_000)
    facts[2] = FakeFacts(in_messages=9, idle_ms=1_000)
    facts[3] = FakeFacts(in_messages=7, idle_ms=5_000)


async def page(stack: Stack, **options: object) -> ConnectionPage:
    return await stack.use_cases.overview.connections(**options)  # type: ignore[arg-type]


async def test_a_connection_is_described_with_the_gateways_counters_and_the_logins_level(stack: Stack) -> None:
    await connected(stack)
    shape = (await page(stack)).connections[0]
    assert (shape.id, shape.uid, shape.ip, shape.port, shape.version) == (1, "alice", "198.51.100.4", 50122, 5)
    assert (shape.uptime, shape.idle, shape.in_msgs, shape.out_packet_bytes) == ("3m20s", "9s", 5, 8)
    assert (shape.device, shape.device_id, shape.node_id, shape.leader_id) == ("App(主)", "device-1", NODE_ID, NODE_ID)


async def test_device_and_level_are_named(stack: Stack) -> None:
    await connected(stack)
    await stack.connect("x", 4, flag=99)
    assert [shape.device for shape in (await page(stack)).connections] == ["App(主)", "Web(从)", "PC(主)", "未知(从)"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, [1, 2, 3]),
        ({"uid": "ali"}, [1, 3]),
        ({"uid": "nobody"}, []),
        ({"limit": 2}, [1, 2]),
        ({"limit": 0}, [1, 2, 3]),
        ({"limit": -5}, [1, 2, 3]),
        ({"offset": 1}, [2, 3]),
        ({"offset": -1}, [1, 2, 3]),
        ({"offset": 9}, []),
        ({"sort": "idDesc"}, [3, 2, 1]),
        ({"sort": "inMsg"}, [1, 3, 2]),
        ({"sort": "inMsgDesc", "limit": 2}, [2, 3]),
        ({"sort": "idle"}, [2, 3, 1]),
        ({"sort": "pendingBytes"}, [1, 2, 3]),
        ({"sort": "nonsenseDesc"}, [1, 2, 3]),
    ],
)
async def test_connections_are_filtered_sorted_and_cut(
    stack: Stack, options: dict[str, object], ids: list[int]
) -> None:
    await connected(stack)
    found = await page(stack, **options)
    assert [shape.id for shape in found.connections] == ids
    assert found.total == 4


async def test_a_socket_that_is_gone_is_left_out(stack: Stack) -> None:
    await connected(stack)
    del stack.connections.facts[2]
    assert [shape.id for shape in (await page(stack)).connections] == [1, 3]


async def test_a_kick_says_why_and_closes_after_two_seconds(stack: Stack) -> None:
    await connected(stack)
    stack.use_cases.overview.kick("alice", 1)
    assert stack.connections.told == [("end", 1, 12, "server kick", 2_000)]


async def test_a_removal_closes_at_once(stack: Stack) -> None:
    await connected(stack)
    stack.use_cases.overview.remove("bob", 2)
    assert stack.connections.told == [("drop", 2)]


@pytest.mark.parametrize(("uid", "number"), [("alice", 2), ("alice", 99), ("", 1)])
async def test_a_connection_of_somebody_else_is_not_touched(stack: Stack, uid: str, number: int) -> None:
    await connected(stack)
    stack.use_cases.overview.kick(uid, number)
    stack.use_cases.overview.remove(uid, number)
    assert stack.connections.told == []


async def test_the_process_is_described(stack: Stack) -> None:
    await connected(stack)
    await stack.connect("alice", 4, flag=1)
    stack.clock.ms += 3_723_000
    process = stack.use_cases.overview.process()
    assert (process.users, process.sessions, process.connections) == (3, 4, 5)
    assert (process.uptime, process.in_messages, process.out_bytes) == ("1h2m3s", 11, 14)
    assert process.memory_bytes > 10**6
    assert process.cpu >= 0


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (999, "0s"),
        (5_000, "5s"),
        (60_000, "1m0s"),
        (200_000, "3m20s"),
        (3_600_000, "1h0m0s"),
        (93_784_000, "1d2h3m4s"),
    ],
)
def test_ages_leave_out_leading_zeros(age_ms: int, text: str) -> None:
    assert format_age(age_ms) == text


def test_times_are_rfc_3339_with_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert format_time(START_MS + 5) == "2023-11-14T22:13:20.005Z"
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    assert format_time(START_MS) == "2023-11-15T06:13:20.000+08:00"
    monkeypatch.undo()
    time.tzset()
