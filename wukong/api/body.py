"""Request bodies, read the way back ends are used to from a Go server. http-api.md 2.4.

A body is described by a msgspec.Struct whose fields are annotated with the types below; every field has a default.
Compared with a strict reader: keys match in any letter case, unknown ones are passed over, null leaves the default,
bytes behind the first value are ignored, bytes fields are base64 or an array of small numbers, and the content type is
not looked at. Integers are integers: 1.0, true and "1" are refused, and so is what the type has no room for.
"""

import binascii
import json
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")


class BodyError(Exception):
    """The body cannot be read; text is what the decoder says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _Range(NamedTuple):
    name: str
    low: int
    high: int


Int = Annotated[int, _Range("int", -(2**63), 2**63 - 1)]
Int64 = Annotated[int, _Range("int64", -(2**63), 2**63 - 1)]
Uint8 = Annotated[int, _Range("uint8", 0, 2**8 - 1)]
Uint32 = Annotated[int, _Range("uint32", 0, 2**32 - 1)]
Uint64 = Annotated[int, _Range("uint64", 0, 2**64 - 1)]

Texts = dict[str, str]
# Any value, as the bytes of its JSON.
Json = Annotated[bytes, json]

# A value as JSON gives it (any: its type is what is being checked) and where it is, to what the field holds.
_Read = Callable[[Any, str], Any]


def read_body(data: bytes, into: type[T]) -> T:
    """`into`: a Struct, or a list of strings (null is then an empty one). Raises BodyError."""
    value = parse(data)
    read = _reader(into)
    return typing.cast("T", read(value, "") if value is not None else _zero(into))


def read_uids(data: bytes) -> list[str] | None:
    """A bare array of uids; None for null. Raises BodyError."""
    value = parse(data)
    return None if value is None else _read_strings(value, "")


def parse(data: bytes) -> Any:
    """The first JSON value of the body, whatever follows. Raises BodyError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Rare: bytes behind the value, text that is no UTF-8, or no JSON at all.
        return _parse_slowly(data.decode("utf-8", "replace").lstrip(" \t\r\n"))


def _no_constant(text: str) -> Any:
    raise BodyError(f"invalid character {text[0]!r} looking for beginning of value")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def _parse_slowly(text: str) -> Any:
    if not text:
        raise BodyError("EOF")
    try:
        return _decoder.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        rest = text[error.pos :].lstrip(" \t\r\n")
        if not rest or error.msg.startswith("Unterminated") or rest in ("t", "tr", "tru", "f", "fa", "fal", "fals"):
            raise BodyError("unexpected EOF") from None
        raise BodyError(f"invalid character {rest[0]!r} at offset {error.pos}") from None
    except RecursionError:
        raise BodyError("exceeded max depth") from None
    except ValueError:
        # Thousands of digits.
        raise BodyError("json: cannot unmarshal number: value out of range") from None


# -- types --


def _kind(value: Any) -> str:
    if value is True or value is False:
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return f"number {value}"
    return "array" if isinstance(value, list) else "object"


def _mismatch(value: Any, where: str, wanted: str) -> BodyError:
    field = f"Go struct field {where} of type {wanted}" if where else f"Go value of type {wanted}"
    return BodyError(f"json: cannot unmarshal {_kind(value)[:100]} into {field}")


def _read_string(value: Any, where: str) -> str:
    if type(value) is not str:
        raise _mismatch(value, where, "string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair is no character.
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def _read_strings(value: Any, where: str) -> list[str]:
    if type(value) is not list:
        raise _mismatch(value, where, "[]string")
    try:
        # The usual case in a few calls, however long the list: texts only, and fit to be written.
        "".join(value).encode()
    except (TypeError, UnicodeEncodeError):
        return ["" if item is None else _read_string(item, where) for item in value]
    return value


def _read_bytes(value: Any, where: str) -> bytes:
    if type(value) is str:
        text = value.replace("\n", "").replace("\r", "")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            raise BodyError(f"illegal base64 data: {error}") from None
    if type(value) is not list:
        raise _mismatch(value, where, "[]uint8")
    return bytes(_read_byte(item, where) for item in value)


def _read_byte(value: Any, where: str) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= 255:
        raise _mismatch(value, where, "uint8")
    return value


def _read_json(value: Any, where: str) -> bytes:
    try:
        try:
            return msgspec.json.encode(value)
        except UnicodeEncodeError:
            return msgspec.json.encode(_without_halves(value))
    except RecursionError:
        raise BodyError("exceeded max depth") from None


def _without_halves(value: Any) -> Any:
    """Half of a surrogate pair becomes U+FFFD, as in other texts."""
    if isinstance(value, dict):
        return {_read_string(key, ""): _without_halves(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    return _read_string(value, "") if isinstance(value, str) else value


def _read_map_of_texts(value: Any, where: str) -> Texts:
    if type(value) is not dict:
        raise _mismatch(value, where, "map[string]string")
    return {key: "" if item is None else _read_string(item, where) for key, item in value.items()}


def _integer(range_: _Range) -> _Read:
    name, low, high = range_

    def read(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _mismatch(value, where, name)
        return value

    return read


def _list(item_type: Any) -> _Read:
    read_item = _reader(item_type)

    def read(value: Any, where: str) -> list[Any]:
        if type(value) is not list:
            raise _mismatch(value, where, "slice")
        return [_zero(item_type) if item is None else read_item(item, where) for item in value]

    return read


def _struct(kind: type[Any]) -> _Read:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {name: (name, f".{name}", _reader(hint)) for name, hint in hints.items()}

    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise _mismatch(value, where, kind.__name__)
        found = {}
        for key, item in value.items():
            field = fields.get(key) or fields.get(key.casefold())
            if field is not None and item is not None:
                name, path, read_field = field
                found[name] = read_field(item, where + path)
        return kind(**found)

    return read


_readers: dict[Any, _Read] = {
    str: _read_string,
    bytes: _read_bytes,
    list[str]: _read_strings,
    Texts: _read_map_of_texts,
}


def _reader(hint: Any) -> _Read:
    read = _readers.get(hint)
    if read is None:
        read = _readers[hint] = _make_reader(hint)
    return read


def _make_reader(hint: Any) -> _Read:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _read_json if hint == Json else _integer(typing.get_args(hint)[1])
    if origin is list:
        return _list(typing.get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint)
    raise TypeError(f"a body cannot hold {hint}")


def _zero(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    return 0 if origin is Annotated else [] if origin is list else hint()
