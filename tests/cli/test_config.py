from pathlib import Path

import pytest

from tests.cli.conftest import Wukong, answer

SAMPLE = Path(__file__).parents[2] / "config" / "wk.yaml"


def test_a_good_file_has_no_faults(wukong: Wukong) -> None:
    result = wukong("config", "check", str(SAMPLE))
    assert result.exit_code == 0
    assert result.stdout.endswith("no faults\n")


def test_what_differs_from_the_defaults_is_shown_and_secrets_are_not(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text("managerToken: very-secret\nconnIdleTime: 5m\nnonsense: 1\n")
    result = wukong("config", "check", str(path))
    assert "connIdleTime = 5m" in result.stdout
    assert "warning: " in result.stdout
    assert "nonsense" in result.stdout
    assert "very-secret" not in result.output


def test_all_faults_are_told_at_once(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text("httpAddr: nonsense\nconnIdleTime: soon\n")
    result = wukong("config", "check", str(path))
    assert result.exit_code == 2
    assert "httpAddr" in result.stderr
    assert "connIdleTime" in result.stderr


def test_the_same_for_programs(wukong: Wukong, tmp_path: Path) -> None:
    assert answer(wukong("config", "check", str(SAMPLE), "--json"))["faults"] == []
    result = wukong("config", "check", str(tmp_path / "missing.yaml"), "--json")
    assert result.exit_code == 2
    assert "missing.yaml" in result.stdout


def test_without_a_file_the_environment_is_read(wukong: Wukong) -> None:
    assert wukong("config", "check").exit_code == 0


def test_a_misspelt_key_is_told_with_its_line_and_what_may_be_meant(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text("mode: release\nwebhook:\n  httpAdr: http://h\nmanager:\n  managerToken: x\nnonsense: 1\n")
    warnings = answer(wukong("config", "check", str(path), "--json"))["warnings"]
    assert any(f"{path}:3: webhook.httpAdr" in each and "did you mean webhook.httpAddr?" in each for each in warnings)
    assert any(f"{path}:5: manager.managerToken" in each and "did you mean managerToken?" in each for each in warnings)
    assert any(f"{path}:6: nonsense" in each and "did you mean" not in each for each in warnings)


def test_a_fault_is_told_with_its_line(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text("mode: release\nhttpAddr: nonsense\n")
    assert f"{path}:2: httpAddr: " in wukong("config", "check", str(path)).stderr


def test_a_misspelt_variable_is_told_with_the_one_that_may_be_meant(
    wukong: Wukong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WK_HTTPADR", "127.0.0.1:1")
    assert "did you mean WK_HTTPADDR?" in wukong("config", "check").stdout
