"""What one node asks another on behalf of an operator: its connections, its figures, to let go of a client.

A question is a CONTROL message over the links, which prove who speaks; so no address of an API is needed, and no token
travels. The answer is the JSON that the other node would give to the operator itself. A lost message is a time-out.

    call    id, name, args: a map of texts and numbers
    called  id, body: bytes, or refused: a text; again: whether it may be asked again
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from wukong.channel import nodes
from wukong.cluster.control import Body, number
from wukong.cluster.controller import Controller
from wukong.errors import RequestRefused, Unavailable
from wukong.service.replica import Replica

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 10.0
WAITING_LIMIT_COUNT = 256
"""Questions to others without an answer; a further one is Unavailable."""
SERVED_LIMIT_COUNT = 64
"""Questions of others being answered; a further one is refused."""

Handler = Callable[[Body], Awaitable[bytes]]
"""args to JSON. Raises RequestRefused for a question that cannot be answered."""


class Nodes(Protocol):
    """Which nodes there are besides this one, and a way to ask them."""

    @property
    def node_id(self) -> int: ...
    def is_known(self, node: int) -> bool: ...
    def serve(self, name: str, handler: Handler) -> None: ...
    async def ask(self, node: int, name: str, args: Body) -> bytes: ...


class NoOtherNodes:
    """A node without a cluster."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id

    def is_known(self, node: int) -> bool:
        return node == self.node_id

    def serve(self, name: str, handler: Handler) -> None:
        pass

    async def ask(self, node: int, name: str, args: Body) -> bytes:
        raise Unavailable(f"node {node} is not known here")


class OtherNodes:
    """Made once per controller; `stop` before the links go. timeout_s: from a question to its answer."""

    def __init__(self, controller: Controller, replica: Replica, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.node_id = controller.node_id
        self._controller = controller
        self._replica = replica
        self._timeout_s = timeout_s
        self._next_id = secrets.randbits(32)
        self._waiting: dict[tuple[int, int], asyncio.Future[Body]] = {}
        self._handlers: dict[str, Handler] = {}
        self._serving: set[asyncio.Task[None]] = set()
        controller.control.register("call", self._call)
        controller.control.register("called", self._called)

    async def stop(self) -> None:
        """Answer nobody any more."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def serve(self, name: str, handler: Handler) -> None:
        self._handlers[name] = handler

    def is_known(self, node: int) -> bool:
        """Whether it is in the cluster's table of nodes, or this one."""
        return node == self.node_id or node in nodes.table(self._replica.slot_now(0))

    async def ask(self, node: int, name: str, args: Body) -> bytes:
        """What the node answers. Raises RequestRefused as it did, and Unavailable when no answer comes in time."""
        unreachable = Unavailable(f"node {node} cannot be asked now")
        if len(self._waiting) >= WAITING_LIMIT_COUNT:
            raise Unavailable("too many questions to other nodes at once")
        self._next_id += 1
        key = node, self._next_id
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            if not self._controller.control.send(node, "call", id=self._next_id, name=name, args=args):
                raise unreachable
            async with asyncio.timeout(self._timeout_s):
                answer = await future
        except TimeoutError:
            raise unreachable from None
        finally:
            del self._waiting[key]
        body = answer.get("body")
        if not isinstance(body, bytes):
            refused = str(answer.get("refused"))
            raise Unavailable(refused) if answer.get("again") is True else RequestRefused(refused)
        return body

    # -- CONTROL messages

    def _called(self, node: int, body: Body) -> None:
        future = self._waiting.get((node, number(body, "id")))
        if future is not None and not future.done():
            future.set_result(body)

    def _call(self, node: int, body: Body) -> None:
        asked, args = number(body, "id"), body["args"]
        handler = self._handlers.get(str(body["name"]))
        if handler is None or not isinstance(args, dict):
            self._controller.control.send(node, "called", id=asked, refused="the other node does not know this")
        elif len(self._serving) >= SERVED_LIMIT_COUNT:
            self._controller.control.send(node, "called", id=asked, refused="the other node is asked too much at once")
        else:
            task = asyncio.get_running_loop().create_task(self._answer(node, asked, handler, args), name="other-node")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _answer(self, node: int, asked: int, handler: Handler, args: dict[str, Any]) -> None:
        """Ends by itself after timeout_s: nobody waits for longer."""
        told: dict[str, object]
        try:
            async with asyncio.timeout(self._timeout_s):
                told = {"body": await handler(args)}
        except (RequestRefused, Unavailable) as refusal:
            told = {"refused": str(refusal), "again": isinstance(refusal, Unavailable)}
        except TimeoutError:
            return
        except Exception:
            log.exception("a question of node %d could not be answered", node)
            told = {"refused": "internal error"}
        self._controller.control.send(node, "called", id=asked, **told)
