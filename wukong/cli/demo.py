"""`wukong demo`: is a member who was added a moment ago reached by the next message?

The bug it shows: the HTTP API answered success to "add U to channel C", a message sent after that answer is stored and
reaches the others, and U never gets it. The demo works against any server with WuKongIM's API; it uses only routes and
packets that all versions have.

    scene      channel ch_123 with "123"; "456" and "789" are added; messages are sent; who received what
    fresh      a new channel with A; B is added; A sends at once. Every time with a new channel
    stream     A sends without a pause while users are added one by one; each must get all that was sent after his add
    commands   a command is sent to a group, B is added, the next command is sent: B must get that one

Everybody is connected all the time, so everything must be pushed. A repetition with the same message_seq is counted as
a double, a seq lower than one received before as out of order.
"""

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wukong.cli.options import DEFAULT_API, DEFAULT_TCP, Apis, AsJson, Tcps, Token, address_list, api_url
from wukong.cli.output import EXIT_REFUSED, print_json, run

if TYPE_CHECKING:
    from wukong.cli.bench.progress import Progress
    from wukong.cli.lean import LeanConnection
    from wukong.client.admin import AdminClient

GROUP: Final = 2
NO_PERSIST: Final = 1
RED_DOT: Final = 2
SYNC_ONCE: Final = 4
STREAM_ADDS_DIVISOR: Final = 2
STREAM_SENDS_PER_S: Final = 200
STREAM_WINDOW: Final = 50
STREAM_TAIL_S: Final = 0.5
QUIET_S: Final = 1.0


class Count:
    """What a variant found. expected: deliveries that must happen; refused: SENDs of members the server refused."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.expected_count = 0
        self.missed_count = 0
        self.double_count = 0
        self.disorder_count = 0
        self.refused_count = 0
        self.seconds = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.missed_count or self.double_count or self.disorder_count or self.refused_count)

    def as_json(self) -> dict[str, float | str]:
        return {
            "variant": self.name,
            "expected": self.expected_count,
            "missed": self.missed_count,
            "doubles": self.double_count,
            "out_of_order": self.disorder_count,
            "refused": self.refused_count,
            "seconds": round(self.seconds, 3),
        }


class Listener:
    """Collects the numbers of what one user receives, in order of arrival."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, int]] = []
        self.last = 0.0

    def take(self, connection: "LeanConnection", client_msg_no: bytes, message_seq: int) -> None:
        self.arrived.append((client_msg_no.decode(), message_seq))
        self.last = time.monotonic()

    def judge(self, expected: list[str], count: Count) -> None:
        """Compare with what must have come, given in the order of sending."""
        seen: dict[str, int] = defaultdict(int)
        last_seq = 0
        for number, seq in self.arrived:
            seen[number] += 1
            if seen[number] > 1:
                count.double_count += 1
            elif seq and seq < last_seq:
                count.disorder_count += 1
            last_seq = max(last_seq, seq)
        count.expected_count += len(expected)
        count.missed_count += sum(number not in seen for number in expected)


class Demo:
    """One run against one server. wait_s: how long a delivery may take."""

    def __init__(
        self, admins: list["AdminClient"], addresses: list[tuple[str, int]], progress: "Progress", *, wait_s: float
    ) -> None:
        self._admins = admins
        self._addresses = addresses
        self._progress = progress
        self._wait_s = wait_s
        self._run = f"{int(time.time() * 10) & 0xFFFFFF:x}"
        self._connections: list[LeanConnection] = []
        self._logins_count = 0
        self._refused = 0

    def _admin(self, turn: int = 0) -> "AdminClient":
        """Nodes take turns."""
        return self._admins[turn % len(self._admins)]

    async def _log_in(self, uid: str) -> tuple["LeanConnection", Listener]:
        from wukong.cli.lean import LeanConnection

        listener = Listener()
        host, port = self._addresses[self._logins_count % len(self._addresses)]
        self._logins_count += 1
        connection = await LeanConnection.open(host, port, uid, on_recv=listener.take, on_sendack=self._answered)
        self._connections.append(connection)
        return connection, listener

    def _answered(self, connection: "LeanConnection", client_seq: int, message_seq: int, reason: int) -> None:
        self._refused += reason != 1

    async def _log_out(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        await asyncio.sleep(0.1)

    async def _until(self, listeners: list[tuple[Listener, list[str]]]) -> None:
        """Until everything expected has come, or wait_s has passed since the last arrival; then a moment longer, for
        what must not come."""
        began = time.monotonic()
        missing = [(listener, set(expected)) for listener, expected in listeners]
        while missing:
            for listener, expected in missing:
                expected.difference_update(number for number, _ in listener.arrived)
            missing = [(listener, expected) for listener, expected in missing if expected]
            last = max((listener.last for listener, _ in listeners), default=0.0)
            if time.monotonic() - max(began, last) > self._wait_s:
                return
            await asyncio.sleep(0.01)
        await asyncio.sleep(QUIET_S)

    # -- the scene --

    async def scene(self) -> tuple[Count, list[tuple[str, list[str]]]]:
        """The story as it was reported, and who received which text."""
        count = Count("scene")
        began = time.monotonic()
        channel = f"ch_123_{self._run}"
        users = [f"{name}_{self._run}" for name in ("123", "456", "789")]
        members = [await self._log_in(uid) for uid in users]
        sender, _ = members[0]
        texts: list[tuple[int, str]] = []

        def say(present_count: int, text: str) -> None:
            sender.send(channel, GROUP, sender.sealed(f'{{"type":1,"content":"{text}"}}'.encode()), text, RED_DOT)
            texts.append((present_count, text))

        await self._admin(0).create_channel(channel, GROUP, subscribers=[users[0]])
        say(1, "alone")
        for number, uid in enumerate(users[1:], start=2):
            await self._admin(number).add_subscribers(channel, GROUP, [uid])
            say(number, f"hello {uid.partition('_')[0]}")
        say(3, "hello all")
        expected = [
            [text for present_count, text in texts if present_count > number] if number else []
            for number in range(len(users))
        ]
        await self._until([(listener, wanted) for (_, listener), wanted in zip(members, expected, strict=True)])
        for (_, listener), wanted in zip(members, expected, strict=True):
            listener.judge(wanted, count)
        self._close(count, began)
        received = [
            (uid.partition("_")[0], [text for text, _ in listener.arrived])
            for uid, (_, listener) in zip(users, members, strict=True)
        ]
        await self._log_out()
        return count, received

    def _close(self, count: Count, began: float) -> None:
        count.refused_count, self._refused = self._refused, 0
        count.seconds = time.monotonic() - began

    # -- variants --

    async def fresh(self, rounds_count: int) -> Count:
        """S1: new channel with A; add B; at once A sends."""
        count = Count("fresh")
        began = time.monotonic()
        sender, _ = await self._log_in(f"a_{self._run}")
        _, listener = await self._log_in(f"b_{self._run}")
        sealed = sender.sealed(b'{"type":1,"content":"fresh"}')
        expected = []
        for number in range(rounds_count):
            if number % 50 == 0:
                self._progress.say(f"fresh: {number} of {rounds_count} channels")
            channel = f"fresh_{self._run}_{number}"
            await self._admin(number).create_channel(channel, GROUP, subscribers=[sender.uid])
            await self._admin(number + 1).add_subscribers(channel, GROUP, [f"b_{self._run}"])
            name = f"fresh-{number}"
            sender.send(channel, GROUP, sealed, name, RED_DOT)
            expected.append(name)
        await self._until([(listener, expected)])
        # Each channel counts its messages by itself, so there is no order between them to judge.
        listener.arrived = [(number, 0) for number, _ in listener.arrived]
        listener.judge(expected, count)
        self._close(count, began)
        await self._log_out()
        return count

    async def stream(self, adds_count: int) -> Count:
        """S2: A sends without a pause; U1..Un are added one by one; each gets all that was sent after his add."""
        count = Count("stream")
        began = time.monotonic()
        channel = f"stream_{self._run}"
        sender, sender_listener = await self._log_in(f"a_{self._run}")
        _, old_listener = await self._log_in(f"old_{self._run}")
        self._progress.say(f"stream: {adds_count} logins")
        late = [await self._log_in(f"u{number}_{self._run}") for number in range(adds_count)]
        await self._admin().create_channel(channel, GROUP, subscribers=[sender.uid, f"old_{self._run}"])
        sealed = sender.sealed(b'{"type":1,"content":"stream"}')
        sent: list[str] = []
        stop = asyncio.Event()

        async def keep_sending() -> None:
            due = time.monotonic()
            while not stop.is_set():
                if sender.in_flight < STREAM_WINDOW:
                    name = f"stream-{len(sent)}"
                    sender.send(channel, GROUP, sealed, name, RED_DOT)
                    sent.append(name)
                due = max(due + 1 / STREAM_SENDS_PER_S, time.monotonic() - 0.1)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await stop.wait()

        sending = asyncio.create_task(keep_sending())
        starts = []
        try:
            for number in range(adds_count):
                if number % 25 == 0:
                    self._progress.say(f"stream: {number} of {adds_count} added, {len(sent)} sent")
                await self._admin(number).add_subscribers(channel, GROUP, [f"u{number}_{self._run}"])
                # What has been sent by now may or may not be his; what follows must be.
                starts.append(len(sent))
            await asyncio.sleep(STREAM_TAIL_S)
        finally:
            stop.set()
            await sending
        self._progress.say(f"stream: {len(sent)} sent, waiting for the deliveries")
        wanted = [(old_listener, sent), (sender_listener, [])]
        wanted += [(listener, sent[start:]) for (_, listener), start in zip(late, starts, strict=True)]
        await self._until(wanted)
        for listener, expected in wanted:
            listener.judge(expected, count)
        self._close(count, began)
        await self._log_out()
        return count

    async def commands(self, rounds_count: int) -> Count:
        """S13: a command that is not stored to the group, then B is added, then another one."""
        count = Count("commands")
        began = time.monotonic()
        sender, _ = await self._log_in(f"a_{self._run}")
        _, listener = await self._log_in(f"b_{self._run}")
        sealed = sender.sealed(b'{"cmd":"typing"}')
        flags = SYNC_ONCE | NO_PERSIST
        expected = []
        for number in range(rounds_count):
            if number % 25 == 0:
                self._progress.say(f"commands: {number} of {rounds_count} channels")
            channel = f"cmd_{self._run}_{number}"
            await self._admin(number).create_channel(channel, GROUP, subscribers=[sender.uid])
            sender.send(channel, GROUP, sealed, f"before-{number}", flags)
            await self._settled(sender)
            await self._admin(number + 1).add_subscribers(channel, GROUP, [f"b_{self._run}"])
            name = f"after-{number}"
            sender.send(channel, GROUP, sealed, name, flags)
            expected.append(name)
        await self._until([(listener, expected)])
        listener.judge(expected, count)
        self._close(count, began)
        await self._log_out()
        return count

    async def _settled(self, sender: "LeanConnection") -> None:
        """Until the sender has all its answers: the bug needs the first command to have been handled."""
        deadline = time.monotonic() + self._wait_s
        while sender.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.001)


def demo(
    count: Annotated[int, typer.Option("--count", help="Rounds of the hard variants.", min=1, max=100_000)] = 1_000,
    wait: Annotated[float, typer.Option("--wait", help="Seconds a delivery may take.", min=0.1)] = 5.0,
    api: Apis = DEFAULT_API,
    tcp: Tcps = DEFAULT_TCP,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Add members and send at once, over and over: does everybody get what is sent after the add was answered?

    Works against any server with WuKongIM's API. Exit status 1 if anything was missed, doubled, out of order or
    refused.

    Example: wukong demo --api http://127.0.0.1:5001 --tcp 127.0.0.1:5100 --count 200
    """
    received, counts = run(_run_all(count, wait, api, tcp, token), as_json=as_json, fast_loop=True)
    if as_json:
        print_json({"scene": dict(received), "variants": [each.as_json() for each in counts]})
    else:
        _print(received, counts)
    if not all(each.is_clean for each in counts):
        raise typer.Exit(EXIT_REFUSED)


async def _run_all(
    rounds_count: int, wait_s: float, api: str, tcp: str, token: str
) -> tuple[list[tuple[str, list[str]]], list[Count]]:
    import resource

    from wukong.cli.bench.progress import Progress
    from wukong.client.admin import AdminClient
    from wukong.client.transport import host_and_port

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    addresses = [host_and_port(each) for each in address_list(tcp)]
    async with contextlib.AsyncExitStack() as parts:
        admins = [
            await parts.enter_async_context(AdminClient(api_url(each), token or None)) for each in address_list(api)
        ]
        # A wrong address should be told at once.
        await admins[0].route()
        progress = parts.enter_context(Progress(sys.stderr))
        show = Demo(admins, addresses, progress, wait_s=wait_s)
        progress.say("the scene")
        scene, received = await show.scene()
        counts = [
            scene,
            await show.fresh(rounds_count),
            await show.stream(max(1, rounds_count // STREAM_ADDS_DIVISOR)),
            await show.commands(rounds_count),
        ]
    return received, counts


def _print(received: list[tuple[str, list[str]]], counts: list[Count]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print("Channel ch_123: 123 writes, 456 is added and greeted, 789 is added and greeted, all are greeted.")
    for uid, texts in received:
        console.print(
            f"  {uid} received: {', '.join(texts) if texts else 'nothing (the sender)' if uid == '123' else '-'}"
        )
    table = Table("variant", title="Deliveries to members who were added before", title_justify="left")
    for name in ("expected", "missed", "doubles", "out of order", "refused", "seconds"):
        table.add_column(name, justify="right")
    for each in counts:
        figures = [value for value in each.as_json().values() if isinstance(value, int)]
        style = None if each.is_clean else "bold red"
        table.add_row(each.name, *(f"{figure:,}" for figure in figures), f"{each.seconds:.1f}", style=style)
    console.print(table)
    if all(each.is_clean for each in counts):
        console.print("Everybody got everything that was sent after he was added, once and in order.")
    else:
        console.print("Members missed or got wrongly what was sent after they were added.")


def main() -> None:
    """`python -m wukong.cli.demo`."""
    typer.run(demo)


if __name__ == "__main__":
    main()
