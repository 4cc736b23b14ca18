"""What a replicated machine shows to the Raft runtime. Bytes only: the log does not know what it carries."""

from typing import NamedTuple, Protocol


class Committed(NamedTuple):
    """One committed entry, in log order per group. `data` is what `collect` returned on some node, or empty: an entry
    of the log itself (a leader's first, a membership change), which counts as applied like the others."""

    group: int
    index: int  # type: ignore[assignment]
    term: int
    data: bytes


class Machine(Protocol):
    def collect(self) -> list[tuple[int, bytes]]:
        """At the start of a step: at most one entry for each group that has something to propose (as
        (group, data)); only groups this node leads. Called again after the previous persist is done, so that
        whatever arrives while the disk is busy becomes the next entry (batching by load, no timer)."""
        ...

    def apply(self, entries: list[Committed]) -> None:
        """Apply committed entries in the given order; state and applied indexes go to the store in one batch.
        Must not raise; an exception stops the process."""
        ...

    def applied(self) -> dict[int, tuple[int, int]]:
        """group -> (index, term) of the last entry whose effect is in the store. Asked at start and before flush."""
        ...

    def flush(self) -> None:
        """Make the state durable (blocks, called in a worker thread). The runtime then drops log segments behind
        the applied indexes it read before the call."""
        ...

    def installed(self, group: int, index: int, term: int) -> None:
        """A snapshot took the place of the group's state: everything read from it before is void."""
        ...

    def leadership(self, group: int, leader: int | None, term: int) -> None:
        """The leader of a group as this node knows it changed. leader is a node id or None."""
        ...
