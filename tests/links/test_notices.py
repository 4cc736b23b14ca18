import logging

import pytest

from wukong.links.notices import Notices


def test_a_reason_is_logged_once_per_interval_and_what_was_left_out_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    notices = Notices(lambda: now, 10)
    for _ in range(1_000):
        notices.say(logging.WARNING, ("flood", 0), "a stranger knocks")
    notices.say(logging.WARNING, ("flood", 3), "node 3 knocks")
    assert caplog.messages == ["a stranger knocks", "node 3 knocks"]
    now = 10.0
    notices.say(logging.WARNING, ("flood", 0), "a stranger knocks")
    assert caplog.messages[2:] == ["a stranger knocks (999 more since the last such line)"]
    now = 20.0
    notices.say(logging.WARNING, ("flood", 0), "a stranger knocks")
    assert caplog.messages[3:] == ["a stranger knocks"]


def test_a_percent_sign_in_what_a_peer_says_is_only_text(caplog: pytest.LogCaptureFixture) -> None:
    Notices(lambda: 0.0, 10).say(logging.WARNING, ("odd", 0), "100%s %d")
    assert caplog.messages == ["100%s %d"]
