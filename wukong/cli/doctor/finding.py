"""What the doctor finds. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warning"
ERROR: Final = "error"
LEVELS: Final = (OK, NOTE, WARNING, ERROR)


class Finding(msgspec.Struct, frozen=True):
    """check: what was looked at, one word. level: of LEVELS. text: one sentence. advice: what to do, may be empty."""

    check: str
    level: str
    text: str
    advice: str = ""


def not_checked(check: str, why: str) -> Finding:
    return Finding(check, NOTE, f"not checked: {why}")


def count(findings: Iterable[Finding], level: str) -> int:
    return sum(each.level == level for each in findings)


def size_text(size_bytes: float) -> str:
    """People's form, rounded: 3221225472 -> "3.0 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(seconds: float) -> str:
    """A difference of clocks: 600.4 -> "10 min 0 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
