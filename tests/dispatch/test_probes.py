"""Which messages are timed, and what their times mean."""

from wukong.dispatch.probes import Probe, Probes


def sample(probes: Probes, session: int, number: str, received_at: float) -> Probe | None:
    """As Sessions does for each SEND."""
    probes.left -= 1
    if not probes.left or received_at >= probes.due_at:
        return probes.sample(session, number, received_at)
    return None


class Watch:
    def __init__(self) -> None:
        self.s = 100.0

    def monotonic(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return int(self.s * 1000)


def test_a_lone_send_is_always_timed() -> None:
    watch = Watch()
    probes = Probes(watch)
    for _ in range(5):
        watch.s += 1
        assert sample(probes, 1, "n", watch.s) is not None


def test_under_load_one_send_in_32_is_timed() -> None:
    probes = Probes(Watch())
    timed = [sample(probes, 1, str(index), 100.0) is not None for index in range(321)]
    assert timed == [index % 32 == 0 for index in range(321)]


def test_the_way_of_a_send_is_counted_from_the_read_of_its_bytes() -> None:
    watch = Watch()
    probes = Probes(watch)
    probe = probes.sample(1, "n", 99.5)
    assert probe is not None
    watch.s = 100.25
    assert probes.applied(1, "n") is probe
    probes.fanned_out(probe, 3)
    probes.end(probe, answered=True)
    watch.s = 101.0
    probes.written(probe)
    assert (probes.send_s.total, probes.delivery_s.total) == (0.75, 1.5)
    assert (probe.proposed_at, probe.applied_at, probe.sessions) == (100.0, 100.25, 3)
    assert probes.open == {}


def test_a_message_of_the_api_is_not_counted_among_the_sends() -> None:
    probes = Probes(Watch())
    probe = probes.begin(0, "n", 99.0)
    assert probe is not None
    assert probes.applied(0, "n") is probe
    probes.written(probe)
    probes.end(probe, answered=True)
    assert sum(probes.send_s.counts) == sum(probes.delivery_s.counts) == 0


def test_a_send_without_an_answer_is_forgotten_and_counts_for_nothing() -> None:
    probes = Probes(Watch())
    probe = probes.sample(1, "n", 99.0)
    assert probe is not None
    probes.end(probe, answered=False)
    assert probes.open == {}
    assert sum(probes.send_s.counts) == 0


def test_messages_of_other_sessions_are_not_taken_for_it() -> None:
    probes = Probes(Watch())
    assert probes.sample(1, "n", 99.0) is not None
    assert probes.applied(2, "n") is None
    assert probes.applied(1, "m") is None


def test_the_end_of_a_repeated_number_does_not_forget_the_newer_message() -> None:
    probes = Probes(Watch())
    first, second = probes.begin(1, "n", 99.0), probes.begin(1, "n", 99.1)
    assert first is not None
    probes.end(first, answered=True)
    assert probes.applied(1, "n") is second


def test_probes_under_way_are_limited() -> None:
    probes = Probes(Watch())
    begun = [probes.begin(1, str(index), 99.0) for index in range(4_100)]
    assert sum(probe is not None for probe in begun) == 4_096
