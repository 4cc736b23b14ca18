"""RECVACK windows: when a pushed message is pushed again. PURE. behaviour.md 8.5.

A stored message that its session has not acknowledged is repeated unchanged after `interval_ms`, at most `max_count`
times, on the same connection only. The window of a session is bounded: at the limit its oldest retry is dropped, never
the client; what is not repeated is in sync.
"""

from typing import NamedTuple

from wukong.channel.ids import ChannelId
from wukong.protocol.recv_frame import RecvView


class RetryPolicy(NamedTuple):
    interval_ms: int = 60_000
    max_count: int = 5
    window_limit: int = 1_000


class Waiting(NamedTuple):
    """due_ms on the caller's clock; attempts made beyond the first push; view: what to push again. source: for a
    command, the channel whose command position an acknowledgement may move."""

    due_ms: int
    attempts: int
    view: RecvView
    source: ChannelId | None


def remember(
    window: dict[int, Waiting],
    message_id: int,
    view: RecvView,
    source: ChannelId | None,
    now_ms: int,
    policy: RetryPolicy,
) -> bool:
    """Note a push. Returns True if the window was full and its oldest retry was dropped for it."""
    dropped = len(window) >= policy.window_limit
    if dropped:
        del window[next(iter(window))]
    window[message_id] = Waiting(now_ms + policy.interval_ms, 0, view, source)
    return dropped


def take_due(window: dict[int, Waiting], now_ms: int, policy: RetryPolicy) -> list[RecvView]:
    """Views to push again now, oldest first. Entries out of attempts leave the window."""
    # All intervals are equal, so insertion order is due order.
    due: list[tuple[int, Waiting]] = []
    for message_id, waiting in window.items():
        if waiting.due_ms > now_ms:
            break
        due.append((message_id, waiting))
    again = []
    for message_id, waiting in due:
        del window[message_id]
        if waiting.attempts < policy.max_count:
            window[message_id] = waiting._replace(due_ms=now_ms + policy.interval_ms, attempts=waiting.attempts + 1)
            again.append(waiting.view)
    return again
