"""Asking all nodes at once, again and again."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import msgspec

from wukong.cli.cluster.status import ClusterStatus
from wukong.cli.top.figures import Look, Reading, Row, events, read_metrics, rows
from wukong.client.admin import AdminClient
from wukong.client.errors import ApiRefused, ApiUnavailable

TIMEOUT_S: Final = 2.0
UNAUTHORIZED: Final = 401
NODES_LIMIT: Final = 32
"""APIs that are asked; nodes beyond are shown by what the others tell of them."""


class Watch:
    """Looks at the nodes at the given URLs and at those that they name. One that fails is asked again at every look."""

    def __init__(self, urls: Sequence[str], token: str) -> None:
        if not urls:
            raise ValueError("--api is empty; give a node's address")
        self._token = token
        self._admins: dict[str, AdminClient] = {}
        self._given = list(dict.fromkeys(urls))[:NODES_LIMIT]
        self._numbers: dict[str, int] = {}
        self._look = Look()
        self._rows: list[Row] = []
        for url in self._given:
            self._add(url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for admin in self._admins.values():
            await admin.close()

    def _add(self, url: str) -> None:
        self._admins[url] = AdminClient(url, self._token or None, timeout_s=TIMEOUT_S)

    @property
    def status(self) -> ClusterStatus | None:
        return self._look.status

    async def look(self) -> tuple[list[Row], list[str]]:
        """Rows, and events since the last look. Raises ApiUnavailable if the first look finds nobody, ApiRefused if the
        nodes do not take the token."""
        answers = await asyncio.gather(*(self._ask(url, admin) for url, admin in self._admins.items()))
        readings: dict[str, Reading] = {}
        faults: dict[str, str] = {}
        statuses = []
        for url, (reading, status, fault) in zip(list(self._admins), answers, strict=True):
            if reading is None:
                faults[url] = fault
            else:
                readings[url] = reading
                self._numbers[url] = reading.node or (status.node if status is not None else 0)
            if status is not None:
                statuses.append(status)
        # Of several views the one with most nodes: who is cut off from the others sees himself alone.
        status = max(statuses, key=lambda each: sum(node.connected for node in each.nodes), default=None)
        if not readings and not self._rows:
            raise ApiUnavailable(self._given[0], "/metrics", faults[self._given[0]])
        look = Look(status=status, readings=readings, faults=faults)
        found = rows(look, self._look, self._numbers)
        news = events(look, self._look, found, self._rows)
        self._look, self._rows = look, found
        self._discover()
        return found, news

    def _discover(self) -> None:
        known = set(self._numbers.values())
        for node in self._look.status.nodes if self._look.status is not None else []:
            url = node.api_url.rstrip("/")
            if url and url not in self._admins and node.id not in known and len(self._admins) < NODES_LIMIT:
                self._add(url)
                self._numbers[url] = node.id

    async def _ask(self, url: str, admin: AdminClient) -> tuple[Reading | None, ClusterStatus | None, str]:
        try:
            text, status = await asyncio.gather(admin.call("GET", "/metrics"), self._status(admin))
            return read_metrics(text.decode(errors="replace"), time.monotonic()), status, ""
        except ApiRefused as refusal:
            if refusal.http_status == UNAUTHORIZED:
                raise
            return None, None, refusal.msg or f"it answered {refusal.http_status}"
        except ApiUnavailable as fault:
            return None, None, fault.text
        except ValueError as fault:
            return None, None, f"its figures cannot be read: {fault}"

    async def _status(self, admin: AdminClient) -> ClusterStatus | None:
        try:
            return msgspec.json.decode(await admin.call("GET", "/cluster/status"), type=ClusterStatus, strict=False)
        except ApiRefused as refusal:
            if refusal.http_status == UNAUTHORIZED:
                raise
            return None
        except (ApiUnavailable, msgspec.MsgspecError):
            return None
