import pytest

from wukong.links.addresses import is_loopback, resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_these_never_leave_the_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", "x y"]
)
def test_these_may(host: str) -> None:
    assert not is_loopback(host)


async def test_an_address_is_itself_and_no_address_is_every_one() -> None:
    assert await resolve("127.0.0.1", 1) == ["127.0.0.1"]
    assert not any(map(is_loopback, await resolve("", 1)))
