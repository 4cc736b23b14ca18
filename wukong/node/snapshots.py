"""Copying slots between nodes: both sides behind one door (docs/design/snapshots.md)."""

from collections.abc import Callable

from wukong.clock import Clock
from wukong.node.snapshot_messages import Chunk, Done, Gone, Offer, Pull, decode
from wukong.node.snapshot_options import Progress, SnapshotOptions
from wukong.node.snapshot_receiver import Install, SnapshotReceiver
from wukong.node.snapshot_sender import Send, SnapshotSender
from wukong.raft.log import Snapshot
from wukong.store.generations import Generations
from wukong.store.interface import Store


class Snapshots:
    """Sends snapshots of slots led here, takes those of others. Made stopped; `start` on the loop it then lives on.

    send: (node, slot, body) -> False if it is lost already. install, snapshot_at, term_of, applied_index: of the log.
    Chance, threads and real time are not used; given clock, loop and messages it always does the same.
    """

    def __init__(
        self,
        *,
        slot_count: int,
        store: Store,
        generations: Generations,
        send: Send,
        install: Install,
        snapshot_at: Callable[[int, int], Snapshot],
        term_of: Callable[[int], int],
        applied_index: Callable[[int], int],
        clock: Clock,
        options: SnapshotOptions | None = None,
    ) -> None:
        options = options or SnapshotOptions()
        self._slot_count = slot_count
        self.sender = SnapshotSender(store, generations.prefix, snapshot_at, term_of, send, clock, options)
        self.receiver = SnapshotReceiver(store, generations, send, install, applied_index, clock, options)
        self.malformed = 0
        """Messages that were none."""

    def start(self) -> None:
        self.sender.start()
        self.receiver.start()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Close all views and take nothing more. Stop the log first: it ends an installation under way."""
        self.sender.stop()
        await self.receiver.stop(timeout_s)

    def needed(self, slot: int, node: int) -> None:
        """See `SnapshotSender.needed`: the runtime's `snapshot_needed`."""
        self.sender.needed(slot, node)

    def pinned_index(self, slot: int) -> int | None:
        """See `SnapshotSender.pinned_index`: the runtime's `pinned`."""
        return self.sender.pinned_index(slot)

    def connected(self, node: int) -> None:
        self.receiver.connected(node)

    def received(self, from_node: int, slot: int, body: object) -> None:
        """A message of another node. What is none is counted and ignored."""
        message = decode(body) if 0 <= slot < self._slot_count else None
        if message is None:
            self.malformed += 1
        elif isinstance(message, Offer):
            self.receiver.offered(from_node, slot, message)
        elif isinstance(message, Chunk):
            self.receiver.received(from_node, slot, message)
        elif isinstance(message, Pull):
            self.sender.pulled(from_node, slot, message)
        elif isinstance(message, Gone):
            self.receiver.gone(from_node, slot, message)
        else:
            assert isinstance(message, Done)
            self.sender.done(from_node, slot, message)

    def progress(self) -> list[Progress]:
        """Copies under way, first those from here."""
        return self.sender.progress() + self.receiver.progress()
