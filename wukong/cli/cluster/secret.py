"""`wukong cluster secret`: the secret that the nodes of a cluster share."""

import os
import secrets
from pathlib import Path
from typing import Annotated, Final

import typer

from wukong.cli.options import AsJson
from wukong.cli.output import fail, report

SECRET_BYTES: Final = 32


def secret(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it; what is there stays.", metavar="[FILE]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a value for cluster.secret: printed, or written to a file that only its owner reads.

    Every node needs the same one, so make it once. A file that exists is left as it is.

    Example: wukong cluster secret /etc/wukong/cluster.secret
    """
    if file is None:
        value = new_secret()
        report({"secret": value}, as_json=as_json, text=lambda: value)
        return
    try:
        made = write_once(file, new_secret())
    except OSError as error:
        fail(error, as_json=as_json)
    text = f"{file}: written" if made else f"{file}: is there already, left as it is"
    report({"file": str(file), "made": made}, as_json=as_json, text=lambda: text)


def new_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def write_once(file: Path, value: str) -> bool:
    """Whether it was written. Complete or not at all, with mode 0600: a reader never sees half a secret, and of two
    writers one wins. Raises OSError."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(value + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True
