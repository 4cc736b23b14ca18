from pathlib import Path

from tests.cli.conftest import Wukong
from tests.support.server import ServerProcess
from wukong.cli.doctor.command import lines_of, summary
from wukong.cli.doctor.finding import Finding


def test_a_running_node_is_examined_for_people(node: ServerProcess, wukong: Wukong) -> None:
    result = wukong("doctor", "--config", node.directory / "wk.yaml")
    assert f"ok      api: {node.http_url} is healthy" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(("nothing wrong", "warnings", "warning"))


def test_a_cluster_is_looked_at_from_a_machine_without_a_node(node: ServerProcess, wukong: Wukong) -> None:
    result = wukong("doctor", "--api", node.http_url)
    assert result.exit_code == 0
    assert "is healthy" in result.stdout
    assert "not checked: no node here" in result.stdout


def test_an_api_that_is_not_there_is_an_error(wukong: Wukong, unused_address: str) -> None:
    result = wukong("doctor", "--api", unused_address, "--quiet")
    assert result.exit_code == 1
    assert "does not answer" in result.stdout
    assert not any(line.startswith(("ok", "note")) for line in result.stdout.splitlines())


def test_a_configuration_that_cannot_be_read_does_not_stop_the_rest(wukong: Wukong, tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("httpAddr: nonsense\n")
    result = wukong("doctor", "--config", file)
    assert result.exit_code == 1
    assert "wk.yaml:1: httpAddr" in result.stdout
    assert "files:" in result.stdout
    assert "not checked: ports" in result.stdout


def test_a_finding_is_a_line_and_its_advice_another() -> None:
    assert lines_of(Finding("disk", "error", "full", "free some"), colours=False) == [
        "error   disk: full",
        "        -> free some",
    ]
    assert lines_of(Finding("disk", "ok", "fine"), colours=False) == ["ok      disk: fine"]


def test_the_last_line_counts() -> None:
    assert summary(0, 0) == "nothing wrong"
    assert summary(1, 2) == "1 error, 2 warnings"
