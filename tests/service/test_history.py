"""The last quarter of an hour of a node's figures."""

from tests.service.stack import START_MS, FakeClock
from wukong.histogram import Histogram
from wukong.service.history import INTERVAL_S, SAMPLES, SERIES, History, Reading

NAMES = [
    "send_per_s",
    "recv_per_s",
    "ack_p50_ms",
    "ack_p99_ms",
    "recv_p50_ms",
    "recv_p99_ms",
    "fsync_p99_ms",
    "sessions",
    "lag_entries",
    "loop_lag_ms",
    "webhook_backlog",
]


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reading = Reading(100, 1_000, 3, 0, 1.0, 0)
        self.ack, self.recv, self.fsync = Histogram(), Histogram(), Histogram()
        latencies = {"ack": self.ack, "recv": self.recv, "fsync": self.fsync}
        self.history = History(lambda: self.reading, latencies, self.clock)

    def pass_on(self) -> None:
        self.clock.ms += INTERVAL_S * 1000
        self.history.sample()


def test_a_node_that_has_just_started_shows_every_series_and_nothing_in_them() -> None:
    shape = World().history.shape()
    assert sorted(shape.series) == sorted(NAMES) == sorted(SERIES)
    assert shape.interval_s == INTERVAL_S
    assert set(map(tuple, shape.series.values())) == {()}


def test_what_was_counted_before_the_first_sample_is_no_rate() -> None:
    world = World()
    world.reading = world.reading._replace(sends=110, recvs=1_500)
    world.pass_on()
    series = world.history.shape().series
    assert series["send_per_s"] == [2.0]
    assert series["recv_per_s"] == [100.0]


def test_the_newest_sample_is_the_last() -> None:
    world = World()
    for sessions in (4, 5, 6):
        world.reading = world.reading._replace(sessions=sessions)
        world.pass_on()
    shape = world.history.shape()
    assert shape.series["sessions"] == [4, 5, 6]
    assert shape.now_ms == START_MS + 3 * INTERVAL_S * 1000


def test_quantiles_are_of_what_happened_since_the_last_sample_and_null_where_nothing_did() -> None:
    world = World()
    for _ in range(100):
        world.ack.add(0.0049)
    world.pass_on()
    world.pass_on()
    world.ack.add(0.9)
    world.pass_on()
    series = world.history.shape().series
    first, second, third = series["ack_p50_ms"]
    assert first is not None
    assert 3 < first <= 5
    assert second is None
    assert third is not None
    assert 500 < third <= 1_000
    assert series["recv_p99_ms"] == [None, None, None]


def test_a_quarter_of_an_hour_is_kept() -> None:
    world = World()
    for sessions in range(SAMPLES + 20):
        world.reading = world.reading._replace(sessions=sessions)
        world.pass_on()
    series = world.history.shape().series
    assert {len(each) for each in series.values()} == {SAMPLES}
    assert (series["sessions"][0], series["sessions"][-1]) == (20, SAMPLES + 19)
    assert SAMPLES * INTERVAL_S == 15 * 60


def test_a_sample_that_comes_late_is_a_rate_over_the_time_that_passed() -> None:
    world = World()
    world.reading = world.reading._replace(sends=200)
    world.clock.ms += 10_000
    world.history.sample()
    assert world.history.shape().series["send_per_s"] == [10.0]
