"""Effects of apply on the node that holds the sessions: what may come when there is no gateway yet."""

import pytest

from wukong.channel.effects import FanOut, Message, SessionEnded
from wukong.channel.ids import ChannelId
from wukong.dispatch.dispatcher import Dispatcher
from wukong.dispatch.retry import RetryPolicy
from wukong.session.audience import Audience
from wukong.session.registry import Registry


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
