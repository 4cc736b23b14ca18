"""Keeps one outgoing link up: dial, wait until it is lost, pause, again, for ever."""

import asyncio
import logging
from collections.abc import Callable

from wukong.links.addresses import is_loopback, resolve
from wukong.links.backoff import Backoff
from wukong.links.connection import Outgoing, Shared


class Dialer:
    """To one node at one address. Its task runs from creation to `cancel` or, after `end`, the end of its link."""

    def __init__(
        self, node: int, address: tuple[str, int], shared: Shared, make: Callable[[int], Outgoing], backoff: Backoff
    ) -> None:
        self.node = node
        self.address = address
        self._shared = shared
        self._make = make
        self._backoff = backoff
        self._link: Outgoing | None = None
        self._is_ending = False
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"link to node {node}")

    def cancel(self) -> None:
        """The link, and any attempt, ends now."""
        if self._link is not None:
            self._link.abort()
        self.task.cancel()

    def end(self) -> None:
        """The link ends when what is queued on it is written; an attempt ends now."""
        if self._link is None or not self._link.is_up:
            self.cancel()
            return
        self._is_ending = True
        self._link.end()

    async def _run(self) -> None:
        while not self._is_ending:
            self._link = self._make(self.node)
            try:
                if await self._connect(self._link):
                    await self._watch(self._link)
            finally:
                self._link.abort()
            if not self._is_ending:
                await asyncio.sleep(self._backoff.next_s())

    async def _connect(self, link: Outgoing) -> bool:
        host, port = self.address
        self._shared.counters.dials += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._shared.options.connect_timeout_ms / 1000):
                if not self._shared.secret:
                    host = await self._only_loopback(host, port)
                await loop.create_connection(lambda: link, host, port)
        except Exception as fault:
            self._shared.counters.dials_failed += 1
            # Whatever it is, a node that is down or a name that cannot be one: the next attempt may find it mended.
            known = isinstance(fault, (OSError, UnicodeError))
            text = f"cannot reach node {self.node} at {self.address[0]}:{port}: {fault or type(fault).__name__}"
            self._shared.notices.say(logging.WARNING, ("dial", self.node), text, None if known else fault)
            return False
        return True

    async def _only_loopback(self, host: str, port: int) -> str:
        """The numeric address to dial. Raises OSError if it is not of this machine."""
        if is_loopback(host):
            return host
        addresses = await resolve(host, port)
        if not addresses or not all(map(is_loopback, addresses)):
            raise OSError("not a loopback address; set cluster.secret, the same on every node")
        return addresses[0]

    async def _watch(self, link: Outgoing) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await link.lost.wait()
        if not link.was_up:
            self._shared.counters.dials_failed += 1
            text = f"link to node {self.node} at {self.address[0]}:{self.address[1]} ended within its handshake"
            self._shared.notices.say(logging.INFO, ("handshake", self.node), text)
        elif loop.time() - started >= self._shared.options.backoff_max_ms / 1000:
            # Not for every link that came up: two processes with one node number would replace each other in a frenzy.
            self._backoff.reset()
