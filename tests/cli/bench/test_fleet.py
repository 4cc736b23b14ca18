import pytest

from wukong.cli.bench.fleet import Fleet, GeneratorFailed


async def test_orders_go_to_every_process_and_faults_come_back() -> None:
    async with Fleet(2) as fleet:
        assert await fleet.order_all("reset") == [{}, {}]
        assert await fleet.order("alive", [{"role": "nobody"}, None]) == [{"alive": 0}]
        assert fleet.received_count == 0
        with pytest.raises(GeneratorFailed, match="KeyError"):
            await fleet.order(
                "paced", [{"channel_id": "g", "channel_type": 2, "rate": 1, "seconds": 1, "payload": b""}, None]
            )
        # A fault ends no process.
        assert await fleet.order_all("reset") == [{}, {}]


async def test_a_process_that_has_died_is_told() -> None:
    async with Fleet(1) as fleet:
        fleet._processes[0].kill()
        fleet._processes[0].join()
        with pytest.raises(GeneratorFailed, match="has ended"):
            await fleet.order_all("reset")


async def test_work_is_split_as_equally_as_can_be() -> None:
    async with Fleet(3) as fleet:
        assert fleet.split(10) == [4, 3, 3]
        assert fleet.split(2) == [1, 1, 0]


def test_a_fleet_has_at_least_one_process_and_not_hundreds() -> None:
    for count in (0, 65):
        with pytest.raises(ValueError, match="between 1 and 64"):
            Fleet(count)
