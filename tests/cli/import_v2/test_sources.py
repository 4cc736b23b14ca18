"""The files that say what to import."""

from pathlib import Path

import pytest

from wukong.cli.import_v2 import sources
from wukong.cli.import_v2.book import Given
from wukong.cli.import_v2.sources import read_channels, read_users


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_users_are_lines_without_blanks_and_repeats(file: Path) -> None:
    file.write_text(" alice\nbob\n\n用户\nalice\n")
    assert read_users(file) == ["alice", "bob", "用户"]


def test_a_channel_is_a_type_and_an_id_or_an_object(file: Path) -> None:
    file.write_text(
        "# channels of the shop\n2 lunch\ngroup with a space\n\n1 bob@alice\n"
        '{"channel_id": "g", "channel_type": 2, "subscribers": ["a"], "ban": 1, "unknown": 5}\n'
    )
    assert read_channels(file) == [
        Given("lunch", 2),
        Given("with a space", 2),
        Given("bob@alice", 1),
        Given("g", 2, subscribers=["a"], ban=True),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lunch", "the type is missing"),
        ("0 lunch", "the type is missing"),
        ("256 lunch", "the type is missing"),
        ("2", "the channel's id is missing"),
        ('{"channel_id": "g"}', "channel_type"),
        ("{", "Input data was truncated"),
        ('{"channel_id": "b@a", "channel_type": 1, "subscribers": ["a"]}', "no subscribers"),
    ],
)
def test_a_bad_line_is_named(file: Path, line: str, words: str) -> None:
    file.write_text(f"2 fine\n{line}\n")
    with pytest.raises(ValueError, match=words) as error:
        read_channels(file)
    assert "line 2" in str(error.value)


def test_a_file_that_is_too_large_or_no_text_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_users(file)
    monkeypatch.setattr(sources, "FILE_LIMIT_BYTES", 1)
    with pytest.raises(ValueError, match="larger than"):
        read_users(file)
