"""Values from the query: http-api.md 2.4."""

import pytest
from aiohttp.test_utils import make_mocked_request

from wukong.api.request import query_int, query_text, query_type


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 9),
        ("?n=", 9),
        ("?n=5", 5),
        ("?n=-5", -5),
        ("?n=%2B5", 5),
        ("?n=x", 0),
        ("?n=1.0", 0),
        ("?n=1_0", 0),
        ("?n=%D9%A3", 0),
        ("?n=99999999999999999999999", 0),
        ("?n=3&n=4", 3),
    ],
)
def test_what_is_no_number_counts_as_0_and_what_is_absent_as_the_default(text: str, number: int) -> None:
    assert query_int(make_mocked_request("GET", f"/{text}"), "n", 9) == number


@pytest.mark.parametrize(("text", "kind"), [("", 0), ("2", 2), ("255", 255), ("256", 0), ("-1", 0), ("x", 0)])
def test_a_channel_type_is_a_byte(text: str, kind: int) -> None:
    assert query_type(make_mocked_request("GET", f"/?channel_type={text}")) == kind


@pytest.mark.parametrize(
    ("query", "text"),
    [("", ""), ("t=a%20b", "a b"), ("t=a+b", "a b"), ("t=%E7%94%A8", "用"), ("t=a%40b%26c", "a@b&c"), ("T=x", "")],
)
def test_texts_are_taken_from_the_query_as_they_are(query: str, text: str) -> None:
    assert query_text(make_mocked_request("GET", f"/?{query}"), "t") == text


@pytest.mark.parametrize("query", ["t=%FF", "t=a%80b"])
def test_any_text_of_the_query_can_be_written_as_utf_8(query: str) -> None:
    query_text(make_mocked_request("GET", f"/?{query}"), "t").encode()
