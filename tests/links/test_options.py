import pytest

from wukong.errors import ConfigError
from wukong.links.options import BACKLOG_COUNT, LinkOptions


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"silence_ms": 2_000}, "silence_ms"),
        ({"backoff_max_ms": 49}, "backoff_max_ms"),
        ({"frame_bytes": 0}, "frame_bytes"),
        ({"message_limit_bytes": 1_000}, "facts_limit_bytes"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LinkOptions(**wrong)


def test_a_time_is_never_shorter_than_asked_for() -> None:
    options = LinkOptions(tick_ms=250)
    assert [options.ticks(time_ms) for time_ms in (1, 250, 251, 1_000)] == [1, 1, 2, 4]


def test_one_turn_of_accepting_does_not_push_out_an_honest_handshake() -> None:
    assert LinkOptions().half_open_limit > 3 * BACKLOG_COUNT
