from uuid import uuid4

import pytest

from tests.cli.conftest import Wukong, answer


@pytest.fixture
def name() -> str:
    return f"club-{uuid4().hex[:12]}"


def test_the_life_of_a_channel(on_node: Wukong, name: str) -> None:
    result = on_node("channel", "create", name, "ann", "ben")
    assert (result.exit_code, result.stdout) == (0, f"channel {name}: created, 2 members added\n")
    assert on_node("channel", "add", name, "cid").stdout == f"channel {name}: 1 member added\n"
    assert on_node("channel", "remove", name, "ann").exit_code == 0
    assert on_node("channel", "members", name).stdout == "ben\ncid\n"
    assert on_node("send", name, "hello", "--uid", "ben").exit_code == 0
    info = on_node("channel", "info", name).stdout
    assert f"channel {name}, type 2: 2 members, 1 messages" in info
    assert "from ben: hello" in info
    assert on_node("channel", "delete", name).stdout == f"channel {name}: dissolved\n"
    refused = on_node("send", name, "hello", "--uid", "ben")
    assert refused.exit_code == 1
    assert "dissolved" in refused.stderr


def test_the_same_for_programs(on_node: Wukong, name: str) -> None:
    created = answer(on_node("channel", "create", name, "ann", "--type", "community", "--json"))
    assert created == {"channel_id": name, "channel_type": 4, "members": ["ann"]}
    options = ("--type", "4", "--json")
    assert answer(on_node("channel", "add", name, "ben", *options))["added"] == ["ben"]
    assert answer(on_node("channel", "remove", name, "ann", *options))["removed"] == ["ann"]
    assert answer(on_node("channel", "members", name, *options)) == ["ben"]
    info = answer(on_node("channel", "info", name, *options))
    assert (info["members"], info["last_message_seq"], info["last_message"]) == (1, 0, None)
    assert answer(on_node("channel", "delete", name, *options))["deleted"] is True


def test_resetting_replaces_the_members(on_node: Wukong, name: str) -> None:
    on_node("channel", "create", name, "ann", "ben")
    on_node("channel", "create", name, "cid", "--reset")
    assert on_node("channel", "members", name).stdout == "cid\n"


def test_a_channel_without_members_says_so(on_node: Wukong, name: str) -> None:
    assert on_node("channel", "members", name).stdout == f"channel {name} has no members\n"


def test_a_refusal_is_told_with_the_servers_words(on_node: Wukong) -> None:
    result = on_node("channel", "create", "a@b", "--json")
    assert result.exit_code == 1
    assert "频道ID不能包含特殊字符" in result.stderr
    assert "频道ID不能包含特殊字符" in result.stdout


def test_nobody_listening_is_told_with_the_address_and_what_to_check(wukong: Wukong, unused_address: str) -> None:
    result = wukong("channel", "members", "g", "--api", unused_address)
    assert result.exit_code == 3
    assert f"http://{unused_address}" in result.stderr
    assert "connection refused" in result.stderr
    assert "--api or WUKONG_API" in result.stderr


def test_a_wrong_type_is_a_usage_error(wukong: Wukong) -> None:
    result = wukong("channel", "members", "g", "--type", "club")
    assert result.exit_code == 2
    assert "no channel type" in result.stderr
