"""The cases: what is set up, what is measured, and the figures that come of it.

Every case gives names with units, among them `generators_cpu_pct` (of one core, the busiest process): near 100 it is
the generators that limit, not the server. Server figures need its pids.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from wukong.cli.bench.figures import Figures, ServerProcesses, per, percentiles
from wukong.cli.bench.fleet import Fleet
from wukong.cli.bench.generator import Result
from wukong.client.admin import AdminClient
from wukong.errors import WukongError
from wukong.protocol.packets import ChannelType

LOGIN_CONCURRENCY: Final = 50
MEMBERS_PER_CALL: Final = 1_000
SETTLE_S: Final = 1.0
KNOCK_TIMEOUT_S: Final = 15.0


class BenchFailed(WukongError):
    """The case could not be set up."""


class Target(msgspec.Struct, frozen=True):
    """The server under test. addresses: client ports, used in turn. say: tells progress."""

    admins: list[AdminClient]
    addresses: list[tuple[str, int]]
    server: ServerProcesses
    say: Callable[[str], None]


class Bench:
    """One run of cases over one fleet. Users and channels of every run have fresh names."""

    def __init__(self, target: Target, fleet: Fleet, *, payload_bytes: int) -> None:
        self._target = target
        self._fleet = fleet
        # Random text: neither the store nor anything else may compress it away.
        self._payload = random.randbytes(payload_bytes // 2 + 1).hex().encode()[:payload_bytes]
        self._run = f"{int(time.time() * 10) & 0xFFFFFF:x}{os.getpid() & 0xFFF:x}"
        self._names_count = 0

    def _names(self, prefix: str, count: int) -> list[str]:
        start = self._names_count
        self._names_count += count
        return [f"{prefix}{self._run}{number:x}" for number in range(start, start + count)]

    def _admin(self, number: int = 0) -> AdminClient:
        return self._target.admins[number % len(self._target.admins)]

    # -- parts --

    async def _log_in(
        self, role: str, parts: Sequence[list[str]], *, concurrency: int = LOGIN_CONCURRENCY, retry: bool = True
    ) -> Figures:
        """parts: the uids of each process. Raises BenchFailed if somebody is not logged in although it was retried."""
        wanted_count = sum(map(len, parts))
        common = {"role": role, "concurrency": max(1, concurrency // len(self._fleet)), "retry": retry}
        self._target.say(f"{wanted_count:,} logins")
        addresses = self._target.addresses
        results = await self._fleet.order(
            "connect",
            [{**common, "uids": uids, "addresses": _turned(addresses, at)} for at, uids in enumerate(parts)],
        )
        connected_count = _total(results, "connected")
        failed_count = _total(results, "failed")
        if retry and connected_count < wanted_count:
            raise BenchFailed(f"only {connected_count} of {wanted_count} logins worked")
        took_s = max(result["seconds"] for result in results)
        return {
            "ok": connected_count,
            "no_connack": failed_count,
            "no_connack_pct": 100 * failed_count / max(1, wanted_count),
            "logins_per_s": connected_count / took_s if took_s else None,
            **percentiles("login", (result["login_ns"] for result in results)),
        }

    async def _close(self, *roles: str) -> None:
        for role in roles:
            await self._fleet.order_all("close", role=role)
        await asyncio.sleep(SETTLE_S)

    def _parts(self, uids: list[str]) -> list[list[str]]:
        parts, at = [], 0
        for count in self._fleet.split(len(uids)):
            parts.append(uids[at : at + count])
            at += count
        return parts

    async def _first_messages(self, parts: Sequence[list[tuple[int, str, int]]]) -> None:
        """Make the channels exist before anything is measured."""
        results = await self._fleet.order(
            "knock", [{"pairs": pairs, "payload": self._payload, "timeout_s": KNOCK_TIMEOUT_S} for pairs in parts]
        )
        if refused_count := _total(results, "refused"):
            raise BenchFailed(f"the server refused {refused_count} of the first messages")
        if unanswered_count := _total(results, "unanswered"):
            raise BenchFailed(f"{unanswered_count} of the first messages were not answered in {KNOCK_TIMEOUT_S:g} s")
        await asyncio.sleep(SETTLE_S)
        await self._fleet.order_all("reset")

    async def _deliveries(self, expected_count: int) -> tuple[list[Result], int]:
        """Wait for what is under way; totals of the processes, and how many were received."""
        self._target.say("waiting for the last deliveries")
        await self._fleet.wait_for_deliveries(expected_count)
        return await self._fleet.order_all("totals"), self._fleet.received_count

    # -- cases --

    async def closed(self, pairs_count: int, window: int, rate: float, seconds: float) -> Figures:
        """Pairs of people; each sender keeps window SENDs unanswered, or follows a rate (all pairs together)."""
        senders = self._parts(self._names("a", pairs_count))
        peers = self._parts(self._names("b", pairs_count))
        await self._log_in("receivers", peers)
        await self._log_in("senders", senders)
        first = [[(number, uid, int(ChannelType.PERSON)) for number, uid in enumerate(uids)] for uids in peers]
        await self._first_messages(first)
        self._target.say(f"{pairs_count} pairs for {seconds:g} s")
        server = self._target.server
        cpu_before = server.cpu_s()
        parts: list[dict[str, Any] | None] = []
        for uids in peers:
            part_rate = rate * len(uids) / pairs_count
            part = {"peers": uids, "window": window, "rate": part_rate, "seconds": seconds, "payload": self._payload}
            parts.append(part if uids else None)
        measured = await self._fleet.order("closed", parts)
        cpu_s = _difference(server.cpu_s(), cpu_before)
        seconds_taken = max(result["seconds"] for result in measured)
        acked_count, received_count = _total(measured, "acked"), _total(measured, "received")
        sent_count = _total(await self._fleet.order_all("totals"), "sent")
        totals, received_in_all = await self._deliveries(sent_count)
        rss_mib = server.rss_mib()
        await self._close("senders", "receivers")
        return {
            "sent": sent_count,
            "acked_per_s": acked_count / seconds_taken,
            "received_per_s": received_count / seconds_taken,
            "refused": _total(totals, "refused"),
            "never_acked": sent_count - _total(totals, "acked"),
            "never_received": sent_count - received_in_all,
            **percentiles("ack", (result["ack_ns"] for result in totals)),
            **percentiles("recv", (result["recv_ns"] for result in totals)),
            "server_us_per_msg": per(cpu_s, acked_count, 1e6),
            "server_cpu_pct": per(cpu_s, seconds_taken, 100),
            "server_rss_mib": rss_mib,
            "generators_cpu_pct": _busiest_pct(measured),
        }

    async def latency(self, rate: float, seconds: float) -> Figures:
        """One pair of people, a steady trickle."""
        peer, sender = self._names("p", 2)
        nobody: list[list[str]] = [[] for _ in range(len(self._fleet) - 1)]
        await self._log_in("receivers", [[peer], *nobody])
        await self._log_in("senders", [[sender], *nobody])
        await self._first_messages([[(0, peer, ChannelType.PERSON)], *[[] for _ in nobody]])
        self._target.say(f"{rate:g} messages/s for {seconds:g} s")
        server = self._target.server
        cpu_before = server.cpu_s()
        order = {"channel_id": peer, "channel_type": int(ChannelType.PERSON), "rate": rate, "seconds": seconds}
        measured = await self._fleet.order("paced", [{**order, "payload": self._payload}, *[None for _ in nobody]])
        sent_count = int(rate * seconds)
        totals, received_count = await self._deliveries(sent_count)
        cpu_s = _difference(server.cpu_s(), cpu_before)
        await self._close("senders", "receivers")
        return {
            "sent": sent_count,
            "acked": _total(totals, "acked"),
            "received": received_count,
            **percentiles("ack", (result["ack_ns"] for result in totals)),
            **percentiles("recv", (result["recv_ns"] for result in totals)),
            "server_us_per_msg": per(cpu_s, sent_count, 1e6),
            "generators_cpu_pct": _busiest_pct(measured),
        }

    async def fanout(self, members_count: int, rate: float, seconds: float) -> Figures:
        """One group, everybody online. rate 0: flat out, a few messages under way at once."""
        members = self._names("f", members_count)
        (sender,) = self._names("s", 1)
        (group,) = self._names("g", 1)
        nobody: list[list[str]] = [[] for _ in range(len(self._fleet) - 1)]
        await self._log_in("receivers", self._parts(members))
        await self._log_in("senders", [[sender], *nobody])
        self._target.say(f"a group of {members_count:,}")
        await self._admin().create_channel(group, ChannelType.GROUP, subscribers=[sender])
        for start in range(0, members_count, MEMBERS_PER_CALL):
            await self._admin().add_subscribers(group, ChannelType.GROUP, members[start : start + MEMBERS_PER_CALL])
        await self._first_messages([[(0, group, ChannelType.GROUP)], *[[] for _ in nobody]])
        self._target.say(f"fan-out to {members_count:,} for {seconds:g} s")
        server = self._target.server
        cpu_before = server.cpu_s()
        start_s = time.monotonic()
        listening = asyncio.create_task(self._listen(seconds)) if nobody else None
        if rate:
            order: dict[str, Any] = {"channel_type": int(ChannelType.GROUP), "rate": rate}
            name = "paced"
        else:
            order = {"members_count": members_count}
            name = "flat_out"
        order |= {"channel_id": group, "seconds": seconds, "payload": self._payload}
        measured = await self._fleet.order(name, [order, *[None for _ in nobody]])
        if listening is not None:
            measured += await listening
        (sender_totals, *_) = await self._fleet.order_all("totals")
        sent_count = sender_totals["sent"]
        totals, received_count = await self._deliveries(sent_count * members_count)
        took_s = time.monotonic() - start_s
        cpu_s = _difference(server.cpu_s(), cpu_before)
        rss_mib = server.rss_mib()
        await self._close("senders", "receivers")
        return {
            "sent": sent_count,
            "expected": sent_count * members_count,
            "received": received_count,
            "missing": sent_count * members_count - received_count,
            "sends_per_s": sent_count / took_s,
            "deliveries_per_s": received_count / took_s,
            **percentiles("ack", (result["ack_ns"] for result in totals)),
            **percentiles("recv", (result["recv_ns"] for result in totals)),
            "server_us_per_send": per(cpu_s, sent_count, 1e6),
            "server_us_per_recv": per(cpu_s, received_count, 1e6),
            "server_cpu_pct": per(cpu_s, took_s, 100),
            "server_rss_mib": rss_mib,
            "generators_cpu_pct": _busiest_pct(measured),
        }

    async def _listen(self, seconds: float) -> list[Result]:
        parts: list[dict[str, Any] | None] = [{"seconds": seconds} for _ in range(len(self._fleet) - 1)]
        return await self._fleet.order("listen", [None, *parts])

    async def storm(self, connections_count: int, concurrency: int) -> Figures:
        """So many logins, concurrency at a time, none tried twice."""
        server = self._target.server
        cpu_before = server.cpu_s()
        parts = self._parts(self._names("s", connections_count))
        figures = await self._log_in("storm", parts, concurrency=concurrency, retry=False)
        cpu_s = _difference(server.cpu_s(), cpu_before)
        rss_mib = server.rss_mib()
        await self._close("storm")
        figures["server_us_per_login"] = per(cpu_s, connections_count, 1e6)
        figures["server_rss_mib"] = rss_mib
        return figures

    async def idle(self, connections_count: int, seconds: float, ping_interval_s: float) -> Figures:
        """Logged-in, silent connections: memory of each, and the CPU their PINGs take."""
        server = self._target.server
        await asyncio.sleep(SETTLE_S)
        rss_before = server.rss_mib()
        figures = await self._log_in("idle", self._parts(self._names("i", connections_count)))
        await asyncio.sleep(3 * SETTLE_S)
        rss_mib = server.rss_mib()
        self._target.say(f"{connections_count:,} idle connections for {seconds:g} s")
        cpu_before = server.cpu_s()
        measured = await self._fleet.order_all("idle", role="idle", seconds=seconds, ping_interval_s=ping_interval_s)
        cpu_s = _difference(server.cpu_s(), cpu_before)
        alive_count = _total(await self._fleet.order_all("alive", role="idle"), "alive")
        await self._close("idle")
        await asyncio.sleep(3 * SETTLE_S)
        return {
            "connections": connections_count,
            "alive": alive_count,
            "no_connack": figures["no_connack"],
            "server_kib_per_connection": per(_difference(rss_mib, rss_before), connections_count, 1024),
            "server_cpu_pct": per(cpu_s, seconds, 100),
            "server_us_per_ping": per(cpu_s, _total(measured, "pings"), 1e6),
            "server_rss_before_mib": rss_before,
            "server_rss_mib": rss_mib,
            "server_rss_after_mib": server.rss_mib(),
            "generators_cpu_pct": _busiest_pct(measured),
        }


def _turned(addresses: list[tuple[str, int]], by: int) -> list[tuple[str, int]]:
    by %= len(addresses)
    return addresses[by:] + addresses[:by]


def _total(results: Sequence[Result], name: str) -> int:
    return sum(result[name] for result in results)


def _busiest_pct(measured: Sequence[Result]) -> float | None:
    return max((100 * result["cpu_s"] / result["seconds"] for result in measured if result["seconds"]), default=None)


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
