"""Where in its file a key stands, for faults that name one."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from wukong.limits import MAX_CONFIG_FILE_BYTES


def located(texts: Iterable[str], path: Path | None) -> list[str]:
    """`httpAddr: is wrong` becomes `wk.yaml:3: httpAddr: is wrong` where the key stands in that line of the file."""
    lines = key_lines(path) if path is not None else {}
    return [_located(text, path, lines) for text in texts]


def _located(text: str, path: Path | None, lines: dict[str, int]) -> str:
    key, colon, _ = text.partition(":")
    line = lines.get(key.lower()) if colon else None
    return text if line is None else f"{path}:{line}: {text}"


def key_lines(path: Path) -> dict[str, int]:
    """Lower-case key path -> line, from 1. Empty for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_FILE_BYTES).decode("utf-8-sig")
        found = _toml_lines(text) if path.suffix.lower() == ".toml" else _yaml_lines(yaml.compose(text), "")
        return {key.lower(): line for key, line in found}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}


def _yaml_lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            path = f"{prefix}{key.value}"
            yield path, key.start_mark.line + 1
            yield from _yaml_lines(value, f"{path}.")


def _toml_lines(text: str) -> Iterator[tuple[str, int]]:
    """Tables and keys that begin a line; tomllib tells no lines. Keys inside of inline tables are not found."""
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            prefix = _plain(match[1]) + "."
        elif match := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            yield prefix + _plain(match[1]), number


def _plain(name: str) -> str:
    return re.sub(r"[\"'\s]", "", name)
