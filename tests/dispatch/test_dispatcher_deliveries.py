"""What the dispatcher tells its memory of pushes."""

import pytest

from tests.dispatch.test_dispatcher import Sink
from wukong.channel.effects import FanOut, MembersChanged, Message, SessionEnded
from wukong.channel.ids import ChannelId
from wukong.dispatch.deliveries import CLIENT_CLOSED, FENCED, KICKED, REPLACED, Deliveries, Push
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.limits import MIB
from wukong.session.audience import Audience
from wukong.session.registry import LocalSession, Registry

GROUP = ChannelId(2, "g")


class Ticking:
    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1_000


class World:
    def __init__(self) -> None:
        self.clock = Ticking()
        self.registry = Registry()
        self.deliveries = Deliveries(MIB)
        self.dispatcher = Dispatcher(
            node_id=1,
            registry=self.registry,
            audience=Audience(),
            clock=self.clock,
            policy=RetryPolicy(1_000, 3, 10),
            system_uid="____system",
            cmd_suffix="____cmd",
            deliveries=self.deliveries,
        )
        self.dispatcher.gateway = Sink()

    def connect(self, number: int, uid: str) -> LocalSession:
        session = LocalSession(
            number, uid, device_flag=0, device_id="d", version=5, via_json=False, peer=("192.0.2.1", 1), opened_ms=5
        )
        self.registry.expect(session)
        self.registry.start(number, 0)
        self.dispatcher.run([MembersChanged(GROUP, [uid], [])])
        return session

    def send(self, message_id: int, *, seq: int = 1, session: int = 0) -> None:
        message = Message(message_id, seq, 0, 0, "a", "no", 0, b"x")
        self.dispatcher.run([FanOut(GROUP, False, message, 1, session)])

    def ended(self) -> list[tuple[int, str, str]]:
        return [(each.number, each.why, each.text) for each in self.deliveries.ended_sessions()]


@pytest.fixture
def world() -> World:
    return World()


def test_a_push_is_kept_for_others_and_for_the_senders_own_sessions(world: World) -> None:
    world.connect(1, "a")
    world.connect(2, "a")
    world.connect(3, "b")
    world.send(77, session=1)
    (page,) = world.deliveries.pages()
    assert page.pushes_of(77) == [Push(77, GROUP, 1_000, [3]), Push(77, GROUP, 1_000, [2])]


def test_a_recvack_counts_once_and_repetitions_each_time(world: World) -> None:
    session = world.connect(3, "b")
    world.send(77)
    for ms in (2_000, 3_000):
        world.clock.ms = ms
        assert world.dispatcher.retry(session) == 1
    world.clock.ms = 3_250
    for _ in range(2):
        world.dispatcher.acknowledged(session, 77)
    world.dispatcher.acknowledged(session, 78)
    (page,) = world.deliveries.pages()
    assert page.repeated_of(77) == [(3, 2_000), (3, 3_000)]
    assert page.acknowledged_of(77) == [(3, 3_250)]
    assert page.acknowledged_of(78) == []


def test_what_ended_a_session_first_counts(world: World) -> None:
    for number in range(1, 5):
        world.connect(number, f"u{number}")
    world.dispatcher.ended(1, CLIENT_CLOSED)
    world.dispatcher.ended(1, KICKED)
    world.dispatcher.forget(1)
    world.dispatcher.ended(1, KICKED)
    world.dispatcher.run([SessionEnded("u2", 1, 1, 2, kicked=True, reason=12, text="login in other device")])
    world.dispatcher.ended(2, CLIENT_CLOSED)
    world.dispatcher.run([SessionEnded("u3", 1, 1, 3, close_after_ms=2_000)])
    world.dispatcher.run([SessionEnded("u4", 2, 1, 4, kicked=True)])
    world.dispatcher.ended(99, CLIENT_CLOSED)
    assert world.ended() == [(1, CLIENT_CLOSED, ""), (2, KICKED, "login in other device"), (3, REPLACED, "")]


def test_all_clients_let_go_at_once_are_told_but_for_those_that_had_left(world: World) -> None:
    for number in range(1, 4):
        world.connect(number, f"u{number}")
    world.dispatcher.ended(2, CLIENT_CLOSED)
    world.dispatcher.forget_all()
    assert world.ended() == [(2, CLIENT_CLOSED, ""), (1, FENCED, ""), (3, FENCED, "")]


def test_without_a_memory_everything_goes_on(world: World) -> None:
    world.dispatcher._deliveries = None
    session = world.connect(3, "b")
    world.send(77)
    world.clock.ms = 2_000
    assert world.dispatcher.retry(session) == 1
    assert world.dispatcher.acknowledged(session, 77) is not None
    world.dispatcher.ended(3, CLIENT_CLOSED)
    world.dispatcher.forget_all()
