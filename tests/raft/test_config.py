"""Settings that contradict each other are refused before they make a cluster that elects for ever."""

import pytest

from wukong.errors import ConfigError
from wukong.raft.config import RaftConfig


def test_the_defaults_stand() -> None:
    assert RaftConfig().election_min_ms > 3 * RaftConfig().heartbeat_ms


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"heartbeat_ms": 240}, "election_min_ms"),
        ({"election_max_ms": 500}, "election_max_ms"),
        ({"quorum_timeout_ms": 900}, "quorum_timeout_ms"),
        ({"retain_bytes": -1}, "retain_bytes"),
    ],
)
def test_contradictions_are_named(settings: dict[str, int], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RaftConfig(**settings)
    assert [text.split(":")[0] for text in caught.value.faults] == [fault]


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RaftConfig(heartbeat_ms=1000, election_max_ms=10, window_bytes=-5)
    assert len(caught.value.faults) == 3
