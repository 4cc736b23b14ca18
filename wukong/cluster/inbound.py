"""What other nodes send, brought to the part it is for. The mesh lets through only nodes of this cluster."""

from collections.abc import Callable
from typing import Protocol

from wukong.cluster.formation import Facts
from wukong.raft.filter import Message


class Log(Protocol):
    """wukong.raft.runtime.Runtime"""

    def receive(self, group: int, from_node: int, message: Message) -> None: ...

    def connected(self, node: int) -> None: ...

    def disconnected(self, node: int) -> None: ...


class Streams(Protocol):
    """wukong.node.node.Node"""

    def receive_forward(self, slot: int, from_node: int, pack: object) -> None: ...

    def link_came_up(self, node: int) -> None: ...


class Snapshots(Protocol):
    """wukong.node.snapshots.Snapshots"""

    def connected(self, node: int) -> None: ...

    def received(self, from_node: int, group: int, body: object) -> None: ...


class Control(Protocol):
    """wukong.cluster.controller.Controller"""

    def connected(self, node: int) -> None: ...

    def disconnected(self, node: int) -> None: ...

    def told(self, node: int, facts: Facts) -> None: ...

    def heard(self, node: int) -> None: ...

    def received(self, node: int, body: object) -> None: ...


class Inbound:
    """wukong.cluster.mesh.Replica over the parts of this node."""

    def __init__(self, log: Log, streams: Streams, snapshots: Snapshots, control: Control) -> None:
        self._log = log
        self._streams = streams
        self._control = control
        self._heard: Callable[[int], None] = control.heard
        self._receive = log.receive
        self._snapshots = snapshots

    def connected(self, node: int) -> None:
        self._control.connected(node)
        self._log.connected(node)
        self._streams.link_came_up(node)
        self._snapshots.connected(node)

    def disconnected(self, node: int) -> None:
        self._control.disconnected(node)
        self._log.disconnected(node)

    def raft(self, node: int, group: int, body: Message) -> None:
        self._heard(node)
        self._receive(group, node, body)

    def forward(self, node: int, group: int, body: object) -> None:
        self._heard(node)
        self._streams.receive_forward(group, node, body)

    def snapshot(self, node: int, group: int, body: object) -> None:
        self._heard(node)
        self._snapshots.received(node, group, body)

    def control(self, node: int, body: object) -> None:
        self._heard(node)
        self._control.received(node, body)

    def facts(self, node: int, facts: Facts) -> None:
        self._control.told(node, facts)
