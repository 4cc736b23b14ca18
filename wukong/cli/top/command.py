"""`wukong top`: options, the screen, and the keyboard."""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wukong.cli.options import DEFAULT_API, Apis, AsJson, Token, address_list, api_url
from wukong.cli.output import print_json, run

if TYPE_CHECKING:
    from wukong.cli.top.screen import Picture
    from wukong.cli.top.watch import Watch

EVENTS_LIMIT: Final = 200
FIRST_WAIT_S: Final = 1.0
"""After the first look, from which no rate follows."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Look twice, a second apart, print, and end.")] = False,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two looks.", min=0.5, max=60)] = 2.0,
    api: Apis = DEFAULT_API,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Watch the nodes of a cluster: health, leaders, sessions, messages per second, lag, disk, queues, changes.

    One node's address is enough where the others have cluster.apiUrl. q ends it. Without a terminal, and with --json,
    it prints one look after the other.

    Example: wukong top --api http://node1:5001,http://node2:5001

    Once, for a script: wukong top --once --json
    """

    async def work() -> None:
        from wukong.cli.top.watch import Watch

        async with Watch([api_url(each) for each in address_list(api)], token) as watch:
            if once or as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
                await _print(watch, interval, once=once, as_json=as_json)
            else:
                await _live(watch, interval)

    run(work(), as_json=as_json)


async def _print(watch: "Watch", interval_s: float, *, once: bool, as_json: bool) -> None:
    from rich.console import Console

    from wukong.cli.top.screen import plain

    console = Console(highlight=False)
    # The first look finds the others.
    await watch.look()
    await watch.look()
    await asyncio.sleep(FIRST_WAIT_S)
    while True:
        picture = await _picture(watch, deque(), interval_s)
        if as_json:
            print_json(_value(picture))
        else:
            console.print(plain(picture, console.width), soft_wrap=not console.is_terminal)
        if once:
            return
        await asyncio.sleep(interval_s)


def _value(picture: "Picture") -> dict[str, Any]:  # any: JSON
    import msgspec

    return {
        "now_ms": time.time_ns() // 1_000_000,
        "nodes": msgspec.to_builtins(picture.rows),
        "slots_leaderless": [slot.id for slot in picture.status.slots if not slot.leader] if picture.status else None,
        "events": [text for _, text in picture.events],
    }


async def _picture(watch: "Watch", events: "deque[tuple[str, str]]", interval_s: float) -> "Picture":
    from wukong.cli.top.screen import Picture

    rows, news = await watch.look()
    now = time.strftime("%H:%M:%S")
    events.extend((now, text) for text in news)
    return Picture(rows, watch.status, list(events), now, interval_s)


async def _live(watch: "Watch", interval_s: float) -> None:
    """Until q, Ctrl-C, or the end of the terminal. A change of its size draws anew."""
    from rich.console import Console
    from rich.live import Live

    from wukong.cli.top.screen import draw

    console = Console(highlight=False)
    events: deque[tuple[str, str]] = deque(maxlen=EVENTS_LIMIT)
    picture = await _picture(watch, events, interval_s)
    quits = asyncio.Event()

    def show() -> None:
        width, height = console.size
        live.update(draw(picture, width, height), refresh=True)

    with Live(console=console, auto_refresh=False, screen=True) as live, _keys(quits), _resizes(show):
        pause_s = min(FIRST_WAIT_S, interval_s)
        while not quits.is_set():
            show()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await quits.wait()
            if not quits.is_set():
                picture = await _picture(watch, events, interval_s)
            pause_s = interval_s


@contextlib.contextmanager
def _keys(quits: asyncio.Event) -> Iterator[None]:
    """Single keys of standard input, which is a terminal."""
    loop = asyncio.get_running_loop()
    keyboard = sys.stdin.fileno()
    was = termios.tcgetattr(keyboard)

    def pressed() -> None:
        keys = os.read(keyboard, 64)
        # b"": the terminal is gone.
        if not keys or keys[:1] in (b"q", b"Q", b"\x03", b"\x04"):
            quits.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, was)


@contextlib.contextmanager
def _resizes(show: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, show)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
