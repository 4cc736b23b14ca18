"""Positions on their way into the log."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.channel.slot import Slot
from wukong.channel.commands import AdvanceWebhooks, Append, PutChannel, Reply
from wukong.channel.ids import ChannelId
from wukong.channel.webhooks import NOTIFY, ROWS_PER_COMMAND, cursor
from wukong.webhook import cursors
from wukong.webhook.cursors import Cursors

GROUP = ChannelId(2, "g")


class Replica:
    """proposed: what waits for `settle`."""

    def __init__(self, messages: int) -> None:
        self.slot_ = Slot(0, webhook_on=True)
        self.slot_.do(PutChannel(GROUP, None, ["a"]))
        for number in range(messages):
            self.slot_.do(Append(GROUP, False, "a", b"x", f"n{number}"))
        self.states = [self.slot_.state]
        self.proposed: list[tuple[Any, Callable[[Reply | None], None]]] = []

    def propose_always(self, slot: int, command: Any, done: Callable[[Reply | None], None]) -> None:
        self.proposed.append((command, done))

    def settle(self, known: bool = True) -> None:
        command, done = self.proposed.pop(0)
        done(self.slot_.do(command) if known else None)


def upto(replica: Replica) -> list[int]:
    return [command.upto for command, _ in replica.proposed]


async def test_one_position_is_under_way_and_the_newest_follows() -> None:
    replica = Replica(10)
    moved = Cursors(replica)  # type: ignore[arg-type]
    for position in (2, 3, 5, 4):
        moved.move(0, NOTIFY, position)
    assert replica.proposed[0][0] == AdvanceWebhooks(NOTIFY, 2)
    assert len(replica.proposed) == 1
    replica.settle()
    assert upto(replica) == [5]
    replica.settle()
    assert upto(replica) == []
    assert cursor(replica.states[0], NOTIFY) == 5


async def test_it_asks_again_when_one_command_could_not_pass_all() -> None:
    replica = Replica(ROWS_PER_COMMAND + 200)
    moved = Cursors(replica)  # type: ignore[arg-type]
    moved.move(0, NOTIFY, ROWS_PER_COMMAND + 100)
    replica.settle()
    assert upto(replica) == [ROWS_PER_COMMAND + 100]
    replica.settle()
    assert upto(replica) == []
    assert cursor(replica.states[0], NOTIFY) == ROWS_PER_COMMAND + 100


async def test_an_unknown_outcome_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "RETRY_S", 0.01)
    replica = Replica(3)
    moved = Cursors(replica)  # type: ignore[arg-type]
    moved.move(0, NOTIFY, 2)
    replica.settle(known=False)
    assert upto(replica) == []
    await asyncio.sleep(0.05)
    assert upto(replica) == [2]
    replica.settle(known=False)
    moved.close()
    await asyncio.sleep(0.05)
    assert upto(replica) == []
