"""RECVACK windows: behaviour.md 8.5."""

from wukong.dispatch.retry import RetryPolicy, Waiting, remember, take_due
from wukong.protocol.recv_frame import SharedRecv

POLICY = RetryPolicy(interval_ms=60_000, max_count=5, window_limit=3)
VIEW = SharedRecv(message_id=1, message_seq=1, client_msg_no="", timestamp=0, payload=b"").view("a", "a", 1, 0)


def test_an_unacknowledged_message_comes_again_five_times_and_then_no_more() -> None:
    window: dict[int, Waiting] = {}
    remember(window, 1, VIEW, None, 0, POLICY)
    assert take_due(window, 59_999, POLICY) == []
    pushes = 0
    for minute in range(1, 20):
        pushes += len(take_due(window, minute * 60_000, POLICY))
    assert pushes == 5
    assert not window


def test_what_is_due_comes_in_the_order_of_the_pushes() -> None:
    window: dict[int, Waiting] = {}
    views = [
        SharedRecv(message_id=n, message_seq=n, client_msg_no="", timestamp=0, payload=b"").view("a", "a", 1, 0)
        for n in range(3)
    ]
    for n, view in enumerate(views):
        remember(window, n, view, None, n, POLICY)
    assert take_due(window, 60_001, POLICY) == views[:2]
    assert take_due(window, 60_002, POLICY) == views[2:]


def test_a_full_window_drops_its_oldest_retry_and_says_so() -> None:
    window: dict[int, Waiting] = {}
    dropped = [remember(window, n, VIEW, None, 0, POLICY) for n in range(5)]
    assert dropped == [False, False, False, True, True]
    assert list(window) == [2, 3, 4]
