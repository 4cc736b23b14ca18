import pytest

from tests.cli.conftest import Wukong

COMMANDS = ("dev", "status", "add", "remove", "replace", "transfer", "settings", "secret")


def test_the_commands_are_listed(wukong: Wukong) -> None:
    shown = wukong("cluster", "--help").stdout
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(wukong: Wukong, name: str) -> None:
    result = wukong("cluster", name, "--help")
    assert result.exit_code == 0
    assert f"Example: wukong cluster {name}" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_for_programs(wukong: Wukong, name: str) -> None:
    assert "--json" in wukong("cluster", name, "--help").stdout
