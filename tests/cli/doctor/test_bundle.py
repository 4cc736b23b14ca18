import json
import stat
import tarfile
from pathlib import Path

import pytest

from wukong.cli.doctor import bundle
from wukong.cli.doctor.cluster import Told
from wukong.cli.doctor.finding import Finding
from wukong.cli.doctor.redact import Redactor
from wukong.config import load_config


def test_everything_goes_through_the_redactor(tmp_path: Path) -> None:
    config, _ = load_config(None, {"WK_DATADIR": str(tmp_path), "WK_MANAGERTOKEN": 'se"cret-1'}, embedded=True)
    told = Told("http://u:se-2@h:1", bodies={"/health": b'{"status":"se\\"cret-1"}', "/metrics": b'x{l="se-2"} 1\n'})
    redactor = Redactor({'se"cret-1', "se-2"})
    files = bundle.contents([Finding("a", "ok", 'se"cret-1')], config, [told], 'tail se"cret-1 se-2\n', redactor)
    assert [name for name, content in files.items() if b"cret-1" in content or b"se-2" in content] == []
    assert json.loads(files["api-1/health.json"]) == {"status": "***"}
    assert files["log.txt"] == b"tail *** ***\n"


def test_without_a_configuration_or_a_log_there_are_no_such_files() -> None:
    assert {"config.json", "log.txt"} & bundle.contents([], None, [], None, Redactor(set())).keys() == set()


def test_the_versions_of_what_is_used_are_told() -> None:
    packages = bundle.versions()["packages"]
    assert isinstance(packages, dict)
    assert "aiohttp" in packages


def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_text("first line\nsecond line\nthird\n")
    assert bundle.tail_of(log) == "first line\nsecond line\nthird\n"
    monkeypatch.setattr(bundle, "LOG_TAIL_BYTES", 12)
    assert bundle.tail_of(log) == "third\n"


def test_the_archive_is_for_this_user_alone_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    bundle.write(path, {"a/b.txt": b"content"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["wukong-doctor/a/b.txt"]
    with pytest.raises(FileExistsError):
        bundle.write(path, {})
