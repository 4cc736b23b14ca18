"""`wukong cluster`: what it consists of."""

import typer

from wukong.cli.cluster import verbs
from wukong.cli.cluster.dev import dev
from wukong.cli.cluster.secret import secret

app = typer.Typer(no_args_is_help=True, help="A cluster: run one on this machine, look at one, change its members.")
app.command()(dev)
app.command()(verbs.status)
app.command()(verbs.add)
app.command()(verbs.remove)
app.command()(verbs.replace)
app.command()(verbs.transfer)
app.command()(verbs.settings)
app.command()(secret)
