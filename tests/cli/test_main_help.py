"""Every verb that there is: its help, its example, its --json. Nothing is listed here, so none can be forgotten."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from typer.main import get_command

from tests.cli.conftest import Wukong
from tests.support.server import ServerProcess
from wukong.cli.main import app

WITHOUT_RESULT = {"serve", "chat"}
"""They run until they are ended; what they print is a log or a conversation."""

# In this order; what a later one needs an earlier one made.
STORY = (
    "version",
    "completion",
    "config check",
    "doctor",
    "channel create",
    "channel add",
    "send",
    "channel members",
    "channel info",
    "cluster status",
    "top",
    "retention set",
    "retention show",
    "retention run",
    "retention clear",
    "retention default set",
    "retention default clear",
    "backup take",
    "backup list",
    "backup verify",
    "channel remove",
    "channel delete",
)


class Verb(NamedTuple):
    path: tuple[str, ...]
    command: click.Command

    @property
    def name(self) -> str:
        return " ".join(self.path)

    @property
    def examples(self) -> list[str]:
        """Command lines of its help: what follows a colon and is `wukong`, or leads to it by a pipe."""
        return re.findall(r"^[^:\n]+: ((?:\w+ \| )?wukong .+)$", self.command.help or "", re.MULTILINE)


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[Verb]:
    if not hasattr(command, "commands"):
        yield Verb(path, command)
        return
    for name, below in command.commands.items():
        yield from verbs(below, (*path, name))


PROGRAM = get_command(app)
VERBS = list(verbs(PROGRAM))
EXAMPLES = [(verb, example) for verb in VERBS for example in verb.examples]


def words(example: str) -> list[str]:
    """What a shell would give to the program: behind its name, without pipes and redirections."""
    line = re.sub(r"\$\([^)]*\)", "1", example.rpartition("|")[2].partition(">")[0])
    return shlex.split(line)[1:]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_an_example_of_itself(verb: Verb) -> None:
    # `wukong backup DIR` is short for `wukong backup take DIR`.
    short = verb.path[:-1] if verb.path[-1] == "take" else verb.path
    assert verb.examples
    for example in verb.examples:
        assert tuple(words(example)[: len(short)]) == short, example


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_with_a_result_speaks_json(verb: Verb) -> None:
    options = {option for parameter in verb.command.params for option in parameter.opts}
    assert ("--json" in options) != (verb.name in WITHOUT_RESULT)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_option_and_argument_is_explained(verb: Verb) -> None:
    silent = [parameter.name for parameter in verb.command.params if not getattr(parameter, "help", None)]
    assert silent == []


@pytest.mark.parametrize(("verb", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_is_a_command_line_that_the_program_understands(
    verb: Verb, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("uids.txt").touch()
    given = words(example)[len(verb.path) - (verb.path[-1] == "take") :]
    with verb.command.make_context(verb.name, list(given)) as context:
        assert context.params


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("help"))
    process.start()
    yield process
    process.stop()


def test_examples_that_need_a_server_alone_work(
    fresh: ServerProcess, wukong: Wukong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WUKONG_API", fresh.http_url)
    monkeypatch.setenv("WUKONG_TCP", f"127.0.0.1:{fresh.tcp_port}")
    shutil.copy(fresh.directory / "wk.yaml", "wk.yaml")
    shutil.copy(fresh.log_path, "server.log")
    by_name = {verb.name: verb for verb in VERBS}
    told: dict[str, str] = {}
    for name in STORY:
        for example in by_name[name].examples:
            if name == "top" and "--once" not in example:
                continue  # goes on until it is ended
            here = re.sub(
                r"http://node1:5001,http://node2:5001|http://(127\.0\.0\.1|node1):5001", fresh.http_url, example
            )
            result = wukong(*words(here.replace("/backups", str(tmp_path / "backups"))), text="a line\n")
            if result.exit_code != 0:
                told[example] = result.output
    assert told == {}
