"""What the console's live pages show: the cluster's status and the figures of every node.

Gathered while somebody looks, at most once per INTERVAL_S, and shared by all who look. A node that does not answer in
time has no figures; it never holds up those of the others.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from wukong.clock import Clock
from wukong.errors import RequestRefused, Unavailable
from wukong.service.cluster import ClusterAdmin, StatusShape
from wukong.service.other_nodes import Nodes

INTERVAL_S = 2.0
ASK_TIMEOUT_S = 1.5
GATHER_TIMEOUT_S = 5.0
QUESTION = "console"
"""The name of the question that nodes ask each other; see service/other_nodes.py."""
HISTORY_QUESTION = "console-history"


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one node. sends, recvs: since its process began; webhook_*: of the slots it leads; webhook_error: "" for none
    since its process began, webhook_error_ms: when."""

    version: str = ""
    uptime_s: int = 0
    sessions: int = 0
    connections: int = 0
    sends: int = 0
    recvs: int = 0
    log_bytes: int = 0
    webhook_on: bool = False
    webhook_records: int = 0
    webhook_bytes: int = 0
    webhook_oldest_s: float = 0.0
    webhook_delivered: dict[str, int] = {}
    webhook_retried: dict[str, int] = {}
    webhook_dropped: dict[str, int] = {}
    webhook_error: str = ""
    webhook_error_ms: int = 0


class Overview(msgspec.Struct, frozen=True):
    """node: who answers. status: None while the cluster cannot be asked, `error` says why. figures: node -> its
    figures, None for a node that does not answer."""

    now_ms: int
    node: int
    status: StatusShape | None
    error: str
    figures: dict[str, NodeFigures | None]


class Feed:
    """own: this node's figures; own_history: its last 15 minutes, as /history tells them. cluster: None for a node
    without one. `stop` ends what is under way."""

    def __init__(
        self,
        *,
        own: Callable[[], NodeFigures],
        own_history: Callable[[], Any],
        cluster: ClusterAdmin | None,
        nodes: Nodes,
        clock: Clock,
    ) -> None:
        self._own = own
        self._own_history = own_history
        self._cluster = cluster
        self._nodes = nodes
        self._clock = clock
        self._round: asyncio.Task[bytes] | None = None
        self._round_at = float("-inf")
        nodes.serve(QUESTION, self._answer)
        nodes.serve(HISTORY_QUESTION, self._answer_history)

    async def stop(self) -> None:
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)

    async def current(self) -> bytes:
        """An Overview as JSON, at most INTERVAL_S old. Raises TimeoutError, also when it is stopped meanwhile."""
        now = asyncio.get_running_loop().time()
        if self._round is None or (self._round.done() and now - self._round_at >= INTERVAL_S * 0.9):
            self._round = asyncio.get_running_loop().create_task(self._gather(), name="console-feed")
            self._round_at = now
        # Whoever waits may be cancelled; the round is for the others too.
        round_ = self._round
        await asyncio.wait((round_,))
        if round_.cancelled():
            raise TimeoutError
        return round_.result()

    async def _gather(self) -> bytes:
        status: StatusShape | None = None
        error = ""
        async with asyncio.timeout(GATHER_TIMEOUT_S):
            try:
                status = await self._cluster.status() if self._cluster is not None else None
            except (RequestRefused, Unavailable) as refusal:
                error = str(refusal)
            asked = [node for node in status.nodes if node.id != self._nodes.node_id] if status is not None else []
            others = await asyncio.gather(*(self._ask(node.id) if node.connected else _nothing() for node in asked))
        figures: dict[str, NodeFigures | None] = {str(self._nodes.node_id): self._own()}
        figures.update((str(node.id), found) for node, found in zip(asked, others, strict=True))
        return msgspec.json.encode(Overview(self._clock.now_ms(), self._nodes.node_id, status, error, figures))

    async def _ask(self, node: int) -> NodeFigures | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return msgspec.json.decode(await self._nodes.ask(node, QUESTION, {}), type=NodeFigures)
        except (TimeoutError, RequestRefused, Unavailable, msgspec.DecodeError):
            return None

    async def history(self, node: int) -> bytes:
        """The last 15 minutes of a node, 0 for this one, as JSON. Raises RequestRefused, Unavailable."""
        if node in (0, self._nodes.node_id):
            return await self._answer_history({})
        if not self._nodes.is_known(node):
            raise RequestRefused(f"node {node} is not in the cluster")
        return await self._nodes.ask(node, HISTORY_QUESTION, {})

    async def _answer_history(self, args: dict[str, Any]) -> bytes:
        return msgspec.json.encode(self._own_history())

    async def _answer(self, args: dict[str, Any]) -> bytes:
        return msgspec.json.encode(self._own())


async def _nothing() -> None:
    return None
