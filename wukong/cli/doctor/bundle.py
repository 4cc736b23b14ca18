"""The support archive: what somebody else needs to see what is wrong, without secrets, messages, members or uids.

A tar.gz of small files. Everything in it has gone through a Redactor; no file of the data directory is in it.
"""

import importlib.metadata
import io
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from wukong import __version__
from wukong.cli.doctor.cluster import Told
from wukong.cli.doctor.finding import Finding
from wukong.cli.doctor.redact import Redactor
from wukong.config import Config, describe

LOG_TAIL_BYTES: Final = 1024 * 1024
"""Of the log, from its end; what is before is left out."""
_FOLDER: Final = "wukong-doctor"
_ROUTES: Final = {
    "/health": "health.json",
    "/cluster/status": "status.json",
    "/varz": "varz.json",
    "/metrics": "metrics.txt",
}

_README: Final = """\
What `wukong doctor --bundle` collected. Passwords, tokens and secrets of the configuration are replaced by ***;
messages, members and uids are not collected, but lines of log.txt may name some. Look through it before you pass it on.

findings.json  what the doctor found
config.json    the configuration as it counts, defaults included
versions.json  of wukong, Python, the system, and the packages used
api-N/         what the API of a node answered: health, status, varz, metrics; url.txt says whose
log.txt        the end of the log that was given with --log
"""


def contents(
    findings: Sequence[Finding], config: Config | None, told: Sequence[Told], log_tail: str | None, redactor: Redactor
) -> dict[str, bytes]:
    """File name -> content, redacted."""
    files: dict[str, bytes] = {
        "README.txt": _README.encode(),
        "findings.json": _json(redactor.value(msgspec.to_builtins(list(findings)))),
        "versions.json": _json(redactor.value(versions())),
    }
    if config is not None:
        files["config.json"] = _json(redactor.value(msgspec.to_builtins(describe(config), enc_hook=str)))
    for number, each in enumerate(told, 1):
        files[f"api-{number}/url.txt"] = f"{redactor.log(each.url)}\n".encode()
        for route, body in each.bodies.items():
            files[f"api-{number}/{_ROUTES[route]}"] = _redacted(body, redactor)
    if log_tail is not None:
        files["log.txt"] = redactor.log(log_tail).encode()
    return files


def _redacted(body: bytes, redactor: Redactor) -> bytes:
    try:
        return _json(redactor.value(msgspec.json.decode(body)))
    except msgspec.DecodeError:
        return redactor.text(body.decode(errors="replace")).encode()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def versions() -> Mapping[str, object]:
    try:
        named = importlib.metadata.requires("wukong-im") or []
    except importlib.metadata.PackageNotFoundError:
        named = []
    packages = {}
    for requirement in named:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            packages[name] = _version_of(name)
    return {
        "wukong": __version__,
        "python": sys.version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": packages,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def tail_of(path: Path) -> str:
    """The last LOG_TAIL_BYTES of a file, from the first whole line on. Raises OSError."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES)
        file.seek(start)
        text = file.read(LOG_TAIL_BYTES).decode(errors="replace")
    return text.partition("\n")[2] if start else text


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """For this user alone, and never over a file that is there. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
