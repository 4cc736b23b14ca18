from pathlib import Path

from tests.cli.conftest import Wukong


def test_a_configuration_with_faults_is_told_before_anything_starts(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text("httpAddr: nonsense\naddr: more nonsense\n")
    result = wukong("serve", "--config", str(path))
    assert result.exit_code == 2
    assert "httpAddr" in result.stderr
    assert "addr:" in result.stderr


def test_a_file_that_is_not_there_is_told(wukong: Wukong, tmp_path: Path) -> None:
    result = wukong("serve", "--config", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 2
    assert "missing.yaml" in result.stderr
