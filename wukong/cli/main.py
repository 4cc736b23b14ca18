"""The `wukong` command."""

import typer

from wukong.cli.serve import serve

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Wukong, an instant messaging server.")
app.command()(serve)


@app.command()
def version() -> None:
    """Print the version.

    Example: wukong version
    """
    from wukong import __version__

    typer.echo(__version__)


def main() -> None:
    app()
