"""Limits of copying slots between nodes, with units, and what is shown of a copy under way."""

from typing import NamedTuple

import msgspec

from wukong.errors import ConfigError
from wukong.limits import GIB, KIB, MIB


class SnapshotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader keeps to:

    view_limit: slots copied from here at once; followers of others wait for a heartbeat after one has ended.
    chunk_bytes, chunk_rows: keys and values of one chunk; a larger row goes alone.
    slice_rows: rows scanned, or written, in one turn of the loop.
    bytes_per_s: sent by this node, over all followers; 0 is no limit. A chunk waits until those before it are paid for.
    offer_s: an offer is repeated to a follower that has not pulled for so long.
    idle_s: a view that nobody has pulled from for so long is closed.
    view_s: and one this old in any case: it holds files and log entries.
    settle_s: the log behind a snapshot is kept so long after it was installed, to catch up from.

    What the follower keeps to:

    receive_limit: slots copied to here at once; other offers are ignored, and repeated by the leader.
    receive_bytes: rows of one slot; a larger snapshot is refused.
    retry_s, retry_max_s: a pull that is not answered is repeated after so long, doubled up to the maximum.
    give_up_s: so long without progress: the copy is given up.
    live_s: a sender that was silent for so long gives way to another one of the same term.
    refused_s: after wrong data a slot takes no offer for so long.
    slow_write_s: a write that took longer is followed by a pause of five times its length, at most a second: the disk
    is behind.
    """

    view_limit: int = 4
    chunk_bytes: int = 256 * KIB
    chunk_rows: int = 2048
    slice_rows: int = 256
    bytes_per_s: int = 32 * MIB
    offer_s: float = 1.0
    idle_s: float = 30.0
    view_s: float = 3600.0
    settle_s: float = 60.0

    receive_limit: int = 2
    receive_bytes: int = 64 * GIB
    retry_s: float = 1.0
    retry_max_s: float = 8.0
    give_up_s: float = 60.0
    live_s: float = 10.0
    refused_s: float = 5.0
    slow_write_s: float = 0.01

    def __post_init__(self) -> None:
        """Raises ConfigError if a setting cannot be."""
        faults = [
            f"{name}: must be above 0"
            for name in self.__struct_fields__
            if name != "bytes_per_s" and getattr(self, name) <= 0
        ]
        if self.bytes_per_s < 0:
            faults.append("bytes_per_s: must not be below 0")
        if self.retry_max_s >= self.idle_s:
            faults.append("retry_max_s: must be below idle_s, or views are closed between two tries")
        if faults:
            raise ConfigError(faults)


class Progress(NamedTuple):
    """A copy under way, on either side."""

    slot: int
    node: int
    """The other side."""
    sending: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    rows: int
    bytes: int
    started: float
    """Of the monotonic clock, seconds."""
