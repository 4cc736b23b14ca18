"""The look at who would be missed: it finds what is planted, and nothing else."""

import asyncio
import logging
from random import Random

import pytest

from tests.node.test_node_findings import Room
from wukong.channel.commands import PutChannel, RemoveMembers
from wukong.channel.ids import GROUP, ChannelId
from wukong.clock import SystemClock
from wukong.service.audit import CHANNELS_PER_TURN, LINES_PER_TURN, USERS_LIMIT, Audit

TEAM = ChannelId(GROUP, "team")
CROWD = ChannelId(GROUP, "crowd")
PEOPLE = [f"u{number}" for number in range(USERS_LIMIT + 40)]


def audit_of(room: Room) -> Audit:
    return Audit(
        node=room.node,
        registry=room.registry,
        audience=room.audience,
        sessions=room.sessions,
        clock=SystemClock(),
        rng=Random(5),
    )


async def a_team(*uids: str) -> tuple[Room, Audit]:
    room = await Room().start()
    await room.run("team", PutChannel(TEAM, None, list(uids)))
    for uid in uids:
        await room.connect(uid)
    return room, audit_of(room)


async def test_members_with_sessions_are_the_audience() -> None:
    room, audit = await a_team("ann", "bob")
    audit.compare(TEAM)
    await room.run("team", RemoveMembers(TEAM, ["bob"]))
    audit.compare(TEAM)
    assert (audit.channels, audit.differences) == (2, 0)


async def test_a_member_who_is_missing_in_the_audience_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    room, audit = await a_team("ann", "bob")
    room.audience.leave(TEAM, "bob")
    audit.compare(TEAM)
    assert audit.differences == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "bob of channel team (type 2)" in line.getMessage()


async def test_a_stranger_in_the_audience_is_counted() -> None:
    room, audit = await a_team("ann")
    await room.connect("eve")
    room.audience.join(TEAM, "eve")
    audit.compare(TEAM)
    assert audit.differences == 1


async def test_a_member_without_a_session_in_the_audience_is_counted() -> None:
    room, audit = await a_team("ann")
    await room.run("team", PutChannel(TEAM, None, ["bob"]))
    room.audience.join(TEAM, "bob")
    audit.compare(TEAM)
    assert audit.differences == 1


async def test_who_is_logging_in_may_still_be_missing() -> None:
    room, audit = await a_team("ann")
    await room.run("team", PutChannel(TEAM, None, ["bob"]))
    room.log.hold = True
    login = asyncio.ensure_future(room.connect("bob"))
    await asyncio.sleep(0)
    # The log has taken the session, and the user has not joined yet.
    number = room.sessions._last_number
    room.registry.start(number, 1)
    audit.compare(TEAM)
    assert audit.differences == 0
    login.cancel()
    room.sessions._joining.discard(number)
    audit.compare(TEAM)
    assert audit.differences == 1


async def test_a_login_that_is_over_is_no_excuse() -> None:
    room, _ = await a_team("ann")
    assert room.sessions.is_joining(1) is False
    room.sessions.logout(1, "ann")
    assert room.sessions._joining == set()


async def test_a_few_looks_find_what_is_planted_anywhere() -> None:
    room, audit = await a_team("ann", "bob")
    for name in range(30):
        await room.run(f"g{name}", PutChannel(ChannelId(GROUP, f"g{name}"), None, ["ann", "bob"]))
    audit.look()
    assert 0 < audit.channels <= CHANNELS_PER_TURN
    for _ in range(100):
        audit.look()
    assert audit.differences == 0
    room.audience.leave(ChannelId(GROUP, "g7"), "ann")
    room.audience.leave(ChannelId(GROUP, "g7"), "bob")
    for _ in range(1_000):
        audit.look()
        if audit.differences:
            break
    assert audit.differences > 0


async def test_of_a_large_channel_a_part_is_looked_at() -> None:
    room = await Room().start()
    await room.run("crowd", PutChannel(CROWD, None, PEOPLE))
    for uid in PEOPLE:
        await room.connect(uid)
    audit = audit_of(room)
    audit.compare(CROWD)
    assert audit.differences == 0
    for uid in PEOPLE[:200]:
        room.audience.leave(CROWD, uid)
    for _ in range(10):
        audit.compare(CROWD)
    assert audit.differences > 0


async def test_differences_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    room, audit = await a_team(*PEOPLE[:20])
    for uid in PEOPLE[:20]:
        room.audience.leave(TEAM, uid)
    audit.compare(TEAM)
    assert audit.differences == 20
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == LINES_PER_TURN


async def test_there_is_nothing_to_look_at_without_clients() -> None:
    room = await Room().start()
    audit = audit_of(room)
    audit.look()
    assert (audit.channels, audit.differences) == (0, 0)


async def test_a_look_ends_when_its_time_is_over() -> None:
    room, audit = await a_team("ann", "bob", "cleo")
    room.audience.leave(TEAM, "cleo")
    audit.compare(TEAM, end=0.0)
    assert (audit.channels, audit.differences) == (1, 0)
