"""Reading and writing the objects of JSON-RPC: what both sides share (jsonrpc.py, jsonrpc_client.py).

Reading is lenient as the SDKs need it: keys in any letter case, camel or snake; a payload as base64 text or as a JSON
value; null is the same as absent (wkproto.md, 10.2 and 10.6).

A text that is not JSON raises ProtocolError: the connection is closed. A text that is JSON but not what is wanted
raises JsonRpcError: it is answered with an error, and the connection goes on.
"""

import json
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw

from wukong.errors import ProtocolError, WukongError
from wukong.protocol.base64_text import decode_base64
from wukong.protocol.codec import TEXT_LIMIT_BYTES
from wukong.protocol.packets import (
    DUP,
    NO_PERSIST,
    RED_DOT,
    SETTING_RECEIPT,
    SETTING_SIGNAL,
    SETTING_STREAM,
    SETTING_TOPIC,
    SYNC_ONCE,
)

JSONRPC_VERSION: Final = "2.0"

HEADER_BITS: Final = (("noPersist", NO_PERSIST), ("redDot", RED_DOT), ("syncOnce", SYNC_ONCE), ("dup", DUP))
SETTING_BITS: Final = (
    ("receipt", SETTING_RECEIPT),
    ("signal", SETTING_SIGNAL),
    ("stream", SETTING_STREAM),
    ("topic", SETTING_TOPIC),
)

SHOWN_CHARACTERS: Final = 64
"""How much of a wrong word an error repeats."""

U8_HIGH: Final = 0xFF
U32_HIGH: Final = 0xFFFF_FFFF
U64_HIGH: Final = 0xFFFF_FFFF_FFFF_FFFF
I64_LOW: Final = -(1 << 63)
I64_HIGH: Final = (1 << 63) - 1


class JsonRpcError(WukongError):
    """A well-formed text that is no message of ours. request_id: None when it could not be read."""

    def __init__(self, text: str, request_id: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.request_id = request_id


_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_number = msgspec.json.Decoder(int).decode

_canonical_names: dict[str, str] = {}
_CANONICAL_LIMIT_COUNT: Final = 1024
_NAME_LIMIT_CHARACTERS: Final = 64


def _canonical(key: str) -> str:
    """`channelId`, `channel_id` and `ChannelID` are one name. Remembered, up to a limit: peers choose the keys."""
    name = _canonical_names.get(key)
    if name is None:
        name = key.replace("_", "").lower()
        if len(_canonical_names) < _CANONICAL_LIMIT_COUNT and len(key) <= _NAME_LIMIT_CHARACTERS:
            _canonical_names[key] = name
    return name


class Fields:
    """An object's fields by canonical name. Null is the same as absent; a value of the wrong kind is a JsonRpcError."""

    __slots__ = ("_fields", "_what")

    def __init__(self, text: Raw | bytes, what: str) -> None:
        self._what = what
        try:
            fields = _decode_object(text)
        except msgspec.ValidationError:
            raise JsonRpcError(f"{what}: not an object") from None
        self._fields = {_canonical(key): value for key, value in fields.items() if bytes(value) != b"null"}

    def raw(self, name: str) -> Raw | None:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if value is None:
            return ""
        try:
            text = _decode_text(value)
        except msgspec.ValidationError:
            self._refuse(name, "not a string")
        # The binary form of the same message must be able to carry it.
        if len(text) > TEXT_LIMIT_BYTES or len(text.encode()) > TEXT_LIMIT_BYTES:
            self._refuse(name, f"longer than {TEXT_LIMIT_BYTES} bytes")
        return text

    def data(self, name: str) -> bytes:
        """A string of any length, as UTF-8."""
        value = self._fields.get(name)
        if value is None:
            return b""
        try:
            return _decode_text(value).encode()
        except msgspec.ValidationError:
            self._refuse(name, "not a string")

    def number(self, name: str, lowest: int, highest: int) -> int:
        """An integer, 0 when absent."""
        value = self._fields.get(name)
        if value is None:
            return 0
        try:
            number = _decode_number(value)
        except msgspec.ValidationError:
            self._refuse(name, "not an integer")
        if not lowest <= number <= highest:
            self._refuse(name, f"not between {lowest} and {highest}")
        return number

    def number_text(self, name: str, lowest: int, highest: int) -> int:
        """An integer written as a string, 0 when absent. Numbers of 64 bits travel so, for JavaScript's sake."""
        text = self.text(name)
        if not text:
            return 0
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and lowest <= int(text) <= highest):
            self._refuse(name, f"not a decimal number between {lowest} and {highest}")
        return int(text)

    def bits(self, name: str, table: tuple[tuple[str, int], ...]) -> int:
        """An object of booleans as a number, 0 when absent."""
        value = self._fields.get(name)
        if value is None:
            return 0
        switches = Fields(value, f"{self._what}: {name}")
        return sum(bit for key, bit in table if switches.switch(key.lower()))

    def switch(self, name: str) -> bool:
        """A boolean, false when absent."""
        value = self._fields.get(name)
        if value is None:
            return False
        text = bytes(value)
        if text not in (b"true", b"false"):
            self._refuse(name, "not a boolean")
        return text == b"true"

    def payload(self) -> tuple[bytes, bool]:
        """The payload's bytes, and whether it was a JSON value (kept as it was written) instead of base64."""
        value = self._fields.get("payload")
        if value is None:
            return b"", False
        text = bytes(value)
        if not text.startswith(b'"'):
            text.decode()  # the parser has checked a Raw's grammar, but not its UTF-8
            return text, True
        try:
            return decode_base64(_decode_text(text).encode()), False
        except ValueError:
            self._refuse("payload", "not base64")

    def _refuse(self, name: str, fault: str) -> NoReturn:
        raise JsonRpcError(f"{self._what}: {name} is {fault}")


def read_envelope(text: bytes) -> tuple[Fields, str | None]:
    """The outer fields and the id; None without one. Raises as the module says."""
    try:
        envelope = Fields(text, "message")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refuse_text(text)
    return envelope, envelope.text("id") if envelope.raw("id") is not None else None


def refuse_text(text: bytes) -> NoReturn:
    """Text that the fast parser does not take. Half a surrogate pair is the one thing that is JSON nevertheless:
    JavaScript writes it for a string cut in the middle of an emoji, and closing would only make it come again."""
    try:
        message = json.loads(text.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as fault:
        raise ProtocolError(f"text is not JSON: {fault}") from None
    request_id = message.get("id") if isinstance(message, dict) else None
    if not (isinstance(request_id, str) and request_id.isprintable()):
        request_id = None
    raise JsonRpcError("a string is not valid Unicode", request_id)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def check_version(envelope: Fields) -> None:
    """`jsonrpc` may be missing; if present it has to be 2.0."""
    if envelope.raw("jsonrpc") is not None and (version := envelope.text("jsonrpc")) != JSONRPC_VERSION:
        raise JsonRpcError(f"invalid version: expected '{JSONRPC_VERSION}', got '{version[:SHOWN_CHARACTERS]}'")


encode_json = msgspec.json.Encoder().encode


def header_of(flags: int) -> dict[str, bool]:
    """Always written, empty or not: several SDKs fail without it (wkproto.md, 10.6)."""
    return {key: True for key, bit in HEADER_BITS if flags & bit}


# Any: the values of a JSON object are of many kinds.
def call(method: str, params: dict[str, Any], request_id: str | None = None) -> bytes:
    """A request, or without an id a notification."""
    envelope: dict[str, Any] = {"jsonrpc": JSONRPC_VERSION, "method": method, "params": params}
    if request_id is not None:
        envelope["id"] = request_id
    return encode_json(envelope)


def present(**fields: Any) -> dict[str, Any]:
    """Only the fields that are neither zero nor empty."""
    return {key: value for key, value in fields.items() if value}
