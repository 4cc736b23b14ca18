"""`wukong bench`: load a server and say what it does."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from wukong.cli.options import DEFAULT_API, DEFAULT_TCP, Apis, AsJson, Tcps, Token, address_list, api_url
from wukong.cli.output import print_json, run

if TYPE_CHECKING:
    from wukong.cli.bench.cases import Bench
    from wukong.cli.bench.figures import Figures

app = typer.Typer(
    no_args_is_help=True,
    help="Load a server and measure it. With --pid on the server's machine also its CPU and memory.",
)

Pid = Annotated[str, typer.Option("--pid", help="Process ids of the server, separated by commas.")]
Processes = Annotated[int, typer.Option("--processes", help="Generator processes.", min=1, max=64)]
Repeat = Annotated[int, typer.Option("--repeat", help="Runs; the medians are shown.", min=1, max=100)]
Seconds = Annotated[float, typer.Option("--seconds", help="How long to measure.", min=0.1, max=3_600)]
Size = Annotated[int, typer.Option("--size", help="Payload in bytes.", min=1, max=32_767)]


class Common(NamedTuple):
    """What all cases take. size: payload in bytes."""

    api: str
    tcp: str
    token: str
    processes: int
    pid: str
    repeat: int
    as_json: bool
    size: int


@app.command()
def closed(
    pairs: Annotated[int, typer.Option("--pairs", help="Pairs of people.", min=1, max=100_000)] = 100,
    window: Annotated[int, typer.Option("--window", help="Unanswered SENDs of each sender.", min=1, max=10_000)] = 10,
    rate: Annotated[float, typer.Option("--rate", help="SENDs/s of all together; 0 is flat out.", min=0)] = 0.0,
    seconds: Seconds = 8.0,
    size: Size = 256,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    processes: Processes = 1,
    pid: Pid = "",
    repeat: Repeat = 1,
    as_json: AsJson = False,
) -> None:
    """Person messages in a closed loop: SENDs/s, latencies, the server's CPU per message.

    Example: wukong bench closed --pairs 100 --window 10 --pid $(pgrep -f 'wukong serve')
    """
    params: dict[str, float] = {"pairs": pairs, "window": window, "rate": rate, "seconds": seconds, "size": size}
    _bench(
        "closed",
        params,
        lambda bench: bench.closed(pairs, window, rate, seconds),
        Common(api=api, tcp=tcp, token=token, processes=processes, pid=pid, repeat=repeat, as_json=as_json, size=size),
    )


@app.command()
def latency(
    rate: Annotated[float, typer.Option("--rate", help="Messages per second.", min=0.1, max=10_000)] = 20.0,
    seconds: Seconds = 15.0,
    size: Size = 256,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    pid: Pid = "",
    repeat: Repeat = 1,
    as_json: AsJson = False,
) -> None:
    """One pair of people and a steady trickle: time from SEND to SENDACK and to RECV.

    Example: wukong bench latency --rate 20
    """
    params: dict[str, float] = {"rate": rate, "seconds": seconds, "size": size}
    _bench(
        "latency",
        params,
        lambda bench: bench.latency(rate, seconds),
        Common(api=api, tcp=tcp, token=token, processes=1, pid=pid, repeat=repeat, as_json=as_json, size=size),
    )


@app.command()
def fanout(
    members: Annotated[int, typer.Option("--members", help="Members, all online.", min=1, max=100_000)] = 100,
    rate: Annotated[float, typer.Option("--rate", help="SENDs per second; 0 is flat out.", min=0, max=10_000)] = 10.0,
    seconds: Seconds = 6.0,
    size: Size = 256,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    processes: Processes = 1,
    pid: Pid = "",
    repeat: Repeat = 1,
    as_json: AsJson = False,
) -> None:
    """One group with everybody online: deliveries/s, latencies, the server's CPU per delivery.

    Example: wukong bench fanout --members 1000 --rate 10 --processes 2
    """
    params: dict[str, float] = {"members": members, "rate": rate, "seconds": seconds, "size": size}
    _bench(
        "fanout",
        params,
        lambda bench: bench.fanout(members, rate, seconds),
        Common(api=api, tcp=tcp, token=token, processes=processes, pid=pid, repeat=repeat, as_json=as_json, size=size),
    )


@app.command()
def storm(
    connections: Annotated[int, typer.Option("--connections", help="Logins.", min=1, max=1_000_000)] = 2_000,
    concurrency: Annotated[int, typer.Option("--concurrency", help="At a time.", min=1, max=10_000)] = 50,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    processes: Processes = 1,
    pid: Pid = "",
    repeat: Repeat = 1,
    as_json: AsJson = False,
) -> None:
    """Many logins at once: logins/s, and how many got no answer.

    Example: wukong bench storm --connections 2000 --concurrency 50
    """
    params: dict[str, float] = {"connections": connections, "concurrency": concurrency}
    _bench(
        "storm",
        params,
        lambda bench: bench.storm(connections, concurrency),
        Common(api=api, tcp=tcp, token=token, processes=processes, pid=pid, repeat=repeat, as_json=as_json, size=1),
    )


@app.command()
def idle(
    connections: Annotated[int, typer.Option("--connections", help="Connections.", min=1, max=1_000_000)] = 1_000,
    ping_interval: Annotated[float, typer.Option("--ping-interval", help="Seconds between PINGs.", min=1)] = 60.0,
    seconds: Seconds = 15.0,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    processes: Processes = 1,
    pid: Pid = "",
    repeat: Repeat = 1,
    as_json: AsJson = False,
) -> None:
    """Silent connections: memory of each, and what their PINGs cost.

    Example: wukong bench idle --connections 10000 --processes 2 --pid $(pgrep -f 'wukong serve')
    """
    params: dict[str, float] = {"connections": connections, "ping_interval": ping_interval, "seconds": seconds}
    _bench(
        "idle",
        params,
        lambda bench: bench.idle(connections, seconds, ping_interval),
        Common(api=api, tcp=tcp, token=token, processes=processes, pid=pid, repeat=repeat, as_json=as_json, size=1),
    )


def _bench(
    name: str, params: dict[str, float], case: Callable[["Bench"], Awaitable["Figures"]], common: Common
) -> None:
    from wukong.cli.bench.figures import median_of

    runs = run(_measure(case, common), as_json=common.as_json)
    median = median_of(runs)
    if common.as_json:
        shown_params = {**params, "processes": common.processes}
        print_json({"case": name, "params": shown_params, "median": median, "runs": runs})
    else:
        _print_table(name, params, median, runs)


async def _measure(case: Callable[["Bench"], Awaitable["Figures"]], common: Common) -> list["Figures"]:
    import contextlib
    import resource

    from wukong.cli.bench.cases import Bench, Target
    from wukong.cli.bench.figures import ServerProcesses
    from wukong.cli.bench.fleet import Fleet
    from wukong.cli.bench.progress import Progress
    from wukong.client.admin import AdminClient
    from wukong.client.transport import host_and_port

    # One file per connection; the generator processes inherit it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = ServerProcesses([int(each) for each in address_list(common.pid)])
    addresses = [host_and_port(each) for each in address_list(common.tcp)]
    async with contextlib.AsyncExitStack() as parts:
        admins = [
            await parts.enter_async_context(AdminClient(api_url(each), common.token or None))
            for each in address_list(common.api)
        ]
        # Before any process is started: an address that is wrong should be told at once.
        await admins[0].route()
        progress = parts.enter_context(Progress(sys.stderr))
        fleet = await parts.enter_async_context(Fleet(common.processes))
        bench = Bench(Target(admins, addresses, server, progress.say), fleet, payload_bytes=common.size)
        runs = []
        for number in range(common.repeat):
            progress.prefix = f"run {number + 1} of {common.repeat}: " if common.repeat > 1 else ""
            runs.append(await case(bench))
        return runs


def _print_table(name: str, params: dict[str, float], median: "Figures", runs: list["Figures"]) -> None:
    from rich.console import Console
    from rich.table import Table

    from wukong.cli.bench.figures import shown

    title = f"{name}  " + "  ".join(f"{key} {value:g}" for key, value in params.items())
    table = Table("figure", title=title, title_justify="left")
    table.add_column("median" if len(runs) > 1 else "value", justify="right")
    if len(runs) > 1:
        table.add_column("from", justify="right")
        table.add_column("to", justify="right")
    for figure, value in median.items():
        row = [figure, shown(value)]
        if len(runs) > 1:
            values = [each for one in runs if (each := one.get(figure)) is not None]
            row += [shown(min(values, default=None)), shown(max(values, default=None))]
        table.add_row(*row)
    Console().print(table)
