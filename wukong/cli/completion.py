"""`wukong completion`: the script that a shell needs to complete commands and options."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from wukong.cli.options import AsJson
from wukong.cli.output import report

PROGRAM: Final = "wukong"
VARIABLE: Final = "_WUKONG_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")], as_json: AsJson = False
) -> None:
    """Print the script that completes commands and options. `wukong --install-completion` puts it in place.

    Example: wukong completion bash

    For all users: wukong completion bash > /etc/bash_completion.d/wukong
    """
    # What `--show-completion` prints, which asks what the calling shell is.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value)
    report({"shell": shell.value, "script": script}, as_json=as_json, text=lambda: script)
