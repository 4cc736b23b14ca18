"""Rules about the tree itself: what belongs together is there, documented, executable and free of traces."""

import os
import re
import subprocess
from pathlib import Path
from typing import cast

import pytest

from wukong.config import Key, config_keys, load_config
from wukong.config.load import _UNSERVED, IGNORED_KEYS, _gather
from wukong.config.values import Raw

ROOT = Path(__file__).parents[1]
# Suites that look at the whole server rather than at one module.
WHOLE_SERVER = {"simulation", "cluster", "compat", "scenarios"}
# Tests of a package as a whole: one suite for several modules with the same interface, golden cases.
WITHOUT_MODULE = {"tests/store/test_conformance.py", "tests/test_docs.py", "tests/test_repository.py"}
EXECUTABLE = [
    *("scripts/check", "scripts/format", "scripts/serve", "scripts/test"),
    *("scripts/demo-missed-subscriber", "scripts/soak-kill", "scripts/soak-cluster", "scripts/test-compose", ".ci/run"),
    "scripts/generate-api-docs",
]
CHANGE_KINDS = {"added", "changed", "fixed", "removed", "security"}


def files_of_the_project() -> list[Path]:
    """Tracked files, and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def documented_rows() -> dict[str, str]:
    """Key -> default, as the tables of the configuration page have them."""
    text = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| *(.*?) *\| ", text, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a key is documented twice"
    return dict(rows)


def shown_default(key: Key) -> str:
    shown = "" if key.default is None else key.kind.show(key.default)
    if isinstance(shown, bool):
        return str(shown).lower()
    return " ".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def test_every_test_file_mirrors_a_module() -> None:
    strangers = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        package = path.parent.relative_to(ROOT / "tests")
        if name in WITHOUT_MODULE or (package.parts and package.parts[0] in WHOLE_SERVER):
            continue
        # test_<module>.py, or test_<module>_<aspect>.py
        words = path.stem.removeprefix("test_").split("_")
        candidates = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        folder = ROOT / "wukong" / package
        if not any((folder / f"{each}.py").is_file() or (folder / each).is_dir() for each in candidates):
            strangers.append(name)
    assert strangers == [], "name them after their module, or list them in WITHOUT_MODULE"


def test_the_configuration_page_lists_exactly_the_keys_that_have_an_effect() -> None:
    assert list(documented_rows().keys() ^ {key.path for key in config_keys()}) == []


@pytest.mark.parametrize("key", config_keys(), ids=lambda key: key.path)
def test_the_configuration_page_states_the_default(key: Key) -> None:
    documented = documented_rows()[key.path].replace("\\*", "*")
    if documented != "derived":
        assert documented == shown_default(key)


def test_the_configuration_page_lists_the_keys_that_are_ignored() -> None:
    _, _, section = (ROOT / "docs/configuration.md").read_text().partition("## Keys of WuKongIM without a meaning here")
    named = set(re.findall(r"`([^`]+)`", section))
    assert {each.lower() for each in named} == {*(pattern.lower() for pattern in IGNORED_KEYS), *_UNSERVED}


def test_the_sample_configuration_starts_a_node_without_warnings() -> None:
    _, warnings = load_config(ROOT / "config/wk.yaml", {"HOME": "/home/op"}, embedded=False)
    assert warnings == []


def test_the_sample_configuration_has_known_keys_and_comments_out_their_defaults(tmp_path: Path) -> None:
    examples = ("mode", "httpAddr", "wssAddr", "wssConfig.", "external.", "webhook.", "cluster.")
    uncommented = tmp_path / "wk.yaml"
    uncommented.write_text(re.sub(r"^#(?=\S|  )", "", (ROOT / "config/wk.yaml").read_text(), flags=re.MULTILINE))
    keys = {key.path.lower(): key for key in config_keys()}
    settings = _gather(uncommented, {}, [])
    assert len(settings) > 20
    for lowered, setting in settings.items():
        key = keys[lowered]
        if not key.path.startswith(examples) and key.path != "rootDir" and not setting.is_empty:
            assert key.kind.read(cast("Raw", setting.raw)) == key.default, key.path


@pytest.mark.parametrize("name", EXECUTABLE)
def test_a_script_can_be_executed_and_stops_at_the_first_surprise(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert any(line.startswith("set -") and "u" in line and "pipefail" in line for line in lines)
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)


def test_no_file_names_a_place_of_one_machine() -> None:
    # Put together here, so that this file does not find itself.
    places = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["w" + "ork", "r" + "oot", "ho" + "me/(?!op\\b)\\w+"]) + r")/")
    found = []
    for path in files_of_the_project():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in places.finditer(text)]
    assert found == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in files_of_the_project()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_what_the_readme_claims_is_shown_by_a_test_that_is_there() -> None:
    table = re.findall(r"^\| [^|]+ \| (`tests/[^|]+`) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    rows = [row for cell in table for row in re.findall(r"`([^`]+)`", cell)]
    assert rows
    assert [row for row in rows if not list((ROOT / row).rglob("test_*.py")) and not (ROOT / row).is_file()] == []


def test_every_runtime_dependency_has_its_line() -> None:
    declared = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )
    assert declared
    names = set(re.findall(r'"([\w-]+==[\w.]+)"', declared[1]))
    table = re.findall(r"^\| ([\w-]+ [\w.]+) \|", (ROOT / "docs/design/dependencies.md").read_text(), re.MULTILINE)
    assert {row.replace(" ", "==") for row in table} == names


def test_a_change_fragment_says_its_kind() -> None:
    fragments = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [name for name in fragments if not re.fullmatch(rf"[\w-]+\.({'|'.join(CHANGE_KINDS)})\.md", name)] == []
