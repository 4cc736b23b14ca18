"""`wukong import` as an operator calls it: options, report, exit status."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Wukong
from tests.compat.old_server import OldData, OldServer, Talk
from tests.support.server import ServerProcess
from tests.support.wire import unique
from wukong.cli.import_v2 import calls


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSES_S", (0.001,))


@contextlib.contextmanager
def serving(data: OldData, *, token: str = "", cluster: bool = True) -> Iterator[str]:
    """In a thread of its own, for commands that run a loop; gives the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = OldServer(data, token=token, cluster=cluster)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        yield server.url
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def a_group(messages: int = 3) -> tuple[OldData, str, str]:
    """Data with one group, its id, and the uid of its member."""
    data, group, uid = OldData(), unique("g"), unique("u")
    for seq in range(1, messages + 1):
        data.append((2, group), uid, b"m%d" % seq, number=f"n{seq}", second=1_760_000_000, message_id=(1 << 50) + seq)
    data.members = {(2, group): [uid]}
    data.talks = {uid: {(2, group): Talk(1)}}
    return data, group, uid


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("")
    return path


def test_the_report_shows_both_sides(on_node: Wukong, node: ServerProcess, users: Path) -> None:
    data, group, _ = a_group()
    with serving(data) as url:
        result = on_node("import", "--from", url, "--users", str(users))
    assert result.exit_code == 0, result.output
    assert "1 channels, 3 messages, 1 users, 1 conversations compared: both sides are equal" in result.stdout
    row = next(line for line in result.stdout.splitlines() if group in line)
    assert row.count("3") >= 2 and "equal" in row


def test_the_report_as_json(on_node: Wukong, users: Path) -> None:
    data, group, _ = a_group()
    with serving(data, token="old-secret") as url:
        result = on_node("import", "--from", url, "--from-token", "old-secret", "--users", str(users), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (channel,) = report["channels"]
    assert report["equal"] and report["differences"] == []
    assert channel["channel_id"] == group and channel["fault"] == ""
    assert channel["old"] == channel["new"] == {**channel["old"], "messages": 3, "members": 1}


def test_a_difference_ends_with_status_1_and_advice(on_node: Wukong, users: Path, tmp_path: Path) -> None:
    data, group, _ = a_group()
    listed = tmp_path / "channels"
    listed.write_text(f"2 {group}\n")
    with serving(data, cluster=False) as url:
        result = on_node("import", "--from", url, "--channels", str(listed))
        assert result.exit_code == 1
        assert "members not known" in result.stdout and "What to do:" in result.stdout
        listed.write_text(json.dumps({"channel_id": group, "channel_type": 2, "subscribers": data.members[2, group]}))
        result = on_node("import", "--from", url, "--channels", str(listed))
        assert result.exit_code == 0, result.output


def test_a_call_with_the_same_state_goes_on(on_node: Wukong, users: Path, tmp_path: Path) -> None:
    data, group, uid = a_group()
    with serving(data) as url:
        arguments = ("import", "--from", url, "--users", str(users), "--resume", str(tmp_path / "state"))
        assert on_node(*arguments).exit_code == 0
        data.append((2, group), uid, b"late", number="late", second=1_760_000_000, message_id=1 << 51)
        result = on_node(*arguments)
        assert result.exit_code == 0, result.output
    assert "4 messages" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "--users or --channels is needed"),
        (("--users", "MISSING"), 2, "does not exist"),
        (("--channels", "BAD"), 2, "line 1"),
        (("--users", "USERS"), 3, "Is the server running?"),
    ],
)
def test_what_cannot_be_is_said_in_words(
    wukong: Wukong,
    users: Path,
    unused_address: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("lunch\n")
    places = {"MISSING": str(tmp_path / "missing"), "BAD": str(bad), "USERS": str(users)}
    given = [places.get(each, each) for each in arguments]
    result = wukong("import", "--from", unused_address, "--to", unused_address, *given)
    assert result.exit_code == status, result.output
    assert words in " ".join(result.output.replace("│", " ").split())


def test_a_wrong_token_is_said_in_words(on_node: Wukong, users: Path) -> None:
    with serving(a_group()[0], token="secret") as url:
        result = on_node("import", "--from", url, "--from-token", "wrong", "--users", str(users))
    assert result.exit_code == 1
    assert "401" in result.output


def test_a_state_of_another_import_is_refused(on_node: Wukong, users: Path, tmp_path: Path) -> None:
    with serving(a_group()[0]) as one, serving(a_group()[0]) as other:
        state = str(tmp_path / "state")
        assert on_node("import", "--from", one, "--users", str(users), "--resume", state).exit_code == 0
        result = on_node("import", "--from", other, "--users", str(users), "--resume", state)
    assert result.exit_code == 2
    assert "belongs to an import from" in result.output
