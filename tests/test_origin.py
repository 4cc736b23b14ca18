"""Who counts as this machine, as this server's own page, and as one who knows the address."""

import pytest
from aiohttp.test_utils import make_mocked_request

from wukong.origin import is_by_address, is_from_here, is_same_origin


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, True),
        ("http://127.0.0.1:5300", True),
        ("http://127.0.0.1:5301", False),
        ("http://elsewhere.example", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_page_of_another_origin_is_told_from_our_own(origin: str | None, expected: bool) -> None:
    headers = {"Host": "127.0.0.1:5300", **({} if origin is None else {"Origin": origin})}
    assert is_same_origin(make_mocked_request("POST", "/", headers=headers)) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1:5300", True), ("[::1]:5300", True), ("localhost", True), ("evil.example:5300", False), ("[", False)],
)
def test_a_name_that_somebody_pointed_here_is_no_address(host: str, expected: bool) -> None:
    assert is_by_address(make_mocked_request("GET", "/", headers={"Host": host})) is expected


@pytest.mark.parametrize(
    ("remote", "headers", "expected"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("192.0.2.7", {}, False),
        ("", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, False),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.7"}, False),
        ("127.0.0.1", {"X-Real-IP": "192.0.2.7"}, False),
    ],
)
def test_a_proxy_on_this_machine_speaks_for_others(remote: str, headers: dict[str, str], expected: bool) -> None:
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    assert is_from_here(request) is expected
