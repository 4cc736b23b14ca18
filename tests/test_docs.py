"""The documentation: what it says to type works, what it links to is there, what is generated is not stale."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from tests.cli.cluster.dev_process import free_base_port
from tests.compat import js_client
from tests.support.pages import (
    ROOT,
    Block,
    PageFailed,
    anchors_of,
    blocks_of,
    headings_of,
    is_told,
    links_of,
    prose_of,
    sandbox,
)
from wukong.cli.main import app

DOCS = ROOT / "docs"
TOP = ["README.md", "README_CN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md"]
PAGES = sorted([*(ROOT / name for name in TOP), *DOCS.rglob("*.md")])
RUN_PAGES = [page for page in PAGES if any(block.words for block in blocks_of(page.read_text()))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# Nodes of a page's cluster, and those that it adds.
NODES = 5
# Words that a call may leave out: `wukong backup DIR` is `wukong backup take DIR`.
LEFT_OUT = {"backup": "take"}
PLACES = re.compile(r"`((?:tests|scripts|docs|benchmarks|wukong|examples|deploy|config|changes)/[\w./-]*\w)`")


def page_of(name: str) -> str:
    return (ROOT / name).read_text()


# -- what is to be typed --


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [page.relative_to(ROOT).as_posix() for page in RUN_PAGES if page.name != "README_CN.md"]
)
def test_what_a_page_says_to_type_works_in_its_order(name: str, tmp_path: Path) -> None:
    blocks = blocks_of(page_of(name))
    if any(block.language == "js" and block.is_run for block in blocks):
        js_client.install()
    with sandbox(tmp_path, free_base_port(NODES)) as place:
        for block in blocks:
            try:
                place.do(block)
            except PageFailed as failure:
                raise PageFailed(f"{name}, {failure}") from None


@pytest.mark.parametrize("name", NAMES)
def test_python_in_a_page_can_be_compiled(name: str) -> None:
    for block in blocks_of(page_of(name)):
        if block.language == "python":
            compile(block.text, f"{name}:{block.line}", "exec")


def commands_of(block: Block) -> list[list[str]]:
    """The calls of `wukong` in a block, without what a shell takes away."""
    found = []
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        call = re.match(r"^(?:\.venv/bin/|docker compose exec \w+ )?wukong +(.*)$", line)
        if call:
            words = shlex.split(call[1], comments=True)
            end = next((at for at, word in enumerate(words) if word in ("|", ">", "&", "&&")), len(words))
            found.append(words[:end])
    return found


def why_unknown(words: list[str]) -> str:
    """What of a call the command line does not know, "" if it knows all."""
    command: Any = typer.main.get_command(app)  # any: typer has a copy of click inside
    rest = list(words)
    while subcommands := getattr(command, "commands", {}):
        if rest and rest[0] not in subcommands and command.name in LEFT_OUT:
            rest.insert(0, LEFT_OUT[command.name])
        if not rest or rest[0] not in subcommands:
            return "" if rest == ["--help"] else f"no command {rest[:1]}"
        command = subcommands[rest.pop(0)]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    known |= {"--help", "-h"}
    unknown = [word for word in rest if word.startswith("-") and word != "-" and word.partition("=")[0] not in known]
    return f"no option {unknown}" if unknown else ""


@pytest.mark.parametrize("name", NAMES)
def test_every_call_of_wukong_in_a_page_is_one_that_there_is(name: str) -> None:
    blocks = [block for block in blocks_of(page_of(name)) if block.language == "sh"]
    wrong = [
        f"{' '.join(words)}: {why}" for block in blocks for words in commands_of(block) if (why := why_unknown(words))
    ]
    assert wrong == []


def test_a_call_that_there_is_not_is_found() -> None:
    assert why_unknown(["channel", "add", "lunch", "carol"]) == ""
    assert why_unknown(["channel", "invite", "lunch"]) != ""
    assert why_unknown(["serve", "--port", "1"]) != ""
    [call] = commands_of(Block("sh", (), "wukong serve --config wk.yaml   # a comment\n", 1))
    assert call == ["serve", "--config", "wk.yaml"]


# -- the ways between pages --


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_to_a_page_and_a_part_that_are_there(name: str) -> None:
    page = ROOT / name
    dead = []
    for target in links_of(page.read_text()):
        path, _, anchor = target.partition("#")
        leads_to = page.parent / path if path else page
        if not leads_to.exists() or (anchor and anchor not in anchors_of(leads_to.read_text())):
            dead.append(target)
    assert dead == []


def leads(page: Path) -> set[Path]:
    return {(page.parent / target.partition("#")[0]).resolve() for target in links_of(page.read_text())}


def test_the_index_names_every_page() -> None:
    linked = leads(DOCS / "README.md")
    assert [each.relative_to(DOCS).as_posix() for each in sorted(DOCS.rglob("*.md"))
            if each not in linked and each != DOCS / "README.md"] == []  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/") and name != "docs/README.md"])
def test_every_page_leads_to_the_index(name: str) -> None:
    assert DOCS / "README.md" in leads(ROOT / name), "begin it with: [Documentation](README.md) > Title"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_a_page_names_is_there(name: str) -> None:
    named = PLACES.findall(prose_of(page_of(name)))
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_a_page_names_is_there(name: str) -> None:
    named = re.findall(r"python -m ((?:tests|benchmarks|wukong)(?:\.\w+)*\w)", page_of(name))
    missing = [each for each in named if importlib.util.find_spec(each) is None]
    assert missing == []


# -- the README in two languages --


def test_the_chinese_readme_has_the_same_parts_blocks_and_links() -> None:
    english, chinese = page_of("README.md"), page_of("README_CN.md")
    assert [level for level, _ in headings_of(chinese)] == [level for level, _ in headings_of(english)]
    assert [block[:3] for block in blocks_of(chinese)] == [block[:3] for block in blocks_of(english)]
    other = {"README.md": "README_CN.md", "README_CN.md": "README.md"}
    assert [other.get(each, each) for each in links_of(chinese)] == links_of(english)


def test_the_chinese_readme_has_the_same_rows_with_the_same_tests() -> None:
    def shown(name: str) -> list[list[str]]:
        return [
            re.findall(r"`([^`]+)`", row.split("|")[-2]) for row in re.findall(r"^\|.*\|$", page_of(name), re.MULTILINE)
        ]

    assert shown("README_CN.md") == shown("README.md")


# -- figures, and what is generated --


def test_every_figure_of_the_performance_page_is_one_of_the_benchmarks() -> None:
    known = page_of("benchmarks/README.md")
    rows = re.findall(r"^\|(.*)\|$", page_of("docs/performance.md"), re.MULTILINE)
    figures = [cell.strip() for row in rows for cell in row.split("|")[1:] if re.match(r"[\d.,]+ ?", cell.strip())]
    assert len(figures) > 20
    assert [each for each in figures if each not in known] == []


def api_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_docs", ROOT / "scripts/api_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_api_is_not_stale() -> None:
    assert page_of("docs/api.md") == api_docs().page(), "run scripts/generate-api-docs"


# -- the machinery --


def test_blocks_know_their_words_and_their_output() -> None:
    page = "# A\n\n```sh run\necho hi\n```\n\n```text\nh…\n```\n\n```python\npass\n```\n"
    first, second = blocks_of(page)
    assert first == Block("sh", ("run",), "echo hi\n", 3, ("h…",))
    assert second.words == () and second.output == ()


def test_output_is_compared_in_its_order() -> None:
    assert is_told(("a", "b … d"), "x a\nb c d\n")
    assert not is_told(("b", "a"), "a\nb\n")


def test_anchors_are_those_of_github() -> None:
    page = "# One `two`\n## Is it? Yes!\n## Is it? Yes!\n```sh\n# no heading\n```\n"
    assert anchors_of(page) == {"one-two", "is-it-yes", "is-it-yes-1"}


def test_a_block_that_fails_or_says_something_else_is_told(tmp_path: Path) -> None:
    with sandbox(tmp_path, free_base_port(1)) as place:
        place.do(Block("sh", ("run",), "echo one\n", 1, ("one",)))
        with pytest.raises(PageFailed, match="line 7"):
            place.do(Block("sh", ("run",), "echo one\n", 7, ("two",)))
        with pytest.raises(PageFailed, match="exit status 3"):
            place.do(Block("sh", ("run",), "exit 3\n", 7))
        with pytest.raises(PageFailed, match="nobody knows"):
            place.do(Block("sh", ("walk",), "", 7))
