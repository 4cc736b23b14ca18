from uuid import uuid4

import pytest

from tests.cli.conftest import Wukong, answer


@pytest.fixture
def name(on_node: Wukong) -> str:
    """A group with three messages of ann and one of ben."""
    name = f"club-{uuid4().hex[:12]}"
    on_node("channel", "create", name, "ann", "ben")
    for uid in ("ann", "ann", "ann", "ben"):
        assert on_node("send", name, "hello", "--uid", uid).exit_code == 0
    return name


def test_the_life_of_a_policy(on_node: Wukong, name: str) -> None:
    none = f"channel {name}, type 2: no policy, everything is kept\nmessages: 1 to 4\n"
    assert on_node("retention", "show", name).stdout == none
    result = on_node("retention", "set", name, "--days", "30", "--count", "2")
    assert (result.exit_code, result.stdout) == (0, f"channel {name}: keeps 30 days, 2 messages\n")
    assert on_node("retention", "run", name).stdout == "2 messages retired\n"
    kept = f"channel {name}, type 2: keeps 30 days, 2 messages, by its own policy\nmessages: 3 to 4\n"
    assert on_node("retention", "show", name).stdout == kept
    assert f"channel {name}, type 2: 30 days, 2 messages\n" in on_node("retention", "show").stdout
    assert on_node("retention", "clear", name).stdout == f"channel {name}: no policy of its own\n"
    assert f"channel {name}" not in on_node("retention", "show").stdout


def test_the_policy_of_a_type(on_node: Wukong, name: str) -> None:
    options = ("--type", "group")
    result = on_node("retention", "default", "set", *options, "--bytes", "1")
    assert result.stdout == "channels of type 2: each keeps 1 bytes\n"
    try:
        assert on_node("retention", "set", name, "--forever").stdout == f"channel {name}: keeps everything\n"
        assert on_node("retention", "run", name).stdout == "0 messages retired\n"
        assert "every channel, type 2: 1 bytes\n" in on_node("retention", "show").stdout
        on_node("retention", "clear", name)
        assert answer(on_node("retention", "run", name, "--json")) == {"retired": 4}
        assert "by the policy of its type\nmessages: none left\n" in on_node("retention", "show", name).stdout
    finally:
        assert on_node("retention", "default", "clear", *options).stdout == "channels of type 2: no policy\n"


def test_the_same_for_programs(on_node: Wukong, name: str) -> None:
    set_to = answer(on_node("retention", "set", name, "--count", "5", "--json"))
    assert set_to == {"channel_id": name, "channel_type": 2, "days": 0, "count": 5, "bytes": 0}
    shown = answer(on_node("retention", "show", name, "--json"))
    assert (shown["policy"], shown["own"]) == ({"days": 0, "count": 5, "bytes": 0}, True)
    assert answer(on_node("retention", "clear", name, "--json")) == {"channel_id": name, "channel_type": 2}


@pytest.mark.parametrize("limits", [[], ["--forever", "--days", "1"], ["--days", "0"], ["--count", "-1"]])
def test_a_policy_says_what_is_kept(on_node: Wukong, limits: list[str]) -> None:
    for command in (["set", "lunch"], ["default", "set"]):
        assert on_node("retention", *command, *limits).exit_code == 2
    assert "no policies" in on_node("retention", "show").stdout


def test_what_a_user_wrote_is_erased(on_node: Wukong, name: str) -> None:
    result = on_node("erase", "ann", "--channel", name, "--yes")
    assert (result.exit_code, result.stdout) == (0, f"3 messages of ann erased in channel {name}\n")
    erased = answer(on_node("erase", "ben", "--channel", name, "--yes", "--json"))
    assert erased == {"uid": "ben", "channel_id": name, "erased": 1}
    assert "0 messages of nobody erased in all channels" in on_node("erase", "nobody", "-y").stdout


def test_nothing_is_erased_without_a_yes(on_node: Wukong, name: str) -> None:
    result = on_node("erase", "ann", "--channel", name)
    assert result.exit_code == 2
    assert "say --yes" in result.stderr
    assert "3 messages" in on_node("erase", "ann", "--channel", name, "--yes").stdout


def test_a_refusal_is_told_with_the_servers_words(on_node: Wukong) -> None:
    result = on_node("retention", "set", "ann", "--type", "person", "--days", "1")
    assert result.exit_code == 1
    assert "named by both" in result.stderr
