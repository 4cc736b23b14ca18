"""`wukong config`: look at a configuration before a server has to."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wukong.cli.options import AsJson
from wukong.cli.output import EXIT_USAGE, print_json, report, warn

app = typer.Typer(no_args_is_help=True, help="Configuration files.")


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="wk.yaml or TOML; without it the environment alone.", metavar="[FILE]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a configuration as `wukong serve` would, and list its faults and what differs from the defaults.

    Faults name the line; for a key that is not known the one that may be meant is named.
    Exit status 2 if there are faults. Passwords and tokens are not shown.

    Example: wukong config check wk.yaml
    """
    from wukong.config import config_keys, load_config
    from wukong.config.lines import located
    from wukong.errors import ConfigError

    try:
        config, warnings = load_config(file, os.environ, embedded=file is None)
    except ConfigError as error:
        faults = located(error.faults, file)
        for fault in faults:
            warn(fault)
        if as_json:
            print_json({"faults": faults, "warnings": [], "values": {}})
        raise typer.Exit(EXIT_USAGE) from None
    warnings = located(warnings, file)
    values = {
        key.path: key.kind.show(value)
        for key in config_keys()
        if (value := key.value_of(config)) != key.default and value is not None
    }

    def text() -> str:
        lines = [f"{path} = {value}" for path, value in values.items()]
        lines += [f"warning: {each}" for each in warnings]
        return "\n".join([*lines, "no faults"])

    report({"faults": [], "warnings": warnings, "values": values}, as_json=as_json, text=text)
