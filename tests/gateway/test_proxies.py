"""Who may say where a client comes from."""

from ipaddress import ip_network

import pytest

from wukong.gateway.proxies import Peer, TrustedProxies

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
PROXY: Peer = ("10.0.0.1", 5555)


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        (PROXY, {}, PROXY),
        (PROXY, {"x-forwarded-for": "203.0.113.7"}, ("203.0.113.7", 0)),
        (PROXY, {"x-forwarded-for": "203.0.113.7", "x-real-port": "4444"}, ("203.0.113.7", 4444)),
        (PROXY, {"x-forwarded-for": "203.0.113.7", "x-real-port": "70000"}, ("203.0.113.7", 0)),
        (PROXY, {"x-forwarded-for": "203.0.113.7", "x-real-port": "x"}, ("203.0.113.7", 0)),
        (PROXY, {"x-real-ip": "203.0.113.8"}, ("203.0.113.8", 0)),
        (PROXY, {"x-forwarded-for": "203.0.113.7", "x-real-ip": "203.0.113.8"}, ("203.0.113.7", 0)),
        # What a client invents stands before what the proxies wrote.
        (PROXY, {"x-forwarded-for": "1.1.1.1, 203.0.113.7, 10.2.2.2"}, ("203.0.113.7", 0)),
        (PROXY, {"x-forwarded-for": "10.9.9.9, 10.2.2.2"}, ("10.9.9.9", 0)),
        (PROXY, {"x-forwarded-for": "unknown"}, PROXY),
        (PROXY, {"x-forwarded-for": "garbage, 10.2.2.2"}, ("10.2.2.2", 0)),
        (PROXY, {"x-real-ip": "garbage"}, PROXY),
        (("::ffff:10.0.0.1", 1), {"x-forwarded-for": "2001:470::1"}, ("2001:470::1", 0)),
        (("2001:db8::5", 1), {"x-forwarded-for": "203.0.113.7"}, ("203.0.113.7", 0)),
        (("192.0.2.1", 1), {"x-forwarded-for": "203.0.113.7", "x-real-ip": "203.0.113.8"}, ("192.0.2.1", 1)),
    ],
)
def test_headers_count_from_trusted_proxies_only(peer: Peer, headers: dict[str, str], client: Peer) -> None:
    assert PROXIES.client_of(peer, headers) == client


def test_without_a_list_nobody_is_trusted() -> None:
    assert not TrustedProxies().trusts("127.0.0.1")
    assert TrustedProxies().client_of(PROXY, {"x-forwarded-for": "203.0.113.7"}) == PROXY


def test_what_is_no_address_is_not_trusted() -> None:
    assert not PROXIES.trusts("")
    assert not PROXIES.trusts("/run/socket")
