import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Wukong, answer
from wukong.cli.cluster.secret import new_secret, write_once
from wukong.limits import MIN_CLUSTER_SECRET_CHARS


def test_a_secret_is_long_enough_and_new_every_time(wukong: Wukong) -> None:
    secrets = {wukong("cluster", "secret").stdout.strip() for _ in range(3)}
    assert len(secrets) == 3
    assert all(len(each) >= MIN_CLUSTER_SECRET_CHARS and each.isascii() for each in secrets)


def test_a_file_is_read_by_its_owner_alone(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert wukong("cluster", "secret", str(path)).exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) >= MIN_CLUSTER_SECRET_CHARS


def test_a_second_call_leaves_the_secret_as_it_is(wukong: Wukong, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert answer(wukong("cluster", "secret", str(path), "--json"))["made"] is True
    first = path.read_text()
    assert answer(wukong("cluster", "secret", str(path), "--json"))["made"] is False
    assert path.read_text() == first
    assert [each.name for each in tmp_path.iterdir()] == ["secret"], "a draft was left"


def test_a_folder_that_is_not_there_is_told(wukong: Wukong, tmp_path: Path) -> None:
    result = wukong("cluster", "secret", str(tmp_path / "missing" / "secret"))
    assert result.exit_code == 1
    assert "missing" in result.stderr


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_once(tmp_path / "secret", new_secret())
    assert list(tmp_path.iterdir()) == []
