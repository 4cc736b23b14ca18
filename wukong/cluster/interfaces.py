"""What the control of a cluster needs from the parts it stands on: a log per slot, the replica, links."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from wukong.channel.commands import Command, Reply
from wukong.channel.state import State
from wukong.node.streams import Done
from wukong.raft.log import Change, Member, Snapshot


class Groups(Protocol):
    """The log of every slot (wukong.raft.runtime.Runtime)."""

    @property
    def group_count(self) -> int: ...

    def is_leader(self, group: int) -> bool: ...

    def leader(self, group: int) -> int | None: ...

    def term(self, group: int) -> int: ...

    def members(self, group: int) -> tuple[Member, ...]: ...

    def match_index(self, group: int, node: int) -> int: ...

    def last_index(self, group: int) -> int: ...

    def commit_index(self, group: int) -> int: ...

    def applied_index(self, group: int) -> int: ...

    def heard_s(self, group: int) -> float: ...

    def snapshot_at(self, group: int, index: int) -> Snapshot: ...

    def change_members(self, group: int, change: Change) -> bool: ...

    def transfer(self, group: int, node: int) -> bool: ...


class Replica(Protocol):
    """The applied state of every slot, and the way into its log (wukong.node.node.Node)."""

    @property
    def states(self) -> Sequence[State]: ...

    @property
    def is_live(self) -> bool: ...

    def propose(self, slot: int, command: Command, done: Done | None) -> None: ...

    async def execute(self, slot: int, command: Command) -> Reply: ...

    async def barrier(self, slots: Iterable[int], timeout_s: float = ...) -> None: ...


class Send(Protocol):
    """Links.send: False when there is no link, or it is full; then the message is lost."""

    def __call__(self, node: int, kind: int, group: int, body: object) -> bool: ...


class Facts(Protocol):
    """What a node tells of itself when a link comes up (wukong.cluster.formation)."""

    @property
    def disk(self) -> int: ...

    @property
    def cluster(self) -> int: ...

    @property
    def addr(self) -> str: ...

    @property
    def api_url(self) -> str: ...

    @property
    def join(self) -> bool: ...
