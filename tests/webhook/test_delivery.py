import asyncio
import random

from wukong.webhook.delivery import Budget, retry_delay_s


def test_tries_come_at_growing_intervals_up_to_a_limit() -> None:
    rng = random.Random(3)
    for tries, whole in [(1, 1.0), (2, 2.0), (3, 4.0), (5, 16.0), (6, 30.0), (1_000_000, 30.0)]:
        delays = [retry_delay_s(tries, rng) for _ in range(200)]
        assert whole / 2 <= min(delays) < max(delays) <= whole
        assert len(set(delays)) > 100


async def test_a_budget_lets_in_what_has_room_and_too_much_alone() -> None:
    budget = Budget(100)
    await budget.take(60)
    await budget.take(40)
    waiting = asyncio.create_task(budget.take(500))
    await asyncio.sleep(0)
    budget.give(60)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    budget.give(40)
    await waiting
