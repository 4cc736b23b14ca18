"""Makes docs/api.md from the table of routes (wukong/api/openapi.py). Run it by scripts/generate-api-docs.

tests/test_docs.py says when the page is stale.
"""

import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wukong.api.openapi import OPERATIONS, document

PAGE = Path(__file__).parents[1] / "docs/api.md"

Schema = dict[str, Any]  # any: JSON
Methods = list[tuple[str, Schema]]

_HEAD = """# HTTP API

[Documentation](README.md) > HTTP API

Every route, what it takes and what it answers. This page is made by `scripts/generate-api-docs` from the structs that
the handlers read. A test fails when it is stale (`tests/test_docs.py`), and another one holds a server's answers
against the same schemas (`tests/api/test_openapi.py`). A running server shows the same at `/docs` and as OpenAPI 3.1 at
`/docs/openapi.json`, unless `mode` is `release`.

What differs from WuKongIM v2.2.5, route by route: [compatibility.md](compatibility.md). Who may call what:
[security.md](security.md).

- The API listens at `httpAddr`. If `managerToken` is set, every request carries it in the header `token`, else
  it gets 401.
- Bodies are JSON, whatever their content type. Null counts as absent, for any field and for the whole body. Keys match
  in any letter case, unknown ones are passed over. A flag is on when it is 1.
- Payloads are base64, or an array of bytes.
- Besides what is listed every route may answer 400 (refused, nothing was changed) and 503 (not now: try again) with
  [Refusal](#refusal), 401, and on POST 413 (the body is too large).
- Lists, bodies and answers have limits: [configuration.md](configuration.md).
"""
_SHAPES = "Shapes"
_USUAL = {"200", "400", "401", "413", "503"}
_BOUNDS = {
    (-(2**63), 2**63 - 1): "integer",
    (0, 2**64 - 1): "integer, not negative",
    (0, 2**32 - 1): "integer, 32 bits, not negative",
}


def page() -> str:
    """The whole of docs/api.md."""
    found = document((each.method, each.path) for each in OPERATIONS)
    groups: dict[str, list[tuple[str, Methods]]] = {}
    for path, methods in found["paths"].items():
        first = next(iter(methods.values()))
        groups.setdefault(first["tags"][0], []).append((path, list(methods.items())))
    parts = ", ".join(f"[{name}](#routes-{name})" for name in groups)
    lines = [
        _HEAD,
        f"Routes by their first part: {parts}. Behind them the [shapes](#{_SHAPES.lower()}) that they name.",
        "",
    ]
    for name, paths in groups.items():
        lines += [f"## Routes: {name}", ""]
        for path, methods in paths:
            for together in _alike(methods):
                lines += [*_route(path, together), ""]
    lines += [f"## {_SHAPES}", "", "A field with a default may be left out. Others are always there in answers.", ""]
    for name, schema in found["components"]["schemas"].items():
        lines += [f"### {name}", "", *_shape(schema), ""]
    return "\n".join(lines).rstrip() + "\n"


def _alike(methods: Methods) -> Iterator[Methods]:
    """Methods of a path that do the same, together."""
    by_summary: dict[str, Methods] = {}
    for method in methods:
        by_summary.setdefault(method[1]["summary"], []).append(method)
    yield from by_summary.values()


def _route(path: str, methods: Methods) -> Iterator[str]:
    operation = methods[0][1]
    yield f"### {', '.join(name.upper() for name, _ in methods)} {path}"
    yield ""
    yield f"{operation['summary']}."
    yield ""
    queries = [each for each in operation.get("parameters", []) if each["in"] == "query"]
    if queries:
        yield "| query | type | |"
        yield "| --- | --- | --- |"
        for each in queries:
            needed = ["needed"] if each["required"] else []
            text = "; ".join([*needed, *([each["description"]] if "description" in each else [])])
            yield f"| `{each['name']}` | {_type(each['schema'])} | {_cell(text)} |"
        yield ""
    if "requestBody" in operation:
        yield f"- Body: {_content(operation['requestBody'])}"
    responses = operation["responses"]
    if "200" in responses:
        yield f"- Answer: {_content(responses['200'])}"
    for status, response in responses.items():
        if status not in _USUAL:
            yield f"- {status}: {_content(response) if 'content' in response else response['description'].lower()}"


def _content(described: Schema) -> str:
    [(kind, content)] = described["content"].items()
    return _type(content["schema"]) if kind == "application/json" else f"`{kind}`"


def _shape(schema: Schema) -> Iterator[str]:
    if "description" in schema:
        yield from _text(inspect.cleandoc(schema["description"]))
        yield ""
    if not schema.get("properties"):
        yield f"{_type(schema)}."
        return
    required = schema.get("required", [])
    yield "| field | type | default |"
    yield "| --- | --- | --- |"
    for name, field in schema["properties"].items():
        yield f"| `{name}` | {_type(field)} | {_default(name, field, required)} |"


def _text(description: str) -> Iterator[str]:
    """As it is; what is a table by its columns stays one."""
    lines = description.splitlines()
    for is_table, group in itertools.groupby(lines, key=lambda line: re.search(r"\S {2,}\S", line) is not None):
        told = list(group)
        yield from ["```text", *told, "```"] if is_table else told


def _default(name: str, field: Schema, required: list[str]) -> str:
    if name in required:
        return ""
    default = field.get("default")
    if default in (None, "", [], {}) or isinstance(default, dict):
        return "empty" if default is not None else "absent"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "any JSON")
    if kind == "array":
        # The parts of a fixed list are told by their types, in order.
        parts = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {', '.join(map(_type, parts))}"
    if kind == "integer" and "minimum" in schema:
        bounds = schema["minimum"], schema["maximum"]
        return _BOUNDS.get(bounds, "integer, {} to {}".format(*bounds))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f"object of {_type(schema['additionalProperties'])}"
    return "base64" if schema.get("contentEncoding") == "base64" else str(kind)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
