"""The operator's files: users, one uid a line; channels, one a line: `TYPE ID`, or a JSON object that says more."""

from pathlib import Path
from typing import Final

import msgspec

from wukong.channel.ids import PERSON
from wukong.cli.import_v2.book import Given
from wukong.cli.options import CHANNEL_TYPES
from wukong.limits import MAX_CHANNEL_TYPE, MIB

# A larger file is refused unread.
FILE_LIMIT_BYTES: Final = 256 * MIB


def read_users(path: Path) -> list[str]:
    """Raises ValueError with the line."""
    return list(dict.fromkeys(line.strip() for line in _lines(path) if line.strip()))


def read_channels(path: Path) -> list[Given]:
    """Raises ValueError with the line."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            given = msgspec.json.decode(text, type=Given, strict=False) if text.startswith("{") else _short(text)
            _check(given)
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        found.append(given)
    return found


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise ValueError(f"{path} is larger than {FILE_LIMIT_BYTES // MIB} MiB")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from None


def _short(text: str) -> Given:
    kind, _, id_ = text.partition(" ")
    number = CHANNEL_TYPES.get(kind) or (int(kind) if kind.isascii() and kind.isdigit() else 0)
    return Given(id_.strip(), number)


def _check(given: Given) -> None:
    if not 0 < given.channel_type <= MAX_CHANNEL_TYPE:
        raise ValueError("the type is missing: a name or a number from 1 to 255, then the id")
    if not given.channel_id:
        raise ValueError("the channel's id is missing")
    if given.channel_type == PERSON and given.subscribers:
        raise ValueError("a channel of two persons has no subscribers")
