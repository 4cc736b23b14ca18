import asyncio
import json

import pytest
import typer

from wukong.cli.lean import NoLogin
from wukong.cli.output import explain, fail, report, run
from wukong.client import (
    ApiRefused,
    ApiUnavailable,
    ConnectFailed,
    Kicked,
    LoginRefused,
    SendRefused,
    SendTimeout,
)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ApiUnavailable("http://h:1", "/route", "connection refused"), 3, ["http://h:1", "wukong serve", "--api"]),
        (ConnectFailed("h:1", ConnectionRefusedError()), 3, ["h:1", "connection refused", "--tcp"]),
        (NoLogin(0, "cannot connect to h:1"), 3, ["h:1", "--tcp"]),
        (NoLogin(2, "login refused"), 1, ["--user-token"]),
        (LoginRefused(2), 1, ["--user-token"]),
        (LoginRefused(19), 1, ["banned"]),
        (LoginRefused(15), 1, ["ReasonSystemError"]),
        (SendRefused(3, "n"), 1, ["wukong channel add"]),
        (SendRefused(77, "n"), 1, ["77"]),
        (SendTimeout(5, "n"), 1, ["no answer"]),
        (ApiRefused("/channel", 400, 400, "频道ID不能为空！"), 1, ["频道ID不能为空！"]),
        (ApiRefused("/channel", 401, 401, ""), 1, ["--token"]),
        (Kicked(12, "login in other device"), 1, ["login in other device"]),
        (ValueError("x is not host:port"), 2, ["x is not host:port"]),
        (OSError("disk"), 1, ["disk"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_told_in_plain_words(error: Exception, status: int, words: list[str]) -> None:
    text, found = explain(error)
    assert found == status
    assert [word for word in words if word not in text] == []


def test_a_failure_goes_to_stderr_and_for_programs_to_stdout_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        fail(ValueError("wrong"), as_json=True)
    assert caught.value.exit_code == 2
    printed = capsys.readouterr()
    assert printed.err == "wukong: wrong\n"
    assert json.loads(printed.out) == {"error": "wrong"}


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    report({"a": 1}, as_json=False, text=lambda: "one\n")
    report({"a": 1}, as_json=True, text=lambda: "one")
    assert capsys.readouterr().out == 'one\n{"a":1}\n'


def test_a_command_gives_what_its_coroutine_gives() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    assert run(work()) == run(work(), fast_loop=True) == 5


def test_a_fault_of_the_program_is_not_dressed_up() -> None:
    async def work() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(work())
