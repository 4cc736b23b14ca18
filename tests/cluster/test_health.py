"""When a node lets go of its clients and when it takes them again."""

import random

import pytest

from tests.cluster.control_fakes import FakeClock
from wukong.cluster.health import DEGRADED, OK, SHED, Health, HealthOptions, SlotSample, Verdict

WELL = SlotSample(True, 0.1, 500, 500)
LOST = SlotSample(True, 2.0, 500, 500)
LEADERLESS = SlotSample(False, 0.1, 500, 500)


class World:
    def __init__(self, *, clients: int = 0, **options: float) -> None:
        self.clock = FakeClock()
        self.closed: list[int] = []
        self.clients = clients
        self.health = Health(
            self.clock,
            HealthOptions(**options),  # type: ignore[arg-type]
            rng=random.Random(7),
            close_some=self.close_some,
            clients=lambda: self.clients,
        )

    def close_some(self, count: int) -> None:
        self.closed.append(count)
        self.clients = max(0, self.clients - count)

    def feed(self, seconds: float, *samples: SlotSample, other: bool = True) -> Verdict:
        for _ in range(round(seconds / 0.2)):
            self.clock.seconds += 0.2
            self.health.feed(samples, other_is_well=other)
        return self.health.verdict


def test_a_node_that_hears_its_leaders_and_applies_what_they_commit_is_well() -> None:
    world = World()
    for index in range(500, 600):
        assert world.feed(1, SlotSample(True, 0.1, index, index - 3)).state == OK
    assert world.health.serving
    assert world.health.is_well
    assert world.health.why_not() == ""


def test_a_short_election_sheds_nobody() -> None:
    world = World()
    world.feed(5, WELL, WELL)
    assert world.feed(2.6, WELL, LEADERLESS).state == DEGRADED
    assert world.health.serving
    assert not world.health.is_well
    assert world.feed(0.2, WELL, WELL) == Verdict(OK)
    assert world.closed == []


def test_a_lost_majority_sheds_even_when_nobody_else_is_well() -> None:
    world = World()
    world.feed(5, WELL, WELL)
    assert world.feed(2.6, WELL, LOST, other=False).state == DEGRADED
    assert world.feed(1, WELL, LOST, other=False) == Verdict(SHED, "slot 1: no leader with a majority is heard")
    assert not world.health.serving
    assert world.feed(1, LOST, LEADERLESS).reason == "2 of 2 slots: no leader with a majority is heard"
    assert "no leader" in world.health.why_not()


def test_clients_come_back_only_after_it_was_well_for_a_while() -> None:
    world = World()
    world.feed(5, LOST)
    assert world.feed(1.6, WELL).state == SHED
    assert world.feed(1, LOST).state == SHED
    assert world.feed(1.6, WELL).state == SHED
    assert world.feed(0.8, WELL).state == OK
    assert world.feed(2.6, LOST).state == DEGRADED, "and the count begins anew"


def test_trouble_that_comes_and_goes_adds_up_to_nothing() -> None:
    world = World()
    for _ in range(20):
        assert world.feed(2, LOST).state == DEGRADED
        assert world.feed(0.2, WELL).state == OK


def lag(world: World, seconds: float, *, other: bool) -> Verdict:
    """Commits go on, nothing is applied."""
    for step in range(round(seconds)):
        world.feed(1, SlotSample(True, 0.1, 600 + step, 500), other=other)
    return world.health.verdict


def test_a_lagging_node_sheds_while_another_is_well() -> None:
    world = World()
    world.feed(2, WELL)
    assert lag(world, 3, other=True) == Verdict(OK)
    verdict = lag(world, 4, other=True)
    assert verdict.state == SHED
    assert verdict.reason.startswith("slot 0 lags ")


def test_a_lagging_node_keeps_its_clients_while_nobody_else_could_take_them() -> None:
    world = World()
    assert lag(world, 20, other=False).state == DEGRADED
    assert world.health.serving
    assert not world.health.is_well
    assert world.closed == []


def test_shedding_ends_when_the_others_fall_ill_too() -> None:
    world = World()
    assert lag(world, 8, other=True).state == SHED
    assert lag(world, 3, other=False).state == DEGRADED


def test_many_entries_that_are_applied_quickly_are_no_lag() -> None:
    world = World()
    for step in range(100):
        applied = 1_000 * step
        assert world.feed(0.4, SlotSample(True, 0.1, applied + 900, applied)).state == OK


def test_lag_is_measured_by_the_oldest_entry_that_waits_however_many_come() -> None:
    world = World()
    for step in range(200):
        world.feed(0.2, SlotSample(True, 0.1, 600 + step, 500))
    assert "lags 40 s" in world.health.why_not()
    world.feed(0.2, SlotSample(True, 0.1, 799, 799))
    assert world.health.is_well


def test_the_time_in_which_a_process_was_frozen_does_not_count() -> None:
    world = World()
    world.feed(5, WELL)
    world.clock.seconds += 60
    assert world.feed(1, LOST).state == DEGRADED
    assert world.feed(0.2, WELL).state == OK


def test_sessions_are_closed_at_a_rate_after_a_random_pause() -> None:
    world = World(close_per_second=100, jitter_s=1.0)
    world.feed(3.2, LOST)
    assert world.closed == []
    world.feed(1, LOST)
    world.closed.clear()
    world.feed(10, LOST)
    assert 800 <= sum(world.closed) <= 1_200
    assert max(world.closed) <= 30
    assert len(set(world.closed)) > 5, "not in step with others"
    world.closed.clear()
    world.feed(3, WELL)
    world.closed.clear()
    world.feed(5, WELL)
    assert world.closed == []


@pytest.mark.parametrize("clients", [2_000, 20_000, 100_000])
def test_a_deaf_node_is_rid_of_all_its_clients_soon_however_many_they_are(clients: int) -> None:
    world = World(clients=clients)
    world.feed(3.2, LOST)
    world.feed(1.0 + 10.0 + 1.0, LOST)
    assert world.clients == 0
    assert max(world.closed) <= max(500, clients / 10) * 0.2 * 1.5 + 1, "in steps"


def test_a_node_that_only_lags_keeps_to_the_rate_whatever_its_clients_are() -> None:
    world = World(clients=100_000)
    lag(world, 16, other=True)
    assert not world.health.serving
    assert 2_000 <= sum(world.closed) <= 8_000


def test_two_nodes_with_other_chance_do_not_begin_together() -> None:
    begins = []
    for seed in range(8):
        clock, closed = FakeClock(), list[int]()
        health = Health(clock, rng=random.Random(seed), close_some=closed.append)
        while not closed:
            clock.seconds += 0.1
            health.feed([LOST], other_is_well=False)
        begins.append(round(clock.seconds, 1))
    assert len(set(begins)) > 3
    assert max(begins) - min(begins) <= 1.5
