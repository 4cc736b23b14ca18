"""The language of the recorded cases: placeholders in requests, matchers in expectations.

A plain value must be equal, type included. An object matches when its listed keys match and there are no others, unless
it has `"$open": true`. An array must have the same length and order. Matchers are objects with one key that starts with
`$`; two of them side by side both have to hold. `http/README.md` has the list.
"""

import base64
import itertools
import json
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

# Any, here and below: JSON values.
Json = Any
Scope = dict[str, Any]
"""What a case knows: run, i, options (addresses), vars (bound by `$var`)."""

FLAVOUR = "wukong"


class Mismatch(Exception):
    """The server did not do what the case expects; lines say what."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Missing:
    pass


MISSING = _Missing()

_PLACEHOLDER = re.compile(r"\{(run|i|now_s|now_ms|tcp|ws)\}|\{(var|stored|second|slot0|fnv):([^{}]*)\}")
_TYPES: dict[str, Callable[[Json], bool]] = {
    "int": lambda v: type(v) is int,
    "string": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
}


# -- placeholders --


def _stored_person_id(a: str, b: str) -> str:
    return f"{a}@{b}" if zlib.crc32(a.encode()) > zlib.crc32(b.encode()) else f"{b}@{a}"


def _fnv1a_64(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _uid_in_slot_0(prefix: str) -> str:
    return next(uid for n in itertools.count() if zlib.crc32((uid := f"{prefix}s{n}").encode()) % 64 == 0)


def _placeholder(name: str | None, function: str, argument: str, scope: Scope) -> str:
    if name in ("tcp", "ws"):
        return str(scope["options"][name])
    if name == "now_s":
        return str(int(time.time()))
    if name == "now_ms":
        return str(int(time.time() * 1000))
    if name:
        return str(scope[name])
    if function == "var":
        return str(scope["vars"][argument])
    if function == "slot0":
        return _uid_in_slot_0(argument)
    if function == "fnv":
        return str(_fnv1a_64(argument))
    stored = _stored_person_id(*argument.split("|"))
    return stored if function == "stored" else stored.partition("@")[2]


def fill_text(text: str, scope: Scope) -> str:
    # Arguments of functions may hold placeholders themselves.
    for _ in range(4):
        filled = _PLACEHOLDER.sub(lambda found: _placeholder(found[1], found[2], found[3], scope), text)
        if filled == text:
            break
        text = filled
    return text


def fill(value: Json, scope: Scope) -> Json:
    """Placeholders everywhere, and the operators that make values in requests."""
    if isinstance(value, str):
        return fill_text(value, scope)
    if isinstance(value, list):
        return [fill(item, scope) for item in value]
    if not isinstance(value, dict):
        return value
    if "$b64" in value:
        text = fill(value["$b64"], scope)
        text = text if isinstance(text, str) else json.dumps(text, separators=(",", ":"), ensure_ascii=False)
        return base64.b64encode(text.encode()).decode()
    if "$var" in value:
        return scope["vars"][value["$var"]]
    if "$plus" in value:
        name, number = value["$plus"]
        return scope["vars"][name] + number
    if "$times" in value and isinstance(value["$times"][0], str) and value["$times"][0] not in scope["vars"]:
        text, count = value["$times"]
        return text * count
    if "$count" in value:
        text, first, last = value["$count"]
        return [fill(text, {**scope, "i": n}) for n in range(first, last + 1)]
    return {fill_text(key, scope): fill(item, scope) for key, item in value.items()}


# -- matchers --


def short(value: Json) -> str:
    if value is MISSING:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "…"


def match(expected: Json, got: Json, scope: Scope, path: str = "$") -> list[str]:
    """Differences as readable lines; none when it matches. Binds variables in scope["vars"] at first sight."""
    if isinstance(expected, dict):
        operators = [key for key in expected if key.startswith("$") and key != "$open"]
        if operators:
            return [line for name in operators for line in _match_operator(name, expected[name], got, scope, path)]
        return _match_object(expected, got, scope, path)
    if isinstance(expected, list):
        return _match_list(expected, got, scope, path)
    if isinstance(expected, str):
        expected = fill_text(expected, scope)
    if type(expected) is not type(got) or expected != got:
        return [f"{path}: expected {short(expected)}, got {short(got)}"]
    return []


def _match_object(expected: dict[str, Json], got: Json, scope: Scope, path: str) -> list[str]:
    if not isinstance(got, dict):
        return [f"{path}: expected an object, got {short(got)}"]
    differences: list[str] = []
    seen = set()
    for key, value in expected.items():
        if key == "$open":
            continue
        key = fill_text(key, scope)
        seen.add(key)
        optional = isinstance(value, dict) and "$optional" in value
        if key not in got and (optional or (isinstance(value, dict) and value.get("$absent"))):
            continue
        wish = value["$optional"] if optional else value
        differences += match(wish, got.get(key, MISSING), scope, f"{path}.{key}")
    if not expected.get("$open"):
        differences += [f"{path}.{key}: unexpected, got {short(v)}" for key, v in got.items() if key not in seen]
    return differences


def _match_list(expected: list[Json], got: Json, scope: Scope, path: str) -> list[str]:
    if not isinstance(got, list):
        return [f"{path}: expected an array, got {short(got)}"]
    if len(expected) != len(got):
        return [f"{path}: expected {len(expected)} elements, got {len(got)}: {short(got)}"]
    pairs = enumerate(zip(expected, got, strict=True))
    return [line for n, (wish, item) in pairs for line in match(wish, item, scope, f"{path}[{n}]")]


def match_any_order(expected: list[Json], got: Json, scope: Scope, path: str = "$", *, exact: bool = True) -> list[str]:
    """Every expected element has its own partner in `got`; exact: none is left over."""
    if not isinstance(got, list):
        return [f"{path}: expected an array, got {short(got)}"]
    if exact and len(expected) != len(got):
        return [f"{path}: expected {len(expected)} elements, got {len(got)}: {short(got)}"]
    closest: list[list[str]] = []

    def assign(index: int, free: list[int]) -> bool:
        if index == len(expected):
            return True
        before = dict(scope["vars"])
        found = []
        for position in free:
            differences = match(expected[index], got[position], scope, f"{path}[{position}]")
            if not differences and assign(index + 1, [other for other in free if other != position]):
                return True
            found.append(differences)
            scope["vars"].clear()
            scope["vars"].update(before)
        best = min((lines for lines in found if lines), key=len, default=[f"{path}: nothing left for it"])
        if not closest:
            closest.append([f"{path}: no element matches {short(expected[index])}; closest:", *best])
        return False

    return [] if assign(0, list(range(len(got)))) else closest[0]


def _match_operator(name: str, argument: Json, got: Json, scope: Scope, path: str) -> list[str]:
    if name == "$any":
        return _unless(got is not MISSING, "a value", got, path)
    if name == "$absent":
        return _unless(got is MISSING, "(absent)", got, path)
    if got is MISSING:
        return [f"{path}: expected {name} {short(argument)}, got (absent)"]
    if name in _NESTED:
        return _NESTED[name](argument, got, scope, path)
    if name not in _SIMPLE:
        raise ValueError(f"unknown matcher {name}")
    holds, wish = _SIMPLE[name](argument, got, scope, path)
    return _unless(holds, wish, got, path)


def _unless(holds: bool, wish: object, got: Json, path: str) -> list[str]:
    return [] if holds else [f"{path}: expected {wish}, got {short(got)}"]


# Matchers that say whether a value holds, and what was wished.


def _type(argument: str, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    return _TYPES[argument](got), f"a value of type {argument}"


def _variable(argument: str, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    bound = scope["vars"].setdefault(argument, got)
    return bound == got and type(bound) is type(got), f"{short(bound)} (variable {argument})"


def _text_of(argument: str, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    wish = str(scope["vars"].get(argument))
    return got == wish, f'"{wish}"'


def _plus(argument: list[Any], got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    wish = scope["vars"][argument[0]] + argument[1]
    return got == wish, wish


def _times(argument: list[Any], got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    wish = scope["vars"][argument[0]] * argument[1]
    return got == wish, wish


def _not(argument: Json, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    return bool(match(argument, got, scope, path)), f"anything but {short(argument)}"


def _regex(argument: str, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    pattern = fill_text(argument, scope)
    return isinstance(got, str) and re.fullmatch(pattern, got, re.DOTALL) is not None, f"text like /{pattern}/"


def _range(argument: list[Any], got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    low, high = argument
    return _TYPES["number"](got) and low <= got <= high, f"{low}..{high}"


def _length(argument: int, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    return hasattr(got, "__len__") and len(got) == argument, f"length {argument}"


def _near_now(scale: float) -> Callable[[float, Json, Scope, str], tuple[bool, object]]:
    def holds(argument: float, got: Json, scope: Scope, path: str) -> tuple[bool, object]:
        return type(got) is int and abs(got - time.time() * scale) <= argument, f"now ± {argument}"

    return holds


def _one_of(argument: list[Json], got: Json, scope: Scope, path: str) -> tuple[bool, object]:
    tries = [match(wish, got, scope, path) for wish in argument]
    return any(not lines for lines in tries), "one of " + short(argument)


_SIMPLE: dict[str, Callable[[Any, Json, Scope, str], tuple[bool, object]]] = {
    "$type": _type,
    "$var": _variable,
    "$str_of": _text_of,
    "$plus": _plus,
    "$times": _times,
    "$not": _not,
    "$re": _regex,
    "$range": _range,
    "$len": _length,
    "$approx_now_s": _near_now(1),
    "$approx_now_ms": _near_now(1e3),
    "$approx_now_ns": _near_now(1e9),
    "$oneof": _one_of,
}


# Matchers that look into a value.


def _base64(argument: Json, got: Json, scope: Scope, path: str) -> list[str]:
    try:
        text = base64.b64decode(got, validate=True).decode()
    except (ValueError, TypeError):
        return [f"{path}: expected base64 text, got {short(got)}"]
    return match(argument, text, scope, path + "(base64)")


def _base64_json(argument: Json, got: Json, scope: Scope, path: str) -> list[str]:
    try:
        value = json.loads(base64.b64decode(got, validate=True))
    except (ValueError, TypeError):
        return [f"{path}: expected base64 of JSON, got {short(got)}"]
    return match(argument, value, scope, path + "(json)")


def _json_text(argument: Json, got: Json, scope: Scope, path: str) -> list[str]:
    try:
        value = json.loads(got)
    except (ValueError, TypeError):
        return [f"{path}: expected JSON text, got {short(got)}"]
    return match(argument, value, scope, path + "(json)")


def _each(argument: Json, got: Json, scope: Scope, path: str) -> list[str]:
    if not isinstance(got, list):
        return [f"{path}: expected an array, got {short(got)}"]
    return [line for n, item in enumerate(got) for line in match(argument, item, scope, f"{path}[{n}]")]


_NESTED: dict[str, Callable[[Any, Json, Scope, str], list[str]]] = {
    "$flavour": lambda argument, got, scope, path: match(argument[FLAVOUR], got, scope, path),
    "$b64": _base64,
    "$b64json": _base64_json,
    "$json": _json_text,
    "$unordered": match_any_order,
    "$contains": lambda argument, got, scope, path: match_any_order(argument, got, scope, path, exact=False),
    "$each": _each,
    "$optional": match,
    "$count": lambda argument, got, scope, path: match(fill({"$count": argument}, scope), got, scope, path),
}
