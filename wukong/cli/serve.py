"""`wukong serve`: one node, until SIGTERM or Ctrl-C."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="wk.yaml or TOML; without it: data in ./wukongdata, API on loopback."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory, over the configuration's.")] = None,
) -> None:
    """Run a node.

    Example: wukong serve --config wk.yaml
    """
    # What only a server needs is loaded here: `wukong --help` stays quick.
    from wukong.app import run
    from wukong.cli.logs import set_up
    from wukong.config import load_config
    from wukong.errors import ConfigError

    environ = dict(os.environ)
    if data is not None:
        environ["WK_DATADIR"] = str(data)
    try:
        settings, warnings = load_config(config, environ, embedded=config is None)
    except ConfigError as error:
        for fault in error.faults:
            sys.stderr.write(f"wukong: {fault}\n")
        raise typer.Exit(2) from None
    set_up(level=settings.log_level, form=settings.logger.format, node_id=settings.cluster.node_id)
    for warning in warnings:
        logging.getLogger("wukong").warning("%s", warning)
    raise typer.Exit(run(settings))
