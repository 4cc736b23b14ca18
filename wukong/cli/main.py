"""The `wukong` command. What a command needs is imported when it runs, so that `wukong --help` is quick."""

import typer

from wukong.cli import channel, config, retention
from wukong.cli.backup import command as backup
from wukong.cli.bench import command as bench
from wukong.cli.chat.command import chat
from wukong.cli.cluster import command as cluster
from wukong.cli.completion import completion
from wukong.cli.demo import demo
from wukong.cli.doctor.command import doctor
from wukong.cli.explain import explain
from wukong.cli.import_v2.command import import_v2
from wukong.cli.options import AsJson
from wukong.cli.output import report
from wukong.cli.send import send
from wukong.cli.serve import serve
from wukong.cli.top.command import top

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Wukong, an instant messaging server. `wukong COMMAND --help` shows examples.",
)
app.command()(serve)
app.command()(chat)
app.command()(send)
app.command()(explain)
app.command()(demo)
app.command()(doctor)
app.command()(top)
app.command("import")(import_v2)
app.command("restore")(backup.restore)
app.command()(completion)
app.add_typer(backup.app, name="backup")
app.add_typer(channel.app, name="channel")
app.add_typer(cluster.app, name="cluster")
app.add_typer(config.app, name="config")
app.add_typer(retention.app, name="retention")
app.command()(retention.erase)
app.add_typer(bench.app, name="bench")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version.

    Example: wukong version
    """
    from wukong import __version__

    report({"version": __version__}, as_json=as_json, text=lambda: __version__)


def main() -> None:
    app()
