"""Tokens, logins, kicks. behaviour.md 4.2, 4.3."""

import pytest

from tests.channel.slot import Slot
from wukong.channel.commands import (
    ChannelInfo,
    CloseSession,
    Command,
    OpenSession,
    PutChannel,
    QuitDevices,
    Reply,
    SetToken,
)
from wukong.channel.effects import SessionEnded, SessionStarted
from wukong.channel.ids import ChannelId
from wukong.channel.presence import sessions_of

SLAVE, MASTER = 0, 1
APP, WEB = 0, 1
KICK = 12


def login(session: int, device: str = "d", *, flag: int = APP, token: bytes = b"t", uid: str = "u") -> OpenSession:
    return OpenSession(uid, session, flag, device, token)


def token(level: int, value: bytes = b"t", *, flag: int = APP, uid: str = "u") -> SetToken:
    return SetToken(uid, flag, value, level)


def slot_after(*commands: Command, token_auth_on: bool = True) -> Slot:
    slot = Slot(token_auth_on=token_auth_on)
    for command in commands:
        slot.do(command)
    slot.effects()
    return slot


def live(slot: Slot, uid: str = "u") -> list[int]:
    return [session.session for session in sessions_of(slot.state, uid)]


def ended(slot: Slot) -> list[tuple[int, int, str, int]]:
    """(session, reason, text, close after ms) of sessions that the log ended; reason 0 sends no DISCONNECT."""
    found = []
    for effect in slot.effects():
        if isinstance(effect, SessionEnded):
            assert effect.kicked is (effect.reason == KICK)
            found.append((effect.session, effect.reason, effect.text, effect.close_after_ms))
    return found


# -- authentication: behaviour.md 4.2 --


@pytest.mark.parametrize(
    ("before", "attempt", "reason"),
    [
        ([], login(1), 2),
        ([token(SLAVE)], login(1), 1),
        ([token(SLAVE)], login(1, token=b"wrong"), 2),
        ([token(SLAVE)], login(1, token=b""), 2),
        ([token(SLAVE, b"")], login(1, token=b""), 2),
        ([token(SLAVE)], login(1, flag=WEB), 2),
        ([token(SLAVE)], login(1, uid="v"), 2),
        ([token(SLAVE), token(SLAVE, b"t2")], login(1), 2),
        ([token(SLAVE), token(SLAVE, b"t2")], login(1, token=b"t2"), 1),
        ([token(MASTER), QuitDevices("u", [APP])], login(1), 2),
        ([token(MASTER), QuitDevices("u", [APP])], login(1, token=b""), 2),
        ([token(MASTER), QuitDevices("u", [WEB])], login(1), 1),
        # authentication comes before the ban
        ([PutChannel(ChannelId(1, "u"), ChannelInfo(ban=True))], login(1), 2),
        ([token(SLAVE), PutChannel(ChannelId(1, "u"), ChannelInfo(ban=True))], login(1), 19),
        ([token(SLAVE), PutChannel(ChannelId(1, "u"), ChannelInfo(disband=True, send_ban=True))], login(1), 1),
        ([token(SLAVE), PutChannel(ChannelId(2, "u"), ChannelInfo(ban=True))], login(1), 1),
        ([], OpenSession("u", 1, APP, "d", b"", trusted=True), 1),
        ([PutChannel(ChannelId(1, "u"), ChannelInfo(ban=True))], OpenSession("u", 1, APP, "d", b"", trusted=True), 19),
    ],
)
def test_a_login_is_checked_in_the_slot_of_the_uid(before: list[Command], attempt: Command, reason: int) -> None:
    slot = slot_after(*before)
    assert slot.do(attempt).reason == reason
    started = [effect for effect in slot.effects() if isinstance(effect, SessionStarted)]
    assert len(started) == len(live(slot)) == (1 if reason == 1 else 0)


def test_without_token_authentication_everybody_comes_in_as_slave() -> None:
    slot = slot_after(token(MASTER), token_auth_on=False)
    assert slot.do(login(1, token=b"anything")) == Reply(level=SLAVE)


@pytest.mark.parametrize(("visitors_on", "reason"), [(True, 1), (False, 2)])
def test_visitors_need_no_token_only_when_visitors_are_switched_on(visitors_on: bool, reason: int) -> None:
    """D-3."""
    slot = Slot(token_auth_on=True, visitors_on=visitors_on)
    assert slot.do(login(1, uid="somebody___vstr")).reason == reason
    assert slot.do(login(1, uid="somebody__vstr")).reason == 2


def test_the_level_of_a_session_is_that_of_the_token() -> None:
    slot = slot_after(token(MASTER), token(SLAVE, flag=WEB))
    assert slot.do(login(1)).level == MASTER
    assert slot.do(login(2, flag=WEB)).level == SLAVE
    assert slot.do(OpenSession("u", 3, APP, "d3", b"", trusted=True)).level == SLAVE
    assert slot.effects()[0] == SessionStarted("u", 1, 1, 1, APP, MASTER)


# -- kicks: behaviour.md 4.3 --


@pytest.mark.parametrize(
    ("level", "old_device", "old_flag", "expected"),
    [
        (MASTER, "other", APP, [(1, KICK, "login in other device", 2_000)]),
        (MASTER, "same", APP, [(1, 0, "", 2_000)]),
        (SLAVE, "same", APP, [(1, 0, "", 2_000)]),
        (SLAVE, "other", APP, []),
        (MASTER, "other", WEB, []),
        (MASTER, "same", WEB, []),
        (SLAVE, "same", WEB, []),
    ],
)
@pytest.mark.parametrize("old_is_slave", [False, True])
def test_a_login_ends_older_sessions_by_its_own_level(
    level: int, old_device: str, old_flag: int, expected: list[tuple[int, int, str, int]], old_is_slave: bool
) -> None:
    """The level of the older session is irrelevant: a trusted login is slave, the other has the token's level."""
    slot = slot_after(token(level), token(level, flag=WEB))
    slot.do(OpenSession("u", 1, old_flag, old_device, b"t", trusted=old_is_slave))
    slot.effects()
    slot.do(login(2, "same"))
    assert ended(slot) == expected
    assert live(slot) == ([2] if expected else [1, 2])


def test_a_kick_reaches_sessions_on_other_nodes_and_is_ordered_before_the_login() -> None:
    slot = slot_after(token(MASTER))
    slot.do(login(7), node=2)
    slot.effects()
    slot.do(login(8, "other"))
    first, second = slot.effects()
    assert first == SessionEnded("u", 2, 1, 7, True, KICK, "login in other device", 2_000)
    assert second == SessionStarted("u", 1, 1, 8, APP, MASTER)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (token(MASTER, b"new"), [(1, KICK, "账号在其他设备上登录", 10_000), (2, KICK, "账号在其他设备上登录", 10_000)]),
        (token(SLAVE, b"new"), []),
        (token(MASTER, b"new", flag=9), []),
        (QuitDevices("u", [APP]), [(1, KICK, "", 2_000), (2, KICK, "", 2_000)]),
        (QuitDevices("u", [WEB]), [(3, KICK, "", 2_000)]),
        (QuitDevices("u", [0, 1, 2]), [(1, KICK, "", 2_000), (2, KICK, "", 2_000), (3, KICK, "", 2_000)]),
        (QuitDevices("u", [APP, APP]), [(1, KICK, "", 2_000), (2, KICK, "", 2_000)]),
        (QuitDevices("u", [9]), []),
        (QuitDevices("v", [0, 1, 2]), []),
    ],
)
def test_what_token_and_quit_do_to_sessions(command: Command, expected: list[tuple[int, int, str, int]]) -> None:
    slot = slot_after(
        token(SLAVE),
        token(SLAVE, flag=WEB),
        login(1, "d1"),
        login(2, "d2"),
        login(3, "d3", flag=WEB),
        login(4, uid="v"),
    )
    slot.do(command)
    assert ended(slot) == expected
    # After a new token they stay connected until their sockets are closed, ten seconds later.
    gone = [] if isinstance(command, SetToken) else [session for session, *_ in expected]
    assert live(slot) == [session for session in (1, 2, 3) if session not in gone]


def test_a_master_login_kicks_once_more_who_was_told_of_the_new_token() -> None:
    slot = slot_after(token(SLAVE), login(1, "d1"), token(MASTER, b"new"))
    slot.do(login(2, "d2", token=b"new"))
    assert ended(slot) == [(1, KICK, "login in other device", 2_000)]
    assert live(slot) == [2]


def test_quitting_devices_without_a_token_does_nothing() -> None:
    slot = slot_after(login(1), token_auth_on=False)
    slot.do(QuitDevices("u", [APP]))
    assert ended(slot) == [] and live(slot) == [1]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (ChannelInfo(ban=True), 19),
        (ChannelInfo(disband=True), 24),
        (ChannelInfo(ban=True, disband=True), 19),
        (ChannelInfo(send_ban=True, large=True), 1),
    ],
)
def test_a_banned_or_dissolved_user_gets_no_token(info: ChannelInfo, reason: int) -> None:
    slot = slot_after(token(SLAVE, b"old"), login(1, token=b"old"), PutChannel(ChannelId(1, "u"), info))
    assert slot.do(token(MASTER, b"new")).reason == reason
    if reason != 1:
        assert live(slot) == [1] and ended(slot) == []
        slot.do(PutChannel(ChannelId(1, "u"), ChannelInfo()))
        assert slot.do(login(2, "d2", token=b"old")).reason == 1, "nothing was stored"


# -- sessions --


def test_the_reported_end_of_a_session_has_nothing_left_to_do() -> None:
    slot = slot_after(login(1), login(2, "d2"), token_auth_on=False)
    slot.do(CloseSession("u", 1))
    assert slot.effects() == [SessionEnded("u", 1, 1, 1)]
    assert live(slot) == [2]
    slot.do(CloseSession("u", 1))
    slot.do(CloseSession("v", 2))
    assert slot.effects() == [] and live(slot) == [2]


def test_a_node_closes_its_own_sessions_only() -> None:
    slot = slot_after(login(1), token_auth_on=False)
    slot.do(CloseSession("u", 1), node=2)
    assert live(slot) == [1]


def test_a_user_may_have_sessions_with_equal_numbers_on_two_nodes() -> None:
    slot = slot_after(login(1, "d1"), token_auth_on=False)
    slot.do(login(1, "d2"), node=2)
    slot.restart()
    found = [(s.node, s.session, s.device_id, s.since_ms) for s in sessions_of(slot.state, "u")]
    assert found == [(1, 1, "d1", slot.now_ms), (2, 1, "d2", slot.now_ms)]


@pytest.mark.parametrize("uid", ["a", "ab", "a\x00", "é" * 60])
def test_sessions_and_tokens_of_uids_that_begin_alike_do_not_mix(uid: str) -> None:
    slot = slot_after(*(token(SLAVE, u.encode(), uid=u) for u in ("a", "ab", "a\x00", "é" * 60)))
    assert slot.do(login(1, uid=uid, token=b"another")).reason == 2
    assert slot.do(login(1, uid=uid, token=uid.encode())).reason == 1
    assert [u for u in ("a", "ab", "a\x00", "é" * 60) if live(slot, u)] == [uid]
