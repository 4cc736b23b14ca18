"""How values are read from text and shown again."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wukong.config import values
from wukong.config.values import Account, Address, NodeAddress, format_duration, parse_address, parse_duration_ms
from wukong.limits import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

DURATIONS = [
    # text, milliseconds; Go's time.ParseDuration, and days
    ("500ms", 500),
    ("10s", 10 * SECOND_MS),
    ("3m", 3 * MINUTE_MS),
    ("1h", HOUR_MS),
    ("30d", 30 * DAY_MS),
    ("1h30m", 90 * MINUTE_MS),
    ("1.5s", 1_500),
    (".5s", 500),
    ("1.s", 1_000),
    ("1m0.25s", 60_250),
    ("2m500ms", 120_500),
    # a bare number is nanoseconds
    ("2000000000", 2 * SECOND_MS),
    ("60000000000", MINUTE_MS),
    ("1000000", 1),
    ("1000us", 1),
    ("1000µs", 1),
    ("1000μs", 1),
    # below a millisecond rounds up: only zero is zero
    ("1ns", 1),
    ("1000001ns", 2),
    ("180", 1),
    ("0", 0),
    ("0s", 0),
]
NO_DURATIONS = ["", "s", "5x", "5 s", "-5s", "1h 30m", "ms500", "1.2.3s", "1e3s", "10sec", "5S", "١s"]


@pytest.mark.parametrize(("text", "duration_ms"), DURATIONS)
def test_a_duration_is_read_as_go_reads_it(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write one like 500ms, 10s, 3m, 1h or 7d"):
        parse_duration_ms(text)


@given(st.integers(0, 4_000 * DAY_MS))
def test_a_shown_duration_reads_back_as_itself(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms


def test_a_bare_number_that_was_meant_as_seconds_is_refused_with_the_unit_to_write() -> None:
    with pytest.raises(ValueError, match="180 means nanoseconds; write a unit, like 180s"):
        values.duration(SECOND_MS).read("180")


@pytest.mark.parametrize("text", ["true", "True", "on", "yes", "1"])
def test_a_flag_is_on(text: str) -> None:
    assert values.flag.read(text) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "off", "no", "0"])
def test_a_flag_is_off(text: str) -> None:
    assert values.flag.read(text) is False


def test_a_flag_is_nothing_else() -> None:
    with pytest.raises(ValueError, match="'maybe' is neither true nor false"):
        values.flag.read("maybe")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("65536", 65_536),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        ("2MiB", 2 << 20),
        ("1GiB", 1 << 30),
        ("70000B", 70_000),
    ],
)
def test_a_size_is_bytes_or_has_a_binary_unit(text: str, size_bytes: int) -> None:
    assert values.size(65_536, 1 << 30).read(text) == size_bytes


@pytest.mark.parametrize("text", ["1MB", "1.5MiB", "-1", "big"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        values.size(1, 1 << 30).read(text)


def test_a_size_may_be_off_where_nought_stands_for_the_default() -> None:
    kind = values.size_or_off(65_536, 1 << 30)
    for text in ("off", "Off", "false", "no"):
        assert kind.read(text) == values.OFF
    assert kind.show(values.OFF) == "off"
    assert kind.read("0") == 0
    assert (kind.read("1MiB"), kind.show(1 << 20)) == (1 << 20, "1MiB")
    with pytest.raises(ValueError, match="out of range"):
        kind.read("1")


@given(st.integers(1, 1 << 40))
def test_a_shown_size_reads_back_as_itself(size_bytes: int) -> None:
    assert values.size(1, 1 << 40).read(values.format_size(size_bytes)) == size_bytes


def test_a_number_out_of_range_names_the_range() -> None:
    with pytest.raises(ValueError, match="1024 is out of range; give 1 to 1023"):
        values.number(1, 1023).read("1024")
    with pytest.raises(ValueError, match="-1 is out of range"):
        values.number().read("-1")
    with pytest.raises(ValueError, match="is not a whole number"):
        values.number().read("1.5")


@pytest.mark.parametrize(
    ("text", "scheme", "address"),
    [
        ("0.0.0.0:5001", "", Address("0.0.0.0", 5001)),
        (":5001", "", Address("0.0.0.0", 5001)),
        ("tcp://10.0.0.1:5100", "tcp", Address("10.0.0.1", 5100)),
        ("10.0.0.1:5100", "tcp", Address("10.0.0.1", 5100)),
        ("ws://im.example:5200/", "ws", Address("im.example", 5200)),
        ("tcp://[::1]:0", "tcp", Address("::1", 0)),
    ],
)
def test_an_address_may_have_its_scheme_or_not(text: str, scheme: str, address: Address) -> None:
    assert parse_address(text, scheme) == address


@pytest.mark.parametrize("text", ["5100", "tcp://", "udp://0.0.0.0:1", "::1:5100", "host:", "host:70000", "h:1/path"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|the port of"):
        parse_address(text, "tcp")


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert str(Address("::1", 5001)) == "[::1]:5001"


@pytest.mark.parametrize(("host", "is_loopback"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)])
def test_loopback_is_known_in_every_form(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback is is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "im.example", "::"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not Address(host, 1).is_loopback


def test_addresses_collide_on_one_port_if_a_host_is_shared() -> None:
    assert Address("0.0.0.0", 5001).collides(Address("127.0.0.1", 5001))
    assert Address("127.0.0.1", 5001).collides(Address("127.0.0.1", 5001))
    assert not Address("127.0.0.1", 5001).collides(Address("127.0.0.2", 5001))
    assert not Address("0.0.0.0", 0).collides(Address("0.0.0.0", 0))


def test_a_node_has_an_id_a_host_and_perhaps_a_port() -> None:
    assert values.nodes.read("1@a:11110 2@b") == (NodeAddress(1, "a", 11_110), NodeAddress(2, "b", 0))
    with pytest.raises(ValueError, match="write ID@HOST:PORT"):
        values.node.read("10.0.0.1:11110")
    with pytest.raises(ValueError, match="give 1 to 1023"):
        values.node.read("2048@a")


def test_a_list_is_split_at_white_space_when_it_comes_as_one_text() -> None:
    assert values.words.read(" msg.notify\tmsg.offline\n") == ("msg.notify", "msg.offline")
    assert values.words.read(["msg.notify", "msg.offline"]) == ("msg.notify", "msg.offline")


def test_one_value_is_not_a_list() -> None:
    with pytest.raises(ValueError, match="takes one value, not a list"):
        values.text.read(["a", "b"])


def test_an_account_has_a_password_and_rights() -> None:
    assert values.accounts.read(["boss:pw:*", "eve:pw2:[*:r,slotMigrate:rw]"]) == (
        Account("boss", "pw", (("*", "rw"),)),
        Account("eve", "pw2", (("*", "r"), ("slotMigrate", "rw"))),
    )


@pytest.mark.parametrize(
    "text", ["boss", "boss:hunter2", "boss:hunter2:read", "boss:hunter2:[x:q]", "boss:hunter2:[x]"]
)
def test_the_fault_of_an_account_does_not_tell_its_password(text: str) -> None:
    with pytest.raises(ValueError, match="account") as caught:
        values.accounts.read([text])
    assert "hunter2" not in str(caught.value)


def test_a_url_is_shown_without_what_may_be_a_password() -> None:
    url = "http://hook:hunter2@10.0.0.1:8080/wk?key=hunter2"
    assert values.url.read(url) == url
    assert values.url.show(url) == "http://***@10.0.0.1:8080/wk?***"
    with pytest.raises(ValueError, match="is not a URL") as caught:
        values.url.read("hook:hunter2@10.0.0.1")
    assert "hunter2" not in str(caught.value)


def test_proxies_are_addresses_or_networks() -> None:
    assert values.networks.read("10.0.0.1 10.1.0.0/16") == (
        ipaddress.ip_network("10.0.0.1/32"),
        ipaddress.ip_network("10.1.0.0/16"),
    )
    with pytest.raises(ValueError, match="is not an IP address or network"):
        values.networks.read("proxy.example")
