"""Taking secrets out of what is shown to others. Pure.

Two nets: every value that is known to be secret, in everything; and in texts of unknown origin what looks like one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from wukong.config import MASK, Account, Config, config_keys

SHORT_CHARS: Final = 6
"""A shorter secret is replaced as a whole word only: `a` is in every text."""

_LOOKS_SECRET: Final = (
    # user:password@ of a URL
    (re.compile(r"(://)[^/\s@]+@"), rf"\1{MASK}@"),
    # a JWT
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), MASK),
    (re.compile(r"(?i)\b(bearer\s+)\S+"), rf"\1{MASK}"),
    # token=..., "password": "..."
    (
        re.compile(
            r"""(?ix)
            ([\w.-]*(?:token|secret|passw(?:or)?d|authorization|api[_-]?key)["']?\s*[:=]\s*)
            ("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&]+)
            """
        ),
        rf"\1{MASK}",
    ),
)


def secrets_of(config: Config) -> set[str]:
    """Values of a configuration that nobody else may see."""
    found: set[str] = set()
    for key in config_keys():
        value = key.value_of(config)
        if key.kind.sensitive and value:
            found |= _secrets_in(value)
    return found


def secrets_in_environment(environ: Mapping[str, str]) -> set[str]:
    """Of variables that may hold one, whether or not the configuration could be read."""
    named = re.compile(r"^(WK|WUKONG)_.*(TOKEN|SECRET|PASSWORD)$")
    found = {value for name, value in environ.items() if named.match(name) and value}
    for name, value in environ.items():
        if name.startswith("WK_") and "://" in value:
            found |= _secrets_in(value)
        elif name == "WK_AUTH_USERS":
            found |= {part.split(":")[1] for part in value.split() if ":" in part}
    return found


def _secrets_in(value: object) -> set[str]:
    if isinstance(value, Account):
        return {value.password}
    if isinstance(value, tuple):
        return set().union(*map(_secrets_in, value))
    text = str(value)
    if "://" not in text:
        return {text}
    parts = urlsplit(text)
    found = {parts.password or "", parts.netloc.rpartition("@")[0]}
    found |= {secret for _, secret in parse_qsl(parts.query, keep_blank_values=False)}
    if parts.query:
        found.add(parts.query)
    return found - {""}


class Redactor:
    def __init__(self, secrets: Iterable[str]) -> None:
        spelt = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), unquote(secret))}
        # Longest first: one may be a part of another.
        ordered = sorted(spelt, key=lambda secret: (-len(secret), secret))
        forms = [
            re.escape(secret) if len(secret) >= SHORT_CHARS else rf"(?<!\w){re.escape(secret)}(?!\w)"
            for secret in ordered
        ]
        self._known = re.compile("|".join(forms)) if forms else None

    def text(self, text: str) -> str:
        """Without the known secrets."""
        return text if self._known is None else self._known.sub(MASK, text)

    def log(self, text: str) -> str:
        """Also without what looks like a secret."""
        for pattern, replacement in _LOOKS_SECRET:
            text = pattern.sub(replacement, text)
        return self.text(text)

    def value(self, value: Any) -> Any:  # any: JSON in, JSON out
        """Every text in a tree of plain values. Before it is encoded: JSON writes quotes and backslashes otherwise."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value
