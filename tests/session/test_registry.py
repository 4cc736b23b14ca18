"""Sessions of this node by number and by uid."""

from wukong.session.registry import LocalSession, Registry


def session(number: int, uid: str = "u") -> LocalSession:
    return LocalSession(
        number, uid, device_flag=0, device_id="d", version=5, via_json=False, peer=("127.0.0.1", 1), opened_ms=0
    )


def test_a_session_counts_from_its_start_not_from_the_question() -> None:
    registry = Registry()
    registry.expect(session(1))
    assert not registry.is_online("u")
    started = registry.start(1, 1)
    assert started is not None
    assert started.level == 1
    assert registry.of("u") == (started,)


def test_a_forgotten_login_does_not_start() -> None:
    registry = Registry()
    registry.expect(session(1))
    registry.forget(1)
    assert registry.start(1, 0) is None
    assert len(registry) == 0


def test_a_user_is_online_until_his_last_session_ends() -> None:
    registry = Registry()
    for number in (1, 2):
        registry.expect(session(number))
        registry.start(number, 0)
    registry.end(1)
    assert [s.number for s in registry.of("u")] == [2]
    registry.end(2)
    assert not registry.is_online("u")
    assert registry.end(2) is None
