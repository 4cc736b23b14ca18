"""Effects of apply on the node that holds the sessions: events, and what may come when there is no gateway
yet."""

from collections.abc import Callable

import pytest

from wukong.channel.effects import EventPush, FanOut, MembersChanged, Message, SessionEnded
from wukong.channel.ids import ChannelId
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.protocol.event_frame import SharedEvent
from wukong.protocol.packets import Sendack
from wukong.protocol.recv_frame import RecvView
from wukong.session.audience import Audience
from wukong.session.registry import LocalSession, Registry

GROUP = ChannelId(2, "g")


class StillClock:
    def now_ms(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(
        node_id=1,
        registry=Registry(),
        audience=Audience(),
        clock=StillClock(),
        policy=RetryPolicy(1_000, 3, 10),
        system_uid="____system",
        cmd_suffix="____cmd",
    )


def test_sessions_of_an_earlier_life_may_end_before_there_is_a_gateway(dispatcher: Dispatcher) -> None:
    dispatcher.run([SessionEnded("u", 1, 5, 77, kicked=True, reason=12, text="", close_after_ms=2_000)])
    dispatcher.run([SessionEnded("u", 1, 5, 78)])


def test_messages_that_nobody_here_gets_need_no_gateway(dispatcher: Dispatcher) -> None:
    message = Message(9, 1, 0, 0, "a", "no", 0, b"x")
    dispatcher.run([FanOut(ChannelId(2, "g"), False, message, 1, 0)])
    assert dispatcher.pushed == 0


class Sink:
    """A gateway without sockets: the EVENTs handed to it, and who waits until RECVs are written."""

    def __init__(self) -> None:
        self.events: list[tuple[SharedEvent, list[int]]] = []
        self.waiting: list[Callable[[], None]] = []

    def when_written(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def deliver(self, view: RecvView, sessions: list[int]) -> None: ...

    def deliver_event(self, event: SharedEvent, sessions: list[int]) -> None:
        self.events.append((event, sessions))

    def sendack(self, session: int, packet: Sendack) -> None: ...

    def end(self, session: int, *, reason: int, text: str, close_after_ms: int) -> None: ...

    def drop(self, session: int) -> None: ...


def event_push(channel: ChannelId = GROUP) -> EventPush:
    return EventPush(channel, "shown", "m", "main", "e", "Stream.X", "bot", 7, 2, "open", "private", 9, b'{"n":1}')


def connect(dispatcher: Dispatcher, number: int, uid: str, *, version: int = 5, via_json: bool = False) -> None:
    session = LocalSession(
        number,
        uid,
        device_flag=0,
        device_id="d",
        version=version,
        via_json=via_json,
        peer=("", 0),
        opened_ms=0,
    )
    dispatcher._registry.expect(session)
    dispatcher._registry.start(number, 0)
    dispatcher.join(uid, [GROUP])


def test_an_event_goes_once_to_the_sessions_that_can_read_it(dispatcher: Dispatcher) -> None:
    gateway = dispatcher.gateway = Sink()
    for number, version in ((1, 5), (2, 4), (3, 5), (4, 2)):
        connect(dispatcher, number, f"u{number % 2}", version=version)
    connect(dispatcher, 5, "json", version=0, via_json=True)
    connect(dispatcher, 6, "____system")
    dispatcher.run([event_push(), MembersChanged(GROUP, [], ["u1"]), event_push()])
    assert [sessions for _, sessions in gateway.events] == [[1, 3, 5], [5]]
    assert dispatcher.events_pushed == 4
    packet = gateway.events[0][0].packet
    assert (packet.id, packet.type, packet.timestamp) == ("e", "Stream.X", 9)


def test_an_event_of_two_persons_goes_to_both(dispatcher: Dispatcher) -> None:
    gateway = dispatcher.gateway = Sink()
    for number, uid in enumerate(("a", "b", "c")):
        connect(dispatcher, number, uid)
    dispatcher.run([event_push(ChannelId(1, "a@b"))])
    assert [sorted(sessions) for _, sessions in gateway.events] == [[0, 1]]


def test_an_event_that_nobody_here_gets_needs_no_gateway(dispatcher: Dispatcher) -> None:
    connect(dispatcher, 1, "u", version=4)
    dispatcher.run([event_push()])
    assert dispatcher.events_pushed == 0


def fan_out(message_id: int, number: str = "no", session: int = 0) -> FanOut:
    return FanOut(GROUP, False, Message(message_id, message_id, 0, 0, "a", number, 0, b"x"), 1, session)


def test_pushes_count_until_they_are_confirmed(dispatcher: Dispatcher) -> None:
    dispatcher.gateway = Sink()
    connect(dispatcher, 1, "ann")
    connect(dispatcher, 2, "bob")
    dispatcher.run([fan_out(7)])
    assert dispatcher.pushes_tracked == 2
    ann, bob = dispatcher._registry.by_number[1], dispatcher._registry.by_number[2]
    dispatcher.acknowledged(ann, 7)
    dispatcher.acknowledged(ann, 7)
    dispatcher.acknowledged(ann, 99)
    assert (dispatcher.acknowledged_first, dispatcher.acknowledged_late) == (1, 0)
    assert bob.unacked is not None
    bob.unacked[7] = bob.unacked[7]._replace(due_ms=-1)
    assert dispatcher.retry(bob) == 1
    dispatcher.acknowledged(bob, 7)
    assert (dispatcher.acknowledged_first, dispatcher.acknowledged_late) == (1, 1)
    assert dispatcher.pushes_tracked == 2


def test_messages_that_are_not_stored_are_not_waited_for(dispatcher: Dispatcher) -> None:
    dispatcher.gateway = Sink()
    connect(dispatcher, 1, "ann")
    dispatcher.run([FanOut(GROUP, False, Message(7, 0, 0, 0, "a", "no", 0, b"x"), 1, 0)])
    assert (dispatcher.pushed, dispatcher.pushes_tracked) == (1, 0)


def test_a_timed_message_is_followed_until_it_is_written(dispatcher: Dispatcher) -> None:
    gateway = dispatcher.gateway = Sink()
    connect(dispatcher, 1, "ann")
    connect(dispatcher, 2, "bob")
    probes = dispatcher.probes
    probe = probes.begin(5, "timed", 0.0)
    assert probe is not None
    # Another message in between, one of another session with the same number, then the one that is timed.
    dispatcher.run([fan_out(7), fan_out(8, "timed", session=6)])
    assert gateway.waiting == []
    dispatcher.run([fan_out(9, "timed", session=5)])
    assert probe.sessions == 2
    (written,) = gateway.waiting
    assert sum(probes.delivery_s.counts) == 0
    written()
    assert sum(probes.delivery_s.counts) == 1


def test_a_timed_message_that_reaches_nobody_here_has_no_time_of_delivery(dispatcher: Dispatcher) -> None:
    gateway = dispatcher.gateway = Sink()
    probe = dispatcher.probes.begin(5, "timed", 0.0)
    dispatcher.run([fan_out(9, "timed", session=5)])
    assert probe is not None
    assert (probe.sessions, gateway.waiting) == (0, [])
