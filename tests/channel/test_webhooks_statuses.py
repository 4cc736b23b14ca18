"""user.onlinestatus: every beginning and end of a session, with the counts after it. behaviour.md 13.3, D-17, D-20."""

import pytest

from tests.channel.slot import Slot
from tests.channel.world import START_MS
from wukong.channel import presence
from wukong.channel.commands import (
    CloseSession,
    Command,
    Hello,
    NodeGone,
    OpenSession,
    Pack,
    PutSettings,
    QuitDevices,
    Reply,
    SetToken,
    SweepSessions,
)
from wukong.channel.effects import WebhookAdded
from wukong.channel.presence import sessions_of, sweep_due
from wukong.channel.state import Settings, encode
from wukong.channel.webhooks import ONLINE, pending

APP, WEB = 0, 1
MASTER, SLAVE = 1, 0


def login(session: int, uid: str = "u", *, flag: int = APP, device: str = "") -> OpenSession:
    return OpenSession(uid, session, flag, device or f"d{session}", b"t")


def a_slot(**settings: object) -> Slot:
    slot = Slot(1, **{"webhook_on": True, **settings})
    # Node 1 begins its life.
    slot.do(Hello())
    slot.effects()
    return slot


def told(slot: Slot) -> list[list[str]]:
    """What the records say, one list for each."""
    return [record.entries for record in pending(slot.state, ONLINE, limit=1_000)]


def entries(slot: Slot) -> list[str]:
    return [entry for some in told(slot) for entry in some]


def session_rows(slot: Slot) -> int:
    return sum(key[:1] == b"s" for key in slot.rows())


def sweep(slot: Slot, *, node: int = 2) -> int:
    """How many commands it takes until nothing is left to look at."""
    count = 0
    while sweep_due(slot.state):
        assert slot.do(SweepSessions(), node=node) == Reply()
        count += 1
    return count


def test_a_session_is_reported_at_its_beginning_and_its_end() -> None:
    slot = a_slot()
    slot.do(login(17, "u-1"))
    slot.do(CloseSession("u-1", 17))
    assert entries(slot) == ["u-1-0-1-17-1-1", "u-1-0-0-17-0-0"]


def test_the_counts_are_those_of_the_flag_and_of_all_after_the_change() -> None:
    slot = a_slot()
    for command in (login(1), login(2), login(3, flag=WEB), login(9, "v"), CloseSession("u", 1), CloseSession("u", 3)):
        slot.do(command)
    assert entries(slot) == ["u-0-1-1-1-1", "u-0-1-2-2-2", "u-1-1-3-1-3", "v-0-1-9-1-1", "u-0-0-1-1-2", "u-1-0-3-0-1"]


def test_a_kick_is_reported_before_the_login_that_causes_it() -> None:
    slot = a_slot(token_auth_on=True)
    slot.do(SetToken("u", APP, b"t", MASTER))
    slot.do(login(1))
    slot.do(login(2))
    assert told(slot) == [["u-0-1-1-1-1"], ["u-0-0-1-0-0", "u-0-1-2-1-1"]]


def test_a_new_token_is_no_end_until_the_socket_is_closed() -> None:
    slot = a_slot(token_auth_on=True)
    slot.do(SetToken("u", APP, b"t", MASTER))
    slot.do(login(1))
    slot.do(SetToken("u", APP, b"new", MASTER))
    assert entries(slot) == ["u-0-1-1-1-1"]
    slot.do(CloseSession("u", 1))
    assert entries(slot)[1:] == ["u-0-0-1-0-0"]


def test_devices_that_quit_are_reported_one_by_one() -> None:
    slot = a_slot()
    for command in (
        SetToken("u", APP, b"t", SLAVE),
        SetToken("u", WEB, b"t", SLAVE),
        login(1),
        login(2),
        login(3, flag=WEB),
        login(4, flag=9),
        QuitDevices("u", [0, 1, 2]),
    ):
        slot.do(command)
    assert told(slot)[-1] == ["u-0-0-1-1-3", "u-0-0-2-0-2", "u-1-0-3-0-1"]
    assert [session.session for session in sessions_of(slot.state, "u")] == [4]


@pytest.mark.parametrize(
    "command",
    [CloseSession("u", 2), CloseSession("v", 1), QuitDevices("u", [0]), QuitDevices("v", [0]), SweepSessions()],
)
def test_what_ends_nothing_is_not_reported(command: Command) -> None:
    slot = a_slot()
    slot.do(login(1))
    before = told(slot)
    slot.do(command)
    assert told(slot) == before


def test_a_refused_login_is_not_reported() -> None:
    slot = a_slot(token_auth_on=True)
    assert slot.do(login(1)).reason == 2
    assert entries(slot) == []


@pytest.mark.parametrize("settings", [{"webhook_on": False}, {"webhook_events": ["msg.notify", "msg.offline"]}])
def test_nothing_is_recorded_when_nobody_asks(settings: dict[str, object]) -> None:
    slot = a_slot(**settings)
    slot.do(login(1))
    slot.do(login(2))
    slot.do(CloseSession("u", 1))
    slot.do(Hello(), incarnation=2)
    slot.do(login(3), incarnation=2)
    assert entries(slot) == [] and not sweep_due(slot.state)
    assert [effect for effect in slot.effects() if isinstance(effect, WebhookAdded)] == []


# -- sessions that die with their node --


def end_node_1(slot: Slot, how: str) -> None:
    slot.effects()
    if how == "reborn":
        slot.do(Hello(), incarnation=2)
    else:
        slot.do(NodeGone(1, 1), node=2)
    assert WebhookAdded(ONLINE) in slot.effects()


@pytest.mark.parametrize("how", ["reborn", "gone"])
def test_the_sessions_of_a_node_that_died_are_reported_by_the_sweep_and_their_rows_go(how: str) -> None:
    slot = a_slot()
    for session, uid in enumerate(("u", "u", "v"), start=1):
        slot.do(login(session, uid))
    slot.do(login(4), node=2)
    end_node_1(slot, how)
    slot.restart()
    known = len(entries(slot))
    assert sweep(slot) == 1
    assert entries(slot)[known:] == ["u-0-0-1-2-2", "u-0-0-2-1-1", "v-0-0-3-0-0"]
    assert session_rows(slot) == 1
    assert slot.do(SweepSessions(), node=2) == Reply()
    assert len(entries(slot)) == known + 3


@pytest.mark.parametrize("how", ["reborn", "gone"])
def test_a_login_before_the_sweep_reports_the_dead_sessions_first(how: str) -> None:
    slot = a_slot()
    for session, flag in ((1, APP), (2, WEB), (3, APP)):
        slot.do(login(session, flag=flag))
    end_node_1(slot, how)
    known = len(entries(slot))
    slot.do(login(8), node=2)
    assert entries(slot)[known:] == ["u-0-0-1-1-2", "u-1-0-2-0-1", "u-0-0-3-0-0", "u-0-1-8-1-1"]
    sweep(slot)
    assert len(entries(slot)) == known + 4, "nothing is reported twice"


@pytest.mark.parametrize("ending", [CloseSession("u", 5), QuitDevices("u", [WEB])])
def test_an_end_before_the_sweep_reports_the_dead_sessions_first(ending: Command) -> None:
    slot = a_slot()
    slot.do(SetToken("u", WEB, b"t", SLAVE))
    slot.do(login(1))
    slot.do(login(5, flag=WEB), node=2)
    end_node_1(slot, "gone")
    slot.do(ending, node=2)
    assert told(slot)[2:] == [["u-0-0-1-0-1", "u-1-0-5-0-0"]]


def test_a_node_that_comes_back_after_it_was_gone_ends_once() -> None:
    slot = a_slot()
    slot.do(login(1))
    end_node_1(slot, "gone")
    sweep(slot)
    slot.effects()
    slot.do(Hello(), incarnation=2)
    assert not sweep_due(slot.state)
    assert WebhookAdded(ONLINE) not in slot.effects()


def test_a_nodes_first_life_ends_nothing() -> None:
    slot = a_slot()
    slot.do(Hello(), node=2)
    assert not sweep_due(slot.state)


def test_a_pack_that_does_not_begin_a_life_ends_none() -> None:
    slot = a_slot()
    slot.do(login(1))
    assert slot.apply(Pack(1, 5, 7, 0, START_MS, [Hello()])).resend_from == 1
    assert not sweep_due(slot.state) and len(entries(slot)) == 1


def test_a_sweep_looks_at_a_limited_number_of_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SWEEP_ROWS", 4)
    slot = a_slot()
    for n in range(10):
        slot.do(login(n, f"u{n}"), node=1 + n % 2)
    end_node_1(slot, "reborn")
    known = len(told(slot))
    assert sweep(slot) == 3
    assert [len(some) for some in told(slot)[known:]] == [1] * 5
    assert session_rows(slot) == 5


def test_an_end_during_a_sweep_begins_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SWEEP_ROWS", 4)
    slot = a_slot()
    for n in range(10):
        slot.do(login(n, f"u{n}"), node=1 + n % 2)
    end_node_1(slot, "gone")
    slot.do(SweepSessions(), node=3)
    slot.do(NodeGone(2, 1), node=3)
    sweep(slot, node=3)
    assert session_rows(slot) == 0 and not sweep_due(slot.state)
    assert len(entries(slot)) == 20


def test_a_user_with_more_sessions_than_a_sweep_looks_at_is_reported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SWEEP_ROWS", 2)
    slot = a_slot()
    for session in range(1, 6):
        slot.do(login(session))
    end_node_1(slot, "gone")
    sweep(slot)
    assert told(slot)[-1] == [f"u-0-0-{session}-{5 - session}-{5 - session}" for session in range(1, 6)]


def test_what_died_unasked_for_goes_without_a_word_when_the_event_is_switched_off() -> None:
    slot = a_slot()
    slot.do(login(1))
    end_node_1(slot, "reborn")
    slot.do(PutSettings(encode(Settings())), incarnation=2)
    (propagate,) = [effect for effect in slot.effects() if hasattr(effect, "command")]
    slot.state.settings = Settings()
    assert propagate and sweep_due(slot.state)
    sweep(slot)
    assert session_rows(slot) == 0 and len(entries(slot)) == 1


@pytest.mark.parametrize("uid", ["a", "ab", "a\x00", "é" * 60])
def test_a_sweep_tells_uids_that_begin_alike_apart(uid: str) -> None:
    slot = a_slot()
    for session, other in enumerate(("a", "ab", "a\x00", "é" * 60)):
        slot.do(login(session, other), node=1 if other == uid else 2)
    end_node_1(slot, "gone")
    known = len(entries(slot))
    sweep(slot)
    (entry,) = entries(slot)[known:]
    assert entry.rsplit("-", 5)[0] == uid
