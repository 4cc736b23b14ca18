import asyncio

import pytest

from wukong.client.errors import ClientClosed
from wukong.client.message import Sent
from wukong.client.outbox import ABANDONED_LIMIT_COUNT, CLIENT_SEQ_END, Outbox, Outgoing


def outgoing(outbox: Outbox, number: str = "n") -> Outgoing:
    return Outgoing(
        client_seq=outbox.next_client_seq(),
        client_msg_no=number,
        channel_id="g",
        channel_type=2,
        payload=b"",
        flags=0,
        setting=0,
        expire=0,
        topic="",
        answer=asyncio.get_running_loop().create_future(),
    )


async def test_pending_sends_keep_the_order_in_which_they_were_made() -> None:
    outbox = Outbox()
    made = [outgoing(outbox, str(each)) for each in range(5)]
    for each in made:
        outbox.add(each)
    outbox.answered(made[2].client_seq)
    assert list(outbox.pending()) == [made[0], made[1], made[3], made[4]]


async def test_an_answer_is_taken_once() -> None:
    outbox = Outbox()
    first = outgoing(outbox)
    outbox.add(first)
    assert outbox.answered(first.client_seq) is first
    assert outbox.answered(first.client_seq) is None
    assert not outbox.knows("n")


async def test_an_abandoned_send_is_not_repeated_but_its_late_answer_is_known() -> None:
    outbox = Outbox()
    first = outgoing(outbox)
    outbox.add(first)
    outbox.abandon(first)
    assert list(outbox.pending()) == []
    assert outbox.knows("n")
    assert outbox.answered(first.client_seq) is first


async def test_abandoning_an_answered_send_changes_nothing() -> None:
    outbox = Outbox()
    first = outgoing(outbox)
    outbox.add(first)
    outbox.answered(first.client_seq)
    outbox.abandon(first)
    assert not outbox.knows("n")


async def test_the_oldest_abandoned_send_is_forgotten_at_the_limit() -> None:
    outbox = Outbox()
    made = [outgoing(outbox, str(each)) for each in range(ABANDONED_LIMIT_COUNT + 1)]
    for each in made:
        outbox.add(each)
        outbox.abandon(each)
    assert not outbox.knows("0")
    assert outbox.knows("1")


async def test_a_number_used_twice_is_known_until_both_are_answered() -> None:
    outbox = Outbox()
    first, second = outgoing(outbox), outgoing(outbox)
    outbox.add(first)
    outbox.add(second)
    outbox.answered(first.client_seq)
    assert outbox.knows("n")
    outbox.answered(second.client_seq)
    assert not outbox.knows("n")


async def test_the_end_of_the_client_is_told_to_every_caller_that_waits() -> None:
    outbox = Outbox()
    waiting, answered = outgoing(outbox), outgoing(outbox, "m")
    outbox.add(waiting)
    outbox.add(answered)
    answered.answer.set_result(Sent(1, 1, "m"))
    outbox.fail(ClientClosed())
    with pytest.raises(ClientClosed):
        await waiting.answer
    assert len(outbox) == 0


async def test_the_client_seq_starts_anew_before_it_leaves_its_32_bits() -> None:
    outbox = Outbox()
    outbox._client_seq = CLIENT_SEQ_END - 2
    assert [outbox.next_client_seq() for _ in range(3)] == [CLIENT_SEQ_END - 1, 1, 2]
