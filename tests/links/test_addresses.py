import pytest

from wukong.links.addresses import is_loopback, resolve, split_address


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


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h:1", ("h", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("h", None),
        (":1", None),
        ("[]:1", None),
        ("h:", None),
        ("h:x", None),
        ("h:0", None),
        ("h:65536", None),
        ("h:²", None),
        ("h:٣", None),
        ("h:" + "1" * 5_000, None),
        ("h" * 250 + ":1111", ("h" * 250, 1111)),
        ("h" * 251 + ":1111", None),
        ("", None),
    ],
)
def test_a_node_s_address_is_host_and_port(text: str, address: tuple[str, int] | None) -> None:
    assert split_address(text) == address
