import pytest
import typer

from wukong.cli.options import CHANNEL_TYPES, address_list, api_url, channel_type
from wukong.protocol.packets import ChannelType


def test_channel_types_have_the_numbers_of_the_protocol() -> None:
    assert sorted(CHANNEL_TYPES.values()) == sorted(ChannelType)
    assert CHANNEL_TYPES["topic"] == ChannelType.COMMUNITY_TOPIC


@pytest.mark.parametrize(("text", "number"), [("group", 2), ("person", 1), ("9", 9), ("255", 255), (2, 2)])
def test_a_channel_type_is_a_name_or_a_number(text: str | int, number: int) -> None:
    assert channel_type(text) == number


@pytest.mark.parametrize("text", ["", "Group ", "0", "256", "-1", "club", "²"])
def test_what_is_no_channel_type_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        channel_type(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("http://im.example/", "http://im.example"),
        ("https://im.example:1", "https://im.example:1"),
    ],
)
def test_an_api_address_may_lack_its_scheme(text: str, url: str) -> None:
    assert api_url(text) == url


def test_an_api_address_of_another_scheme_is_refused() -> None:
    with pytest.raises(typer.BadParameter):
        api_url("ws://im.example")


def test_lists_are_separated_by_commas() -> None:
    assert address_list(" a:1, b:2,,") == ["a:1", "b:2"]
